"""Normalisation: (..., C) -> (..., C). All norms but batchnorm work on each position alone.

Which values share a mean and a variance, on two windows of two positions with C = 3 and eps = 0, in training:

                             x          layernorm: of each row     batchnorm: of each column
    window 0, position 0     1  3  8    -1.019  -0.340   1.359     -1.000  -0.447   1.000
    window 0, position 1     1  5  6    -1.389   0.463   0.926     -1.000   0.447   0.333
    window 1, position 0     5  1  6     0.463  -1.389   0.926      1.000  -1.342   0.333
    window 1, position 1     5  7  0     0.340   1.019  -1.359      1.000   1.342  -1.667

learnable       false: no gain and no bias (OLMo).
zero_centered   the gain is 1 + a parameter that starts at 0, so that weight decay pulls the gain to 1 (Gemma,
                arXiv:2403.08295).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config.registry import register
from gptlab.model.roles import tag


class _Scaled(nn.Module):
    """Base of norms with a gain for every channel."""

    def __init__(self, dim: int, eps: float, learnable: bool, zero_centered: bool):
        super().__init__()
        if eps < 0:
            raise ValueError(f"eps={eps}: must not be negative")
        if zero_centered and not learnable:
            raise ValueError("zero_centered=true: needs a gain to centre; set learnable=true")
        self.dim, self.eps, self.zero_centered = dim, eps, zero_centered
        start = torch.zeros(dim) if zero_centered else torch.ones(dim)
        self.gain = tag(nn.Parameter(start), "gain") if learnable else None

    def scale(self) -> Tensor | None:
        """Return the factors of the normalised channels, (C,); None if there are none."""
        return 1 + self.gain if self.zero_centered and self.gain is not None else self.gain


@register("norm", "layernorm", source="arXiv:1607.06450")
class LayerNorm(_Scaled):
    """(x - mean) / sqrt(var + eps) * gain + bias, with mean and variance over the width."""

    def __init__(
        self, dim: int, *, eps: float = 1e-5, learnable: bool = True, bias: bool = True, zero_centered: bool = False
    ):
        super().__init__(dim, eps, learnable, zero_centered)
        self.bias = tag(nn.Parameter(torch.zeros(dim)), "bias") if learnable and bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return F.layer_norm(x, (self.dim,), self.scale(), self.bias, self.eps)


@register("norm", "rmsnorm", source="arXiv:1910.07467")
class RMSNorm(_Scaled):
    """x / sqrt(mean(x^2) + eps) * gain, without centring and, as published, without bias."""

    def __init__(self, dim: int, *, eps: float = 1e-5, learnable: bool = True, zero_centered: bool = False):
        super().__init__(dim, eps, learnable, zero_centered)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        if self.gain is not None:
            x = x.to(self.gain.dtype)  # they differ under autocast, and the fused kernel needs one type
        return F.rms_norm(x, (self.dim,), self.scale(), self.eps)


@register("norm", "batchnorm", source="arXiv:1502.03167")
class BatchNorm(_Scaled):
    """(x - mean) / sqrt(var + eps) * gain + bias, with mean and variance of each channel over batch and positions.

    In training, mean and variance are those of the forward pass (of one micro-batch), and running averages are kept:
    new = (1 - momentum) old + momentum current, with the unbiased variance. Evaluation uses the averages, so that each
    position is independent of the others.

    Leak: in training every position depends on all positions of the batch, including later ones, whose inputs it should
    predict. The norm is therefore rejected in gpt and rnn unless allow_leak=true, which shows what the leak does there:
    the training loss may fall by an amount that is gone in evaluation.
    """

    leaks = True
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        dim: int,
        *,
        eps: float = 1e-5,
        learnable: bool = True,
        bias: bool = True,
        zero_centered: bool = False,
        momentum: float = 0.1,
        allow_leak: bool = False,
    ):
        super().__init__(dim, eps, learnable, zero_centered)
        if eps == 0:
            raise ValueError("eps=0: must be above 0")
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum={momentum}: must be above 0 and at most 1")
        self.momentum = momentum
        self.bias = tag(nn.Parameter(torch.zeros(dim)), "bias") if learnable and bias else None
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        mean, var = self.running_mean, self.running_var  # float32 even if the weights are bfloat16
        gain, bias = (v if v is None else v.to(mean.dtype) for v in (self.scale(), self.bias))
        y = F.batch_norm(x.reshape(-1, self.dim), mean, var, gain, bias, self.training, self.momentum, self.eps)
        return y.view_as(x)


@register("norm", "dyt", source="arXiv:2503.10622")
class DyT(nn.Module):
    """tanh(alpha * x) * gain + bias, which squashes instead of normalising; alpha is one learned number."""

    def __init__(self, dim: int, *, alpha: float = 0.5, bias: bool = True):
        super().__init__()
        self.alpha = tag(nn.Parameter(torch.full((1,), alpha)), "gain")
        self.gain = tag(nn.Parameter(torch.ones(dim)), "gain")
        self.bias = tag(nn.Parameter(torch.zeros(dim)), "bias") if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        y = torch.tanh(self.alpha * x) * self.gain
        return y if self.bias is None else y + self.bias


@register("norm", "none")
class NoNorm(nn.Module):
    """x unchanged."""

    def forward(self, x: Tensor) -> Tensor:
        return x
