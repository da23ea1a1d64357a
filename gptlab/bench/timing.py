"""Interleaved blocks of steps, so that a temporary slowdown of the machine affects everything that is timed."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from gptlab.training.step_timing import seconds_of

SECONDS_PER_BLOCK = 1.5
WARM_UP_STEPS = 3  # the first one compiles and makes the optimizer's state
SHORTEST_TRIAL = 0.2  # seconds that a trial must take before it tells how long a step takes

Spread = dict[str, float]  # median, low, high


@dataclass
class Timed:
    """A step that is timed in blocks."""

    name: str
    step: Callable[[], object]
    steps: int = 0  # per block
    seconds: list[float] = field(default_factory=list)  # per step, one value for each block


def interleave(entries: Sequence[Timed], blocks: int, device: torch.device) -> None:
    """Time `blocks` blocks of each entry in turn, every other round backwards, so that a drift favours none."""
    for block in range(blocks):
        for timed in entries[:: -1 if block % 2 else 1]:
            timed.seconds.append(seconds_of(timed.step, timed.steps, device) / timed.steps)


def warm_up(step: Callable[[], object], device: torch.device) -> None:
    """Do the steps that must not be timed."""
    seconds_of(step, WARM_UP_STEPS, device)


def steps_per_block(step: Callable[[], object], device: torch.device, seconds: float = SECONDS_PER_BLOCK) -> int:
    """Return how many steps take about `seconds`, measured on a step that is already warm."""
    trial = 1
    while (took := seconds_of(step, trial, device)) < SHORTEST_TRIAL:
        trial *= 2
    return max(1, round(seconds * trial / took))


def spread(values: Sequence[float]) -> Spread:
    """Return the median, the lowest and the highest value."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return values / others, block by block, so that a ratio is of two blocks timed next to each other."""
    return [value / other for value, other in zip(values, others, strict=True)]


def rates(amount: float, seconds: Sequence[float]) -> list[float]:
    """Return `amount` per second, block by block."""
    return [amount / s for s in seconds]
