"""An optimizer of your own, selected with `optimizer=my_optimizer`."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gptlab import register
from gptlab.model.roles import MATRICES, role_of


class Signum(torch.optim.Optimizer):
    """p <- p - lr * (sign(m) + weight_decay * p), with m the moving average of the gradient."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float):
        super().__init__(groups, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. Training sets `group["lr"]` before each call."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("m", torch.zeros_like(p))  # what is in `state` is checkpointed
                m.lerp_(p.grad, 1 - group["momentum"])
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(m.sign(), alpha=group["lr"])


@register("optimizer", "my_optimizer", source="arXiv:1802.04434, algorithm 2")
class MyOptimizer:
    """The sign of the gradient's moving average (Signum), with decoupled weight decay."""

    # Everything is a setting: parameters after `*`, with a type and a default. `optimizer.momentum=0.95` sets this one.
    # `lr` is required: it is the peak of the schedule.
    def __init__(self, *, lr: float = 3e-4, momentum: float = 0.9, weight_decay: float = 0.1):
        if lr <= 0:
            raise ValueError(f"lr={lr}: must be above 0")  # reported as optimizer.lr=..., with exit code 2
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay

    def build(self, parameters: Iterable[nn.Parameter]) -> list[torch.optim.Optimizer]:
        """Return the optimizers, which divide the parameters among them. Only matrices are decayed."""
        decayed, others = list[nn.Parameter](), list[nn.Parameter]()
        for p in parameters:
            (decayed if role_of(p) in MATRICES else others).append(p)
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return [Signum([g for g in groups if g["params"]], self.lr, self.momentum)]

    def slots(self, p: Tensor) -> int:
        """Return how many float32 numbers the optimizer keeps for each element of the parameter."""
        return 1
