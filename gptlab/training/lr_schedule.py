"""The learning rate after the warm-up, as a factor of its peak: t in [0, 1] -> factor.

`min_lr` is the absolute rate at the end; null: a tenth of the peak, `optimizer.lr`.
"""

import math
from typing import Protocol

from gptlab.config.registry import register


class Schedule(Protocol):
    def factor(self, t: float, peak: float) -> float: ...


def _lowest(min_lr: float | None, peak: float) -> float:
    """The final factor."""
    if min_lr is None:
        return 0.1
    if min_lr > peak:
        raise ValueError(f"min_lr={min_lr:g}: must not exceed optimizer.lr={peak:g}")
    return min_lr / peak


def _check(min_lr: float | None) -> None:
    if min_lr is not None and min_lr < 0:
        raise ValueError(f"min_lr={min_lr:g}: must not be negative")


@register("schedule", "constant")
class Constant:
    """The peak all along."""

    def factor(self, t: float, peak: float) -> float:
        return 1.0


@register("schedule", "linear", source="arXiv:1810.04805")
class Linear:
    """A straight line down to min_lr."""

    def __init__(self, *, min_lr: float | None = None):
        _check(min_lr)
        self.min_lr = min_lr

    def factor(self, t: float, peak: float) -> float:
        low = _lowest(self.min_lr, peak)
        return 1 - (1 - low) * t


@register("schedule", "cosine", source="arXiv:1608.03983")
class Cosine:
    """Half a cosine down to min_lr."""

    def __init__(self, *, min_lr: float | None = None):
        _check(min_lr)
        self.min_lr = min_lr

    def factor(self, t: float, peak: float) -> float:
        low = _lowest(self.min_lr, peak)
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * t))


@register("schedule", "wsd", source="arXiv:2404.06395")
class WSD:
    """Warm-up, stable, decay: the peak, then a straight line to min_lr over the last `decay` of the run."""

    def __init__(self, *, min_lr: float | None = None, decay: float = 0.2):
        _check(min_lr)
        if not 0 < decay <= 1:
            raise ValueError(f"decay={decay}: must be above 0 and at most 1")
        self.min_lr, self.decay = min_lr, decay

    def factor(self, t: float, peak: float) -> float:
        low = _lowest(self.min_lr, peak)
        return 1 - (1 - low) * max(0.0, (t - (1 - self.decay)) / self.decay)
