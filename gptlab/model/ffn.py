"""Feed-forward networks: (B, T, C) -> (B, T, C) through a hidden width F.

Plain: down(act(up(x))), with F = expansion * C. Gated: down(act(gate(x)) * up(x)), with two thirds of that F, so that
its three matrices have as many parameters as the plain one's two (arXiv:2002.05202, section 2).

expansion     hidden width F as a multiple of C, for a plain FFN.
multiple_of   round F to a multiple of this.
hidden        F itself; null: by expansion.
bias          add a bias to every matrix.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config.registry import register
from gptlab.model.dropout import Dropout
from gptlab.model.roles import Linear

Activation = Callable[[Tensor], Tensor]
GLU = "arXiv:2002.05202"


def relu2(x: Tensor) -> Tensor:
    """Return relu(x)^2."""
    return F.relu(x).square()


def identity(x: Tensor) -> Tensor:
    """Return x unchanged."""
    return x


def gelu_tanh(x: Tensor) -> Tensor:
    """Return gelu(x) by the tanh approximation."""
    return F.gelu(x, approximate="tanh")


@functools.cache
def gain_of(activation: Activation) -> float:
    """Return 1 / sqrt(E[act(z)^2]) for z ~ N(0, 1), integrated numerically in float64. It is sqrt(2) for ReLU."""
    z = torch.linspace(-12, 12, 240_001, dtype=torch.float64, device="cpu")
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return float(torch.trapezoid(activation(z).square() * density, z) ** -0.5)


def hidden_width(dim: int, share: float, expansion: float, multiple_of: int, hidden: int | None) -> int:
    """Return `hidden`, or else the multiple of `multiple_of` that is nearest to share * expansion * dim."""
    if hidden is not None:
        if hidden < 1:
            raise ValueError(f"hidden={hidden}: must be at least 1")
        return hidden
    if expansion <= 0:
        raise ValueError(f"expansion={expansion}: must be above 0")
    if multiple_of < 1:
        raise ValueError(f"multiple_of={multiple_of}: must be at least 1")
    return max(1, round(share * expansion * dim / multiple_of)) * multiple_of


class FeedForward(nn.Module):
    """Base of plain and gated FFNs: the matrices, with `activation` as the non-linearity."""

    activation: ClassVar[Any]
    gated: ClassVar[bool]

    def __init__(
        self,
        dim: int,
        dropout: float = 0.0,
        *,
        expansion: float = 4.0,
        multiple_of: int = 8,
        hidden: int | None = None,
        bias: bool = True,
    ):
        super().__init__()
        width = hidden_width(dim, 2 / 3 if self.gated else 1, expansion, multiple_of, hidden)
        if self.gated:
            self.gate = Linear(dim, width, bias, role="gate")
        self.up = Linear(dim, width, bias)
        self.down = Linear(width, dim, bias, role="residual", gain=gain_of(self.activation))
        self.dropout = Dropout(dropout)


class Plain(FeedForward):
    """down(act(up(x)))."""

    gated = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        h = self.activation(self.up(x))  # (B, T, F)
        return self.dropout(self.down(h))


class Gated(FeedForward):
    """down(act(gate(x)) * up(x))."""

    gated = True

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        h = self.activation(self.gate(x)) * self.up(x)  # (B, T, F)
        return self.dropout(self.down(h))


@register("ffn", "relu", source="arXiv:1706.03762")
class ReLU(Plain):
    """down(relu(up(x)))."""

    activation = staticmethod(F.relu)


@register("ffn", "gelu", source="arXiv:1606.08415")
class GELU(Plain):
    """down(gelu(up(x))), with the exact (erf) GELU."""

    activation = staticmethod(F.gelu)


@register("ffn", "gelu_tanh", source="arXiv:1606.08415")
class GELUTanh(Plain):
    """down(gelu(up(x))), with the tanh approximation that GPT-2 was trained with."""

    activation = staticmethod(gelu_tanh)


@register("ffn", "silu", source="arXiv:1702.03118")
class SiLU(Plain):
    """down(silu(up(x)))."""

    activation = staticmethod(F.silu)


@register("ffn", "relu2", source="arXiv:2109.08668")
class ReLU2(Plain):
    """down(relu(up(x))^2), from Primer."""

    activation = staticmethod(relu2)


@register("ffn", "glu", source=GLU)
class SigmoidGLU(Gated):
    """down(sigmoid(gate(x)) * up(x))."""

    activation = staticmethod(torch.sigmoid)


@register("ffn", "reglu", source=GLU)
class ReGLU(Gated):
    """down(relu(gate(x)) * up(x))."""

    activation = staticmethod(F.relu)


@register("ffn", "geglu", source=GLU)
class GEGLU(Gated):
    """down(gelu(gate(x)) * up(x)), with the exact (erf) GELU."""

    activation = staticmethod(F.gelu)


@register("ffn", "geglu_tanh", source="arXiv:2408.00118")
class GEGLUTanh(Gated):
    """down(gelu(gate(x)) * up(x)), with the tanh approximation, as in Gemma."""

    activation = staticmethod(gelu_tanh)


@register("ffn", "swiglu", source=GLU)
class SwiGLU(Gated):
    """down(silu(gate(x)) * up(x)), as in PaLM and Llama."""

    activation = staticmethod(F.silu)


@register("ffn", "bilinear", source=GLU)
class Bilinear(Gated):
    """down(gate(x) * up(x)), a gate without a non-linearity."""

    activation = staticmethod(identity)
