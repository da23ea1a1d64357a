"""The same runs read where all arms have spent the same: optimizer steps, tokens, FLOPs or seconds of training.

The common budget is what the finished run that got least far spent in all. Each run's metric there is interpolated
linearly between two of its evaluations, never extrapolated. A run that went on beyond the budget is thus read before
its end, at a learning rate that has not decayed yet, which tells against it: where readings disagree, train the arms
anew with that budget (`budget.flops=`, `budget.seconds=`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis.comparison import AXES, Comparison, Reading, Result
from gptlab.compare.analysis.effects import compare_scores
from gptlab.compare.views.formatting import plus_minus

COLUMNS = dict(zip(AXES, ("step", "tokens", "flops", "seconds"), strict=True))  # of the curves
WORDS = {axis: "FLOPs" if axis == "flops" else axis for axis in AXES}
Points = dict[str, np.ndarray]  # of one run, by column
STEADY = 0.1  # coefficient of variation of an arm's tokens/s, up to which its seconds count


def read_all(
    metric: str,
    curves: Mapping[str, pd.DataFrame],
    results: Sequence[Result],
    diverged: Mapping[str, Sequence[int]],
    speeds: Mapping[str, Sequence[float]],
    margin: float,
) -> list[Reading]:
    """A reading for each of AXES; none for a metric that has no curve that ends in the run's own number.

    `curves`, `diverged` (seeds) and `speeds` (tokens/s of the finished runs) are by arm.
    """
    finished: dict[tuple[str, int], Points] = {}
    for r in results:
        rows: Any = curves[r.name].groupby("seed").indices
        columns = {name: curves[r.name][name].to_numpy() for name in (*COLUMNS.values(), metric)}
        seed: Any
        for seed, score in r.scores.dropna().items():
            if seed not in rows or columns[metric][rows[seed][-1]] != score:
                return []
            finished[r.name, seed] = {name: values[rows[seed]] for name, values in columns.items()}
    if not finished:
        return []
    return [_read(axis, metric, finished, results, diverged, speeds, margin) for axis in AXES]


def _read(
    axis: str,
    metric: str,
    finished: Mapping[tuple[str, int], Points],
    results: Sequence[Result],
    diverged: Mapping[str, Sequence[int]],
    speeds: Mapping[str, Sequence[float]],
    margin: float,
) -> Reading:
    along = {key: points[COLUMNS[axis]] for key, points in finished.items()}
    budget = float(np.min([x[-1] for x in along.values()]))
    reliable, note = _steady(speeds) if axis == "seconds" else (True, "")
    if any(np.isnan(x).any() for x in along.values()):
        return Reading(axis, budget, {}, {}, reliable, "left out: not all runs have recorded it")
    late = [f"{arm} seed {seed}" for (arm, seed), x in along.items() if not x[0] <= budget]
    if late:
        more = f" and {len(late) - 1} more" if len(late) > 1 else ""
        note = f"left out: {late[0]}{more} had no evaluation by then; set a smaller eval.every"
        return Reading(axis, budget, {}, {}, reliable, note)
    there: dict[str, dict[int, float]] = {r.name: {} for r in results}
    for (arm, seed), points in finished.items():
        there[arm][seed] = float(np.interp(budget, points[COLUMNS[axis]], points[metric]))
    scores = {arm: pd.Series(by_seed, dtype=float) for arm, by_seed in there.items()}
    references = {r.name: r.reference for r in results if r.reference is not None}
    effects = compare_scores(scores, references, diverged, metric=metric, margin=margin)
    return Reading(axis, budget, effects, {arm: own.mean() for arm, own in scores.items()}, reliable, note)


def _steady(speeds: Mapping[str, Sequence[float]]) -> tuple[bool, str]:
    """Whether the runs of each arm went at nearly the same speed, and if not, who did not."""
    variation = {arm: np.std(own, ddof=1) / np.mean(own) for arm, own in speeds.items() if len(own) > 1}
    worst = max(variation, key=lambda arm: np.nan_to_num(variation[arm]), default=None)
    if worst is None or not variation[worst] > STEADY:
        return True, ""
    said = f"tokens/s of the runs of {worst} vary by {variation[worst]:.0%}"
    return False, f"{said}, so the machine was shared or was not the same; run one at a time"


def disagreements(comparison: Comparison) -> list[str]:
    """A line for each arm whose verdict, or the sign of whose difference, depends on what is held equal."""
    lines = []
    for result in comparison.results[1:]:
        said: dict[tuple[str, bool], list[Reading]] = {}
        for reading in comparison.readings:
            if effect := reading.effects.get(result.name):
                said.setdefault((effect.verdict, effect.mean > 0), []).append(reading)
        if len(said) > 1:
            lines.append(f"{result.name}: {'; '.join(_one_view(result.name, group) for group in said.values())}")
    return lines


def _one_view(arm: str, readings: Sequence[Reading]) -> str:
    """`better at equal steps, tokens (-0.0210 ± 0.0040)`"""
    effect = readings[0].effects[arm]
    difference = plus_minus(effect.mean, effect.high - effect.mean, "+")
    shared = "" if all(r.reliable for r in readings) else ", on a shared machine"
    return f"{effect.verdict} at equal {', '.join(WORDS[r.axis] for r in readings)} ({difference}{shared})"
