"""Each arm gets its own best value of what is tuned, chosen on seeds that the comparison does not see."""

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from gptlab.sweeps.cell import Cell
from gptlab.sweeps.grid import Sweep


def best_values(planned: Sweep, tuning: Sequence[Cell]) -> dict[str, list[str]]:
    """Arm -> the combination with the lowest mean val/loss over the tuning seeds, as overrides.

    A diverged cell counts as infinitely bad. An arm of which a cell failed, or is not done, is left out: which value is
    best is then not known. Of equals the first is taken.
    """
    losses: dict[str, dict[tuple[str, ...], list[float]]] = defaultdict(lambda: defaultdict(list))
    unknown = set()
    for cell in tuning:
        values = tuple(w for w in cell.overrides if w.partition("=")[0] in planned.tune and _is_last(w, cell.overrides))
        if cell.state in ("finished", "diverged"):
            losses[cell.arm][values].append(cell.loss)
        else:
            unknown.add(cell.arm)
    return {
        arm: list(min(by_values.items(), key=lambda item: _rank(item[1]))[0])
        for arm, by_values in losses.items()
        if arm not in unknown
    }


def _is_last(word: str, overrides: Sequence[str]) -> bool:
    """Whether no later override sets the same key."""
    key = word.partition("=")[0]
    return [w for w in overrides if w.partition("=")[0] == key][-1] == word


def _rank(losses: list[float]) -> tuple[int, float]:
    """Fewest divergences, then the lowest mean of the rest."""
    finite = [x for x in losses if math.isfinite(x)]
    return len(losses) - len(finite), fmean(finite) if finite else math.inf
