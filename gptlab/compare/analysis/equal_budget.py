"""Compare each arm with its reference where both have spent the same optimizer steps, tokens, FLOPs or seconds.

The budget belongs to the two arms alone: the total of that run among their common seeds which spent the least. What is
said of two arms therefore does not depend on a third one.

If the runs of both arms end at this budget, up to TOLERANCE, their final numbers are compared, and the arm gets a
verdict. Otherwise the metric is interpolated linearly between two evaluations, never extrapolated, and the difference
is given without a word: the run that went on is read before its end, where its learning rate has not decayed yet. A
baseline read half-way through its schedule was 0.07 nats above one that was trained for that budget. `budget.flops=` or
`budget.seconds=` trains the arms for it. There is no word for seconds either if the machine was shared.

That the difference depends on what is held equal is said only if it is tested: seed by seed, the difference at this
budget minus the one at the end of the runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis.comparison import EqualBudgetComparison, Reading, Result
from gptlab.compare.analysis.effects import Evidence, Rules, compare_scores
from gptlab.compare.analysis.statistics import LEVEL
from gptlab.compare.analysis.verdict import NO_VERDICT
from gptlab.compare.read.runs import AXES

STEADY = 0.1  # the largest coefficient of variation of an arm's tokens/s for which seconds are reliable
TOLERANCE = 0.01  # a run that spent at most this share more than the budget ends there
SETTINGS = {axis: f"budget.{axis}=" for axis in AXES}  # what trains an arm for a budget

Curve = dict[str, np.ndarray]  # the evaluations of one run, by column; FINAL has its final number alone
FINAL = "final"
Curves = Mapping[tuple[str, int], Curve]  # by arm and seed


@dataclass(frozen=True)
class Inputs:
    """The data that a comparison at equal budgets needs. The mappings are keyed by arm."""

    curves: Mapping[str, pd.DataFrame]
    results: Sequence[Result]
    speeds: Mapping[str, Sequence[float]]  # tokens/s of the finished runs
    rules: Rules
    evidence: Evidence


def compare_at_equal_budgets(inputs: Inputs) -> list[EqualBudgetComparison]:
    """Return a comparison for each of AXES.

    The list is empty if the curve of a finished run does not reach the end of the run, or if no run finished.
    """
    finished = _finished_curves(inputs)
    return [_compare_at(axis, finished, inputs) for axis in AXES] if finished else []


def _finished_curves(inputs: Inputs) -> dict[tuple[str, int], Curve]:
    """Return the curve of each finished run by arm and seed; {} if any curve stops before its run's end.

    The last point of a curve may differ from the run's final number, which is measured on more of the text.
    """
    finished: dict[tuple[str, int], Curve] = {}
    metric = inputs.rules.metric
    for result in inputs.results:
        frame = inputs.curves[result.name]
        rows: Any = frame.groupby("seed").indices
        columns = {name: frame[name].to_numpy() for name in (*(axis.column for axis in AXES.values()), metric)}
        steps = {run.seed: run.number("step") for run in result.arm.runs}
        seed: Any
        for seed, score in result.scores.dropna().items():
            if seed not in rows:
                return {}
            last = {name: values[rows[seed][-1]] for name, values in columns.items()}
            if last[metric] != score and last["step"] != steps.get(seed):
                return {}
            curve = {name: values[rows[seed]] for name, values in columns.items()}
            finished[result.name, seed] = curve | {FINAL: np.array([score])}
    return finished


@dataclass(frozen=True)
class _Pair:
    """The scores of an arm and its reference at their budget."""

    budget: float
    scores: pd.Series
    reference: pd.Series
    at_end: pd.Series  # the difference at the ends of both curves, which are read on the same text as the rest of them
    why: str  # why they must not be judged
    reliable: bool  # False for seconds if the machine was shared


def _compare_at(axis: str, finished: Curves, inputs: Inputs) -> EqualBudgetComparison:
    pairs: dict[str, _Pair] = {}
    notes: dict[str, list[str]] = {}
    for result in (r for r in inputs.results if r.reference is not None):
        pair = _read(axis, result.name, str(result.reference), finished, inputs)
        if isinstance(pair, _Pair):
            pairs[result.name] = pair
        else:
            notes.setdefault(pair, []).append(result.name)
    readings = _judge(pairs, inputs)
    left_out = "; ".join(f"{', '.join(arms)} left out: {reason}" for reason, arms in notes.items())
    return EqualBudgetComparison(axis, readings, left_out)


def _read(axis: str, arm: str, reference: str, finished: Curves, inputs: Inputs) -> _Pair | str:
    """Return the scores of two arms at their budget, or the reason why they cannot be read."""
    seeds = sorted({seed for name, seed in finished if name == arm} & {s for name, s in finished if name == reference})
    if not seeds:
        return "no common seed has finished"
    spent = {(name, seed): finished[name, seed][AXES[axis].column] for name in (arm, reference) for seed in seeds}
    if any(np.isnan(x).any() for x in spent.values()):
        return "not all runs recorded it"
    budget = float(min(x[-1] for x in spent.values()))
    metric = inputs.rules.metric
    ends = all(x[-1] <= budget * (1 + TOLERANCE) for x in spent.values())
    if not ends and any(x[0] > budget for x in spent.values()):
        return "some runs had no evaluation by then; set a smaller eval.every"
    share = {name: budget / float(np.mean([spent[name, seed][-1] for seed in seeds])) for name in (arm, reference)}
    scores = {
        name: pd.Series(
            {
                seed: curve[FINAL][0] if ends else float(np.interp(budget, spent[name, seed], curve[metric]))
                for seed in seeds
                for curve in (finished[name, seed],)
            },
            dtype=float,
        )
        for name in (arm, reference)
    }
    why = "" if ends else _inside(axis, share)
    shared = unsteady(inputs.speeds, (arm, reference)) if axis == "seconds" else ""
    last = {run: curve[metric][-1] for run, curve in finished.items()}
    at_end = pd.Series({seed: last[arm, seed] - last[reference, seed] for seed in seeds}, dtype=float)
    return _Pair(budget, scores[arm], scores[reference], at_end, shared or why, not shared)


def _inside(axis: str, share: Mapping[str, float]) -> str:
    """`base read at 31 % of its schedule; train with budget.seconds= to judge`."""
    read = [f"{name} read at {part:.0%} of its schedule" for name, part in share.items() if part < 1 / (1 + TOLERANCE)]
    return f"{' and '.join(read) or 'not all runs end there'}; train with {SETTINGS[axis]} to judge".replace("%", " %")


def unsteady(speeds: Mapping[str, Sequence[float]], arms: Sequence[str]) -> str:
    """Return a warning that names the arm whose runs differ in speed, or "" if those of both arms have one speed."""
    several = {arm: speeds[arm] for arm in arms if len(speeds[arm]) > 1}
    variation = {arm: float(np.std(values, ddof=1) / np.mean(values)) for arm, values in several.items()}
    worst = max(variation, key=lambda arm: np.nan_to_num(variation[arm]), default=None)
    if worst is None or not variation[worst] > STEADY:
        return ""
    return (
        f"tokens/s of the runs of {worst} vary by {variation[worst]:.0%}, so the machine was shared; run one at a time"
    )


def _judge(pairs: Mapping[str, _Pair], inputs: Inputs) -> dict[str, Reading]:
    """Return the readings with their effects and with how much they differ from the ends of the runs."""
    ends = {result.name: result for result in inputs.results}
    references = {arm: str(ends[arm].reference) for arm in pairs}
    scores = {name: result.scores for name, result in ends.items()} | {arm: p.scores for arm, p in pairs.items()}
    beside = {arm: pair.reference for arm, pair in pairs.items()}
    effects = compare_scores(scores, references, inputs.rules, inputs.evidence, reference_scores=beside)
    at_end = {arm: pair.at_end for arm, pair in pairs.items() if pair.why}
    shifts = compare_scores(
        {arm: pairs[arm].scores - pairs[arm].reference for arm in at_end},
        {arm: arm for arm in at_end},
        Rules(inputs.rules.metric, family=inputs.rules.family),
        reference_scores=at_end,
    )
    return {
        arm: Reading(
            budget=pair.budget,
            effect=replace(effects[arm], word=NO_VERDICT, note=pair.why) if pair.why else effects[arm],
            mean=pair.scores.mean(),
            reference_mean=pair.reference.mean(),
            why=pair.why,
            reliable=pair.reliable,
            shift=shifts.get(arm),
        )
        for arm, pair in pairs.items()
    }


def shifted(reading: Reading) -> bool:
    """Return whether the difference is shown to depend on what is held equal."""
    return reading.reliable and reading.shift is not None and reading.shift.p_holm < LEVEL
