"""A learning-rate schedule of your own, selected with `schedule=my_schedule`."""

import math

from gptlab import register


@register("schedule", "my_schedule", source="arXiv:2405.18392, section 3")
class MySchedule:
    """The peak, then 1 - sqrt down to `last` of it over the final `decay` of the run."""

    # Everything is a setting: parameters after `*`, with a type and a default. `schedule.decay=0.5` sets this one.
    def __init__(self, *, decay: float = 0.2, last: float = 0.0):
        if not 0 < decay <= 1:
            raise ValueError(f"decay={decay}: must be above 0 and at most 1")  # reported as schedule.decay=...
        self.decay, self.last = decay, last

    def factor(self, t: float, peak: float) -> float:
        """Return the learning rate as a share of its peak.

        t: how much of the run after the warm-up is done, from 0 to 1. peak: the peak itself, `optimizer.lr`.
        The linear warm-up (`schedule.warmup`) comes before and is the same for every schedule.
        """
        done = max(0.0, (t - (1 - self.decay)) / self.decay)
        return 1 - (1 - self.last) * math.sqrt(done)
