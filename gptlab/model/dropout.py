"""Dropout (Srivastava et al. 2014, JMLR 15:1929) with cheap random draws on a CPU.

torch draws a number for each element in 9 ns. Here four elements share 64 random bits, at 1.4 ns each. So p is rounded
to a multiple of 1/65,536, and kept elements are scaled by the rounded p, which preserves the mean.
"""

import math

import torch
from torch import Tensor, nn

LEVELS = 2**16


class Dropout(nn.Dropout):
    """torch's dropout, with this module's random draws where `draws_here` says so."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not draws_here(x, self.p):
            return super().forward(x)
        return x * draw_kept(x.shape, self.p).to(x.dtype).mul_(scale_of_kept(self.p))


def draws_here(x: Tensor, p: float) -> bool:
    """Return whether this module draws: on a CPU. Elsewhere torch draws fast, or a compiler fuses the draws."""
    return x.device.type == "cpu" and 0 < round(p * LEVELS) < LEVELS and not torch.compiler.is_compiling()


def draw_kept(shape: torch.Size, p: float) -> Tensor:
    """Return a mask that is True for each element with probability 1 - p, from the CPU's default generator."""
    n = math.prod(shape)
    bits = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None)  # None: all 64 bits
    return (bits.view(torch.int16)[:n] >= round(p * LEVELS) - LEVELS // 2).view(shape)


def scale_of_kept(p: float) -> float:
    """Return 1 / (1 - p) for the rounded p."""
    return LEVELS / (LEVELS - round(p * LEVELS))
