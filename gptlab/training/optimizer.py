"""Optimizers. An option turns parameters into a list of torch.optim.Optimizer, with weight decay by role.

Matrices are decayed; norms, biases and embeddings are not, unless `decay=all`. `slots(p)` says how many float32 tensors
of state a parameter costs. `elementwise` marks optimizers whose step changes each weight by about the learning rate,
however large its gradient; an init with learning rates by role (mup) needs one.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gptlab.config.registry import register
from gptlab.model.roles import HIDDEN, MATRICES, lr_scale_of, role_of

Decay = Literal["matrices", "all"]
Group = dict[str, Any]  # params, lr, lr_scale, weight_decay and the optimizer's own settings


class FusedOptimizer(Optimizer):
    """Base of optimizers around torch's fused updates.

    torch's own optimizers import its compiler when constructed, which takes longer than the rest of the start-up.
    The methods that do so are replaced here by the functions that they wrap. `lr_scale` of a group multiplies its
    learning rate, so that schedulers can set one `lr` for all groups.
    """

    def __init__(self, groups: list[Group], lr: float, **settings: Any):
        super().__init__(groups, {"lr": lr, "lr_scale": 1.0, "weight_decay": 0.0, **settings})

    def add_param_group(self, param_group: Group) -> None:
        Optimizer.add_param_group.__wrapped__(self, param_group)  # type: ignore[attr-defined]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, whatever `set_to_none` says."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            if params := [p for p in group["params"] if p.grad is not None]:
                scaled = {**group, "lr": group["lr"] * group["lr_scale"]}
                self.update(scaled, params, [p.grad for p in params])

    def update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        """Update the parameters of a group in place, with the learning rate `group["lr"]`."""
        raise NotImplementedError

    def state_of(self, params: Sequence[Tensor], name: str) -> list[Tensor]:
        """Return the state `name` of each parameter: a tensor of its shape, zero at first."""
        for p in params:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in params]


def _groups(parameters: Iterable[nn.Parameter], weight_decay: float, decay: str) -> list[Group]:
    """Return the parameter groups: with and without decay, each for every factor of the learning rate.

    A step decays a weight by lr * weight_decay, whatever the factor (mup's MuAdamW).
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
        groups = _groups(parameters, self.weight_decay, self.decay)
        return [FusedAdamW(groups, self.lr, betas=self.betas, eps=self.eps)]

    def slots(self, p: Tensor) -> int:
        return 2


class FusedAdamW(FusedOptimizer):
    """The same as torch.optim.AdamW(fused=True)."""

    def __init__(self, groups: list[Group], lr: float, *, betas: tuple[float, float], eps: float):
        super().__init__(groups, lr, betas=betas, eps=eps, fused=True)  # so load_state_dict moves `step` to the device

    def update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        for p in params:
            if "step" not in self.state[p]:  # a new tensor in every step would be a kernel launch each
                self.state[p]["step"] = torch.zeros((), device=p.device)
        steps = [self.state[p]["step"] for p in params]
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            *(params, grads, self.state_of(params, "exp_avg"), self.state_of(params, "exp_avg_sq"), [], steps),
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            amsgrad=False,
            maximize=False,
        )


@register("optimizer", "sgd", source="torch.optim.SGD")
class SGD:
    """Stochastic gradient descent with momentum; weight decay is coupled, that is, an L2 penalty."""

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
        return [FusedSGD(groups, self.lr, momentum=self.momentum, nesterov=self.nesterov)]

    def slots(self, p: Tensor) -> int:
        return 1 if self.momentum else 0


class FusedSGD(FusedOptimizer):
    """g <- g + weight_decay * p;  m <- momentum * m + g;  p <- p - lr * m. The same as torch.optim.SGD."""

    def update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        directions = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
        if group["momentum"]:
            momenta = self.state_of(params, "momentum_buffer")
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, directions)
            if group["nesterov"]:
                torch._foreach_add_(directions, momenta, alpha=group["momentum"])
            else:
                directions = momenta
        torch._foreach_add_(params, directions, alpha=-group["lr"])


@register("optimizer", "muon", source="https://kellerjordan.github.io/posts/muon")
class Muon:
    """Orthogonalised momentum for the matrices of the blocks, AdamW for everything else.

    Updates are scaled to the RMS of AdamW's (arXiv:2502.16982, equation 4), so that one learning rate serves both.
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
        return [muon, FusedAdamW(rest, self.lr, betas=self.betas, eps=self.eps)]

    def slots(self, p: Tensor) -> int:
        return 1 if self._takes(p) else 2


@register("optimizer", "lion", source="arXiv:2302.06675, algorithm 2")
class Lion:
    """The sign of an interpolation between momentum and gradient, with decoupled weight decay."""

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
        return [FusedLion(_groups(parameters, self.weight_decay, self.decay), self.lr, betas=self.betas)]

    def slots(self, p: Tensor) -> int:
        return 1


class FusedLion(FusedOptimizer):
    """p <- p - lr * (sign(b1 * m + (1 - b1) * g) + weight_decay * p);  m <- b2 * m + (1 - b2) * g."""

    def update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        momenta = self.state_of(params, "momentum")
        directions = [m.lerp(g, 1 - beta1).sign_() for m, g in zip(momenta, grads, strict=True)]
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, directions, alpha=-group["lr"])
        torch._foreach_lerp_(momenta, grads, 1 - beta2)
