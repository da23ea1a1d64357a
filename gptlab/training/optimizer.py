"""Optimizers. An option turns parameters into a list of steppers, or of torch's optimizers, with weight decay by role.

Matrices are decayed; norms, biases and embeddings are not, unless `decay=all`.
`slots` says how many float32 numbers of state a parameter costs. `elementwise`: a step changes each weight by about the
learning rate, however large the gradient; an init with learning rates by role (mup) is for those.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from gptlab.config.registry import register
from gptlab.model.roles import HIDDEN, MATRICES, lr_scale_of, role_of

Decay = Literal["matrices", "all"]
Group = dict[str, Any]  # params, lr, weight_decay, lr_scale


class Optimizer(Protocol):
    """What training needs of an optimizer; torch's own have it."""

    param_groups: list[Group]
    state: Any  # {parameter: {name: tensor or number}}

    def step(self) -> Any: ...

    def zero_grad(self) -> None: ...


class Stepper:
    """An Optimizer around one of torch's fused updates, without torch.optim.Optimizer.

    Making one of those imports torch's compiler, which takes longer than all else before the first step.
    """

    def __init__(self, groups: list[Group], lr: float):
        self.param_groups = [{"lr_scale": 1.0, **group, "lr": lr} for group in groups]
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            if params := [p for p in group["params"] if p.grad is not None]:
                scaled = {**group, "lr": group["lr"] * group["lr_scale"]}
                self.update(scaled, params, [p.grad for p in params])

    def update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        raise NotImplementedError

    def slot(self, name: str, params: Sequence[Tensor]) -> list[Tensor]:
        """A tensor of state for each parameter, of its shape and zero at first."""
        for p in params:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in params]

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None


def _groups(parameters: Iterable[nn.Parameter], weight_decay: float, decay: str) -> list[Group]:
    """Parameter groups: the decayed and the others, each for every scale of the learning rate.

    The decay of a step is lr * weight_decay, which a scale of the learning rate leaves as it is (mup's MuAdamW).
    """
    groups: dict[tuple[bool, float], Group] = {}
    for p in parameters:
        spared, scale = decay != "all" and role_of(p) not in MATRICES, lr_scale_of(p)
        new = {"params": [], "weight_decay": 0.0 if spared else weight_decay / scale, "lr_scale": scale}
        groups.setdefault((spared, scale), new)["params"].append(p)
    return [groups[key] for key in sorted(groups)]


def _check(lr: float, weight_decay: float, **betas: float) -> None:
    if lr <= 0:
        raise ValueError(f"lr={lr}: must be above 0")
    if weight_decay < 0:
        raise ValueError(f"weight_decay={weight_decay}: must not be negative")
    for name, beta in betas.items():
        if not 0 <= beta < 1:
            raise ValueError(f"{name}={beta}: must be at least 0 and below 1")


@register("optimizer", "adamw", source="arXiv:1711.05101")
class AdamW:
    """Adam with decoupled weight decay."""

    elementwise = True

    def __init__(
        self,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        beta1: float = 0.9,
        beta2: float = 0.99,
        eps: float = 1e-8,
        decay: Decay = "matrices",
    ):
        _check(lr, weight_decay, beta1=beta1, beta2=beta2)
        self.lr, self.weight_decay, self.betas, self.eps, self.decay = lr, weight_decay, (beta1, beta2), eps, decay

    def build(self, parameters: Iterable[nn.Parameter]) -> list[Optimizer]:
        return [AdamWStepper(_groups(parameters, self.weight_decay, self.decay), self.lr, self.betas, self.eps)]

    def slots(self, p: Tensor) -> int:
        return 2


class AdamWStepper(Stepper):
    """torch.optim.AdamW(fused=True)"""

    def __init__(self, groups: list[Group], lr: float, betas: tuple[float, float], eps: float):
        super().__init__(groups, lr)
        self.betas, self.eps = betas, eps

    def update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        for p in params:
            self.state[p].setdefault("step", torch.zeros((), device=p.device))
        steps = [self.state[p]["step"] for p in params]
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            *(params, grads, self.slot("exp_avg", params), self.slot("exp_avg_sq", params), [], steps),
            lr=group["lr"],
            beta1=self.betas[0],
            beta2=self.betas[1],
            eps=self.eps,
            weight_decay=group["weight_decay"],
            amsgrad=False,
            maximize=False,
        )


@register("optimizer", "sgd", source="torch.optim.SGD")
class SGD:
    """Stochastic gradient descent with momentum; weight decay is coupled, an L2 penalty."""

    def __init__(
        self,
        *,
        lr: float = 0.1,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        nesterov: bool = False,
        decay: Decay = "matrices",
    ):
        _check(lr, weight_decay, momentum=momentum)
        if nesterov and not momentum:
            raise ValueError("nesterov=true: needs a momentum above 0")
        self.lr, self.weight_decay, self.decay = lr, weight_decay, decay
        self.momentum, self.nesterov = momentum, nesterov

    def build(self, parameters: Iterable[nn.Parameter]) -> list[Optimizer]:
        groups = _groups(parameters, self.weight_decay, self.decay)
        return [SGDStepper(groups, self.lr, self.momentum, self.nesterov)]

    def slots(self, p: Tensor) -> int:
        return 1 if self.momentum else 0


class SGDStepper(Stepper):
    """torch.optim.SGD: g <- g + weight_decay * p;  m <- momentum * m + g;  p <- p - lr * m"""

    def __init__(self, groups: list[Group], lr: float, momentum: float, nesterov: bool):
        super().__init__(groups, lr)
        self.momentum, self.nesterov = momentum, nesterov

    def update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        directions = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
        if self.momentum:
            momenta = self.slot("momentum_buffer", params)
            torch._foreach_mul_(momenta, self.momentum)
            torch._foreach_add_(momenta, directions)
            if self.nesterov:
                torch._foreach_add_(directions, momenta, alpha=self.momentum)
            else:
                directions = momenta
        torch._foreach_add_(params, directions, alpha=-group["lr"])


@register("optimizer", "muon", source="https://kellerjordan.github.io/posts/muon")
class Muon:
    """Orthogonalised momentum for the blocks' matrices, AdamW for everything else.

    Updates are scaled to AdamW's RMS (arXiv:2502.16982, equation 4), so that one learning rate serves both.
    """

    def __init__(
        self,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        beta1: float = 0.9,
        beta2: float = 0.99,
        eps: float = 1e-8,
        decay: Decay = "matrices",
    ):
        _check(lr, weight_decay, momentum=momentum, beta1=beta1, beta2=beta2)
        self.lr, self.weight_decay, self.decay = lr, weight_decay, decay
        self.momentum, self.nesterov = momentum, nesterov
        self.betas, self.eps = (beta1, beta2), eps

    @staticmethod
    def _takes(p: Tensor) -> bool:
        return p.ndim == 2 and role_of(p) in HIDDEN

    def build(self, parameters: Iterable[nn.Parameter]) -> list[Optimizer]:
        parameters = list(parameters)
        rest = _groups([p for p in parameters if not self._takes(p)], self.weight_decay, self.decay)
        muon = torch.optim.Muon(
            [p for p in parameters if self._takes(p)],
            lr=self.lr,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
            adjust_lr_fn="match_rms_adamw",
        )
        return [muon, AdamWStepper(rest, self.lr, self.betas, self.eps)]

    def slots(self, p: Tensor) -> int:
        return 1 if self._takes(p) else 2


@register("optimizer", "lion", source="arXiv:2302.06675, algorithm 2")
class Lion:
    """The sign of an interpolation between momentum and gradient."""

    elementwise = True

    def __init__(
        self,
        *,
        lr: float = 1e-4,
        weight_decay: float = 1.0,
        beta1: float = 0.9,
        beta2: float = 0.99,
        decay: Decay = "matrices",
    ):
        _check(lr, weight_decay, beta1=beta1, beta2=beta2)
        self.lr, self.weight_decay, self.betas, self.decay = lr, weight_decay, (beta1, beta2), decay

    def build(self, parameters: Iterable[nn.Parameter]) -> list[Optimizer]:
        return [LionStepper(_groups(parameters, self.weight_decay, self.decay), self.lr, self.betas)]

    def slots(self, p: Tensor) -> int:
        return 1


class LionStepper(Stepper):
    """p <- p - lr * (sign(b1 * m + (1 - b1) * g) + weight_decay * p);  m <- b2 * m + (1 - b2) * g"""

    def __init__(self, groups: list[Group], lr: float, betas: tuple[float, float]):
        super().__init__(groups, lr)
        self.betas = betas

    def update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        beta1, beta2 = self.betas
        momenta = self.slot("momentum", params)
        directions = [m.lerp(g, 1 - beta1).sign_() for m, g in zip(momenta, grads, strict=True)]
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, directions, alpha=-group["lr"])
        torch._foreach_lerp_(momenta, grads, 1 - beta2)
