"""Roles of parameters. Initialisation and weight decay depend on the role, so swapping a component keeps them equal.

embedding   the token table, even if the head shares it
position    a table of positions
input       a matrix that reads the residual stream
gate        the gate of a gated FFN
residual    a matrix whose output is added to the residual stream
head        the output matrix, if it is not the token table
gain, bias  vectors and scalars
"""

from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

Role = Literal["embedding", "position", "input", "gate", "residual", "head", "gain", "bias"]
P = TypeVar("P", bound=Tensor)
ROLES: tuple[Role, ...] = get_args(Role)
HIDDEN: tuple[Role, ...] = ("input", "gate", "residual")  # matrices inside the blocks, which Muon updates
MATRICES: tuple[Role, ...] = (*HIDDEN, "head")  # matrices with weight decay


def tag(parameter: P, role: Role, *, gain: float = 1.0) -> P:
    """Give a parameter its role. `gain` makes up for the non-linearity before it (arXiv:1502.01852, section 2.2)."""
    parameter.role, parameter.gain = role, gain  # type: ignore[attr-defined]
    return parameter


def role_of(parameter: Tensor) -> Role:
    """Return the parameter's role. An untagged matrix counts as "input", anything smaller as "gain"."""
    return getattr(parameter, "role", "input" if parameter.ndim >= 2 else "gain")


def lr_scale_of(parameter: Tensor) -> float:
    """Return the factor of the parameter's learning rate, which an `init` such as mup sets; 1 by default."""
    return getattr(parameter, "lr_scale", 1.0)


class Linear(nn.Linear):
    """torch's linear layer with a role: (..., n_in) -> (..., n_out)."""

    def __init__(self, n_in: int, n_out: int, bias: bool = True, *, role: Role = "input", gain: float = 1.0):
        super().__init__(n_in, n_out, bias=bias)
        tag(self.weight, role, gain=gain)
        if bias:
            nn.init.zeros_(tag(self.bias, "bias"))
            self.bias.fan_in = n_in  # type: ignore[attr-defined]

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:  # drawing nothing on the meta device is slow
            super().reset_parameters()


def table(n_rows: int, width: int, role: Role, *, std: float = 1.0) -> nn.Parameter:
    """Return a table of learned vectors, (n_rows, width), drawn from N(0, std) until an `init` draws it."""
    weight = nn.Parameter(torch.empty(n_rows, width))
    if not weight.is_meta:  # drawing nothing on the meta device imports torch's compiler
        nn.init.normal_(weight, std=std)
    return tag(weight, role)
