"""Normalisation of the last dimension: (..., C) -> (..., C).

learnable       false: no gain and no bias (OLMo).
zero_centered   the gain is 1 + the parameter, which starts at 0, where weight decay pulls it (Gemma, arXiv:2403.08295).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.components.parameters import tag
from gptlab.registry import register


class _Scaled(nn.Module):
    """What normalises and then has a gain for every channel."""

    def __init__(self, dim: int, eps: float, learnable: bool, zero_centered: bool):
        super().__init__()
        if eps < 0:
            raise ValueError(f"eps={eps}: must not be negative")
        if zero_centered and not learnable:
            raise ValueError("zero_centered=true: without a gain there is nothing to centre; set learnable=true")
        self.dim, self.eps, self.zero_centered = dim, eps, zero_centered
        start = torch.zeros(dim) if zero_centered else torch.ones(dim)
        self.gain = tag(nn.Parameter(start), "gain") if learnable else None

    def scale(self) -> Tensor | None:
        """What the normalised channels are multiplied by, (C,)."""
        return 1 + self.gain if self.zero_centered and self.gain is not None else self.gain


@register("norm", "layernorm", source="arXiv:1607.06450")
class LayerNorm(_Scaled):
    """(x - mean) / sqrt(var + eps) * gain + bias, over the width."""

    def __init__(
        self, dim: int, *, eps: float = 1e-5, learnable: bool = True, bias: bool = True, zero_centered: bool = False
    ):
        super().__init__(dim, eps, learnable, zero_centered)
        self.bias = tag(nn.Parameter(torch.zeros(dim)), "bias") if learnable and bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.dim,), self.scale(), self.bias, self.eps)


@register("norm", "rmsnorm", source="arXiv:1910.07467")
class RMSNorm(_Scaled):
    """x / sqrt(mean(x^2) + eps) * gain: no centring and, as published, no bias."""

    def __init__(self, dim: int, *, eps: float = 1e-5, learnable: bool = True, zero_centered: bool = False):
        super().__init__(dim, eps, learnable, zero_centered)

    def forward(self, x: Tensor) -> Tensor:
        if self.gain is not None:
            x = x.to(self.gain.dtype)  # they differ under autocast, which the fused kernel cannot take
        return F.rms_norm(x, (self.dim,), self.scale(), self.eps)


@register("norm", "dyt", source="arXiv:2503.10622")
class DyT(nn.Module):
    """tanh(alpha * x) * gain + bias: squashes instead of normalising; alpha is one learned number."""

    def __init__(self, dim: int, *, alpha: float = 0.5, bias: bool = True):
        super().__init__()
        self.alpha = tag(nn.Parameter(torch.full((1,), alpha)), "gain")
        self.gain = tag(nn.Parameter(torch.ones(dim)), "gain")
        self.bias = tag(nn.Parameter(torch.zeros(dim)), "bias") if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.alpha * x) * self.gain
        return y if self.bias is None else y + self.bias


@register("norm", "none")
class NoNorm(nn.Module):
    """x as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return x
