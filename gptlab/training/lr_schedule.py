"""The learning rate: a linear warm-up to `optimizer.lr`, then a schedule down to `schedule.min_lr`.

A schedule is a factor of the peak, t in [0, 1] -> factor, where t is the share of the run after the warm-up.
`min_lr` is an absolute rate; null means `min_share` of the peak.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from gptlab.config import ConfigError, Settings, registry
from gptlab.config.registry import register
from gptlab.config.warmup import MAX_WARMUP_SHARE, WARMUP_SHARE, WARMUP_STEPS, warmup_steps

MIN_SHARE = 0.1  # default of the final rate, as a share of the peak


class Schedule(Protocol):
    """The learning rate after the warm-up, as a factor of its peak."""

    def factor(self, t: float, peak: float) -> float: ...


@dataclass(frozen=True)
class LearningRate:
    """The learning rate of every step of a run. It is never above its peak."""

    peak: float
    warmup: float | None  # steps, or a fraction of the run if below 1; None: WARMUP_SHARE, see there
    schedule: Schedule
    steps: int | None  # optimizer steps of the run; None if its budget is in seconds

    def at(self, step: int, progress: float) -> float:
        """Return the rate of the step that follows `step` completed ones.

        `progress`, the share of the budget that is spent, counts where the number of steps is not known.
        """
        if self.steps:
            warmup = warmup_steps(self.warmup, self.steps)
            if step < warmup:
                return self.peak * (step + 1) / (warmup + 1)
            t = (step - warmup) / max(1.0, self.steps - warmup)
            return self.peak * self.schedule.factor(min(t, 1.0), self.peak)
        share = WARMUP_SHARE if self.warmup is None else self.warmup
        ramp = _ramp(progress, share)
        if self.warmup is None:
            ramp = max(min(ramp, (step + 1) / (WARMUP_STEPS + 1)), _ramp(progress, MAX_WARMUP_SHARE))
        t = max(0.0, (progress - share) / (1 - share))
        return self.peak * min(ramp, self.schedule.factor(min(t, 1.0), self.peak))


def _ramp(progress: float, share: float) -> float:
    """Return how much of a warm-up that lasts `share` of the run is done, at most 1. The first step is above 0."""
    return min(1.0, max(progress, 1e-3) / share) if share else 1.0


def make_learning_rate(cfg: Settings, steps: int | None) -> LearningRate:
    """Return the learning rate of a run. `steps` is its length, or None if its budget is in seconds.

    Raises:
        ConfigError: if schedule, optimizer and budget do not go together.
    """
    peak = registry.build("optimizer", cfg.optimizer).lr
    schedule = registry.build("schedule", cfg.schedule)
    warmup = cfg.schedule.warmup
    try:
        schedule.factor(1.0, peak)
    except ValueError as e:
        raise ConfigError(f"schedule.{e}") from e
    if warmup is not None and warmup >= 1:
        if steps is None:
            rule = "with budget.seconds the number of steps is unknown; give a fraction below 1"
            raise ConfigError(f"schedule.warmup={warmup:g}: {rule}")
        if warmup >= steps:
            rule = f"must be shorter than the run, which has {steps:,} step{'s' if steps > 1 else ''}"
            raise ConfigError(f"schedule.warmup={warmup:g}: {rule}; set a fraction below 1, or schedule.warmup=null")
    return LearningRate(peak, warmup, schedule, steps)


class _DownToMinLR:
    """A schedule that ends at `min_lr`, or if that is null at `min_share` of the peak."""

    def __init__(self, *, min_lr: float | None = None, min_share: float = MIN_SHARE):
        if min_lr is not None and min_lr < 0:
            raise ValueError(f"min_lr={min_lr:g}: must not be negative")
        if not 0 <= min_share <= 1:
            raise ValueError(f"min_share={min_share:g}: must be from 0 to 1, the peak")
        self.min_lr, self.min_share = min_lr, min_share

    def lowest(self, peak: float) -> float:
        """Return the final factor."""
        if self.min_lr is None:
            return self.min_share
        if self.min_lr > peak:
            raise ValueError(f"min_lr={self.min_lr:g}: must not exceed optimizer.lr={peak:g}")
        return self.min_lr / peak


@register("schedule", "constant")
class Constant:
    """The peak throughout."""

    def factor(self, t: float, peak: float) -> float:
        return 1.0


@register("schedule", "linear", source="arXiv:1810.04805")
class Linear(_DownToMinLR):
    """A straight line down to min_lr."""

    def factor(self, t: float, peak: float) -> float:
        low = self.lowest(peak)
        return 1 - (1 - low) * t


@register("schedule", "cosine", source="arXiv:1608.03983")
class Cosine(_DownToMinLR):
    """Half a cosine down to min_lr."""

    def factor(self, t: float, peak: float) -> float:
        low = self.lowest(peak)
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * t))


@register("schedule", "wsd", source="arXiv:2404.06395")
class WSD(_DownToMinLR):
    """Warm-up, stable, decay: the peak, then a straight line to min_lr over the last `decay` of the run."""

    def __init__(self, *, min_lr: float | None = None, min_share: float = MIN_SHARE, decay: float = 0.2):
        super().__init__(min_lr=min_lr, min_share=min_share)
        if not 0 < decay <= 1:
            raise ValueError(f"decay={decay}: must be above 0 and at most 1")
        self.decay = decay

    def factor(self, t: float, peak: float) -> float:
        low = self.lowest(peak)
        return 1 - (1 - low) * max(0.0, (t - (1 - self.decay)) / self.decay)
