"""Interleaved blocks of steps, and what their times say. What slows the machine for a while slows all alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

SECONDS_PER_BLOCK = 1.5
WARM_UP_STEPS = 3  # the first compiles, and makes the optimizer's state
LEAST_SECONDS = 0.2  # so long a trial must take to say how long a step is

Spread = dict[str, float]  # median, low, high


@dataclass
class Contestant:
    """Something that is done again and again."""

    name: str
    step: Callable[[], object]
    steps: int = 0  # in a block
    seconds: list[float] = field(default_factory=list)  # of a step, by block


def interleave(contestants: Sequence[Contestant], blocks: int, device: torch.device) -> None:
    """Time a block of each in turn, `blocks` times over; every other time backwards, so that a drift favours none."""
    for block in range(blocks):
        for contestant in contestants[:: -1 if block % 2 else 1]:
            seconds = _time(contestant.step, contestant.steps, device)
            contestant.seconds.append(seconds / contestant.steps)


def warm_up(step: Callable[[], object], device: torch.device) -> None:
    _time(step, WARM_UP_STEPS, device)


def steps_per_block(step: Callable[[], object], device: torch.device, seconds: float = SECONDS_PER_BLOCK) -> int:
    """How many steps take about so many seconds, tried out on one that is warm."""
    tried = 1
    while (took := _time(step, tried, device)) < LEAST_SECONDS:
        tried *= 2
    return max(1, round(seconds * tried / took))


def _time(step: Callable[[], object], n: int, device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    for _ in range(n):
        step()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def spread(values: Sequence[float]) -> Spread:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """values / others, block by block: the two that were timed next to each other."""
    return [value / other for value, other in zip(values, others, strict=True)]


def rates(amount: float, seconds: Sequence[float]) -> list[float]:
    """`amount` per second, block by block."""
    return [amount / s for s in seconds]
