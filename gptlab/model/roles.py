"""Roles of parameters. Initialisation and weight decay go by role, so swapping a component never changes them.

embedding   the token table, also when the head shares it
position    a table of positions
input       a matrix that reads the stream
gate        the gate of a gated FFN
residual    a matrix whose output is added to the stream
head        the output matrix, when it is not the token table
gain, bias  vectors and scalars
"""

from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

Role = Literal["embedding", "position", "input", "gate", "residual", "head", "gain", "bias"]
P = TypeVar("P", bound=Tensor)
ROLES: tuple[Role, ...] = get_args(Role)
HIDDEN: tuple[Role, ...] = ("input", "gate", "residual")  # matrices within the blocks: what Muon takes
MATRICES: tuple[Role, ...] = (*HIDDEN, "head")  # decayed


def tag(parameter: P, role: Role, *, gain: float = 1.0) -> P:
    """Give a parameter its role; `gain` makes up for the non-linearity it reads (arXiv:1502.01852, section 2.2)."""
    parameter.role, parameter.gain = role, gain  # type: ignore[attr-defined]
    return parameter


def role_of(parameter: Tensor) -> Role:
    """Its role. Of an untagged one, by shape: a matrix reads the stream, anything smaller is a gain."""
    return getattr(parameter, "role", "input" if parameter.ndim >= 2 else "gain")


def lr_scale_of(parameter: Tensor) -> float:
    """What its learning rate is multiplied by: what an `init` with learning rates by role gave it, else 1."""
    return getattr(parameter, "lr_scale", 1.0)


class Linear(nn.Linear):
    """torch's linear layer with a role. (..., n_in) -> (..., n_out)"""

    def __init__(self, n_in: int, n_out: int, bias: bool, *, role: Role = "input", gain: float = 1.0):
        super().__init__(n_in, n_out, bias=bias)
        tag(self.weight, role, gain=gain)
        if bias:
            nn.init.zeros_(tag(self.bias, "bias"))
            self.bias.fan_in = n_in  # type: ignore[attr-defined]

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:  # there it would draw nothing, slowly
            super().reset_parameters()


def table(n_rows: int, width: int, role: Role, *, std: float = 1.0) -> nn.Parameter:
    """A learned vector for each row, (n_rows, width), from N(0, std) as long as no `init` draws it."""
    weight = nn.Parameter(torch.empty(n_rows, width))
    if not weight.is_meta:  # there it would draw nothing, and import torch's compiler for it
        nn.init.normal_(weight, std=std)
    return tag(weight, role)
