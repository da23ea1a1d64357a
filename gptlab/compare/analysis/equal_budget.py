"""Compare runs where all arms have spent the same number of optimizer steps, tokens, FLOPs or seconds of training.

The common budget is the total of the finished run that spent the least. The metric of each run at that budget is
interpolated linearly between two of its evaluations, never extrapolated. A run that went on beyond the budget is thus
read before its end, when its learning rate has not decayed yet, which puts it at a disadvantage. Where the verdicts at
equal budgets disagree, train the arms again with that budget (`budget.flops=`, `budget.seconds=`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis.comparison import EqualBudgetComparison, Result
from gptlab.compare.analysis.effects import compare_scores
from gptlab.compare.read.runs import AXES

STEADY = 0.1  # the largest coefficient of variation of an arm's tokens/s for which seconds are reliable

Curve = dict[str, np.ndarray]  # the evaluations of one run, by column


@dataclass(frozen=True)
class Inputs:
    """The data that a comparison at equal budgets needs. The mappings are keyed by arm."""

    metric: str
    curves: Mapping[str, pd.DataFrame]
    results: Sequence[Result]
    diverged: Mapping[str, Sequence[int]]  # seeds
    speeds: Mapping[str, Sequence[float]]  # tokens/s of the finished runs
    margin: float
    unlike: Mapping[str, Mapping[int, str]] = field(default_factory=dict)  # pairs that must not be judged, and why


def compare_at_equal_budgets(inputs: Inputs) -> list[EqualBudgetComparison]:
    """Return a comparison for each of AXES.

    The list is empty if the curve of a finished run does not end in the run's own final number, or if no run finished.
    """
    finished = _finished_curves(inputs)
    return [_compare_at(axis, finished, inputs) for axis in AXES] if finished else []


def _finished_curves(inputs: Inputs) -> dict[tuple[str, int], Curve]:
    """Return the curve of each finished run by arm and seed; {} if any curve does not end in its run's final number."""
    finished: dict[tuple[str, int], Curve] = {}
    metric = inputs.metric
    for result in inputs.results:
        frame = inputs.curves[result.name]
        rows: Any = frame.groupby("seed").indices
        columns = {name: frame[name].to_numpy() for name in (*(axis.column for axis in AXES.values()), metric)}
        seed: Any
        for seed, score in result.scores.dropna().items():
            if seed not in rows or columns[metric][rows[seed][-1]] != score:
                return {}
            finished[result.name, seed] = {name: values[rows[seed]] for name, values in columns.items()}
    return finished


def _compare_at(axis: str, finished: Mapping[tuple[str, int], Curve], inputs: Inputs) -> EqualBudgetComparison:
    spent = {run: curve[AXES[axis].column] for run, curve in finished.items()}
    budget = float(np.min([x[-1] for x in spent.values()]))
    reliable, note = _steady(inputs.speeds) if axis == "seconds" else (True, "")
    if any(np.isnan(x).any() for x in spent.values()):
        return EqualBudgetComparison(axis, budget, {}, {}, reliable, "left out: not all runs recorded it")
    late = [f"{arm} seed {seed}" for (arm, seed), x in spent.items() if not x[0] <= budget]
    if late:
        more = f" and {len(late) - 1} more" if len(late) > 1 else ""
        note = f"left out: {late[0]}{more} had no evaluation by then; set a smaller eval.every"
        return EqualBudgetComparison(axis, budget, {}, {}, reliable, note)
    by_seed: dict[str, dict[int, float]] = {result.name: {} for result in inputs.results}
    for (arm, seed), curve in finished.items():
        by_seed[arm][seed] = float(np.interp(budget, spent[arm, seed], curve[inputs.metric]))
    scores = {arm: pd.Series(values, dtype=float) for arm, values in by_seed.items()}
    references = {result.name: result.reference for result in inputs.results if result.reference is not None}
    effects = compare_scores(
        scores, references, inputs.diverged, metric=inputs.metric, margin=inputs.margin, unlike=inputs.unlike
    )
    means = {arm: series.mean() for arm, series in scores.items()}
    return EqualBudgetComparison(axis, budget, effects, means, reliable, note)


def _steady(speeds: Mapping[str, Sequence[float]]) -> tuple[bool, str]:
    """Return whether the runs of each arm had nearly the same speed, and if not, a warning that names the worst arm."""
    variation = {arm: np.std(values, ddof=1) / np.mean(values) for arm, values in speeds.items() if len(values) > 1}
    worst = max(variation, key=lambda arm: np.nan_to_num(variation[arm]), default=None)
    if worst is None or not variation[worst] > STEADY:
        return True, ""
    return False, (
        f"tokens/s of the runs of {worst} vary by {variation[worst]:.0%},"
        " so the machine was shared or was not the same; run one at a time"
    )
