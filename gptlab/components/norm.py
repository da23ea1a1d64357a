"""Normalisation of the last dimension: (..., C) -> (..., C). Bias off leaves the gain alone."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.components.parameters import tag
from gptlab.registry import register


def _gain_and_bias(dim: int, bias: bool, learnable: bool) -> tuple[nn.Parameter | None, nn.Parameter | None]:
    gain = tag(nn.Parameter(torch.ones(dim)), "gain") if learnable else None
    shift = tag(nn.Parameter(torch.zeros(dim)), "bias") if learnable and bias else None
    return gain, shift


def _check_eps(eps: float) -> None:
    if eps < 0:
        raise ValueError(f"eps={eps}: must not be negative")


@register("norm", "layernorm", source="arXiv:1607.06450")
class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * gain + bias, over the width."""

    def __init__(self, dim: int, bias: bool, *, eps: float = 1e-5, learnable: bool = True):
        super().__init__()
        _check_eps(eps)
        self.dim, self.eps = dim, eps
        self.gain, self.bias = _gain_and_bias(dim, bias, learnable)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.dim,), self.gain, self.bias, self.eps)


@register("norm", "rmsnorm", source="arXiv:1910.07467")
class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * gain: no centring and, as published, no bias."""

    def __init__(self, dim: int, *, eps: float = 1e-5, learnable: bool = True):
        super().__init__()
        _check_eps(eps)
        self.dim, self.eps = dim, eps
        self.gain, _ = _gain_and_bias(dim, False, learnable)

    def forward(self, x: Tensor) -> Tensor:
        if self.gain is not None:
            x = x.to(self.gain.dtype)  # they differ under autocast, which the fused kernel cannot take
        return F.rms_norm(x, (self.dim,), self.gain, self.eps)


@register("norm", "dyt", source="arXiv:2503.10622")
class DyT(nn.Module):
    """tanh(alpha * x) * gain + bias: squashes instead of normalising; alpha is one learned scalar."""

    def __init__(self, dim: int, bias: bool, *, alpha: float = 0.5):
        super().__init__()
        self.alpha = tag(nn.Parameter(torch.tensor(alpha)), "gain")
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
