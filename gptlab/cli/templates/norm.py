"""A norm of your own: (..., C) -> (..., C), selected with `norm=my_norm` or `qk_norm=my_norm`."""

import torch
from torch import Tensor, nn

from gptlab import register


@register("norm", "my_norm")  # add source="arXiv:..." and `gptlab list norm` shows it
class MyNorm(nn.Module):
    """x / (mean(|x|) + eps) * gain."""

    # Parameters before `*` are supplied by the model builder, by name. A norm may ask for:
    #   dim    C, the width it normalises: that of the stream, or of one head as a qk_norm
    # Parameters after `*` are settings. They need a type and a default: `norm.eps=1e-6` sets this one.
    # A setting named `bias` is switched off by `bias=false`.
    def __init__(self, dim: int, *, eps: float = 1e-5):
        super().__init__()
        if eps <= 0:
            raise ValueError(f"eps={eps}: must be above 0")  # reported as norm.eps=..., with exit code 2
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(dim))  # a vector has the role "gain": neither drawn nor decayed

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each position on its own.

        x: (B, T, C) for the stream, (B, H, T, D) for queries and keys. Returns the same shape.
        """
        return x / (x.abs().mean(-1, keepdim=True) + self.eps) * self.gain
