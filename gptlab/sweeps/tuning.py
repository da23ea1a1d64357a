"""Tuning: each arm gets its own best value, chosen on seeds that the comparison does not use."""

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from gptlab.runs.states import OUTCOMES
from gptlab.sweeps.arms import Overrides
from gptlab.sweeps.cell import Cell


def best_values(tuning: Sequence[Cell]) -> dict[str, Overrides]:
    """Return for each arm the combination of values with the lowest mean val/loss over the tuning seeds.

    A diverged cell counts as infinitely bad. The first of equally good combinations is taken. An arm with a cell that
    failed or is not done is left out, since its best value is not known.
    """
    losses: dict[str, dict[tuple[tuple[str, str], ...], list[float]]] = defaultdict(lambda: defaultdict(list))
    unknown = set()
    for cell in tuning:
        arm, values = cell.spec.arm.name, tuple(cell.spec.tuned.items())
        if cell.state in OUTCOMES:
            losses[arm][values].append(cell.loss)
        else:
            unknown.add(arm)
    return {
        arm: dict(min(by_values.items(), key=lambda item: _rank(item[1]))[0])
        for arm, by_values in losses.items()
        if arm not in unknown
    }


def _rank(losses: list[float]) -> tuple[int, float]:
    """Order by the number of divergences, then by the mean of the other losses."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return len(losses) - len(finite), fmean(finite) if finite else math.inf
