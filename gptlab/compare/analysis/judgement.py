"""The verdicts of an experiment: with all seeds, without the stuck ones, and over a whole ladder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gptlab.compare.analysis.arms import Arm
from gptlab.compare.analysis.comparison import Effect
from gptlab.compare.analysis.effects import compare_scores
from gptlab.compare.analysis.outcomes import Rate, compare_rates, stuck_seeds
from gptlab.compare.analysis.provenance import unlike_pairs
from gptlab.compare.analysis.text_share import block_deviations
from gptlab.compare.read.runs import Run
from gptlab.runs.states import RunState

LONG_LADDER = 3  # arms from which on its end is compared with its start


@dataclass(frozen=True)
class Judgement:
    """The verdicts on the arms. The mappings are keyed by arm; those with effects leave out the baseline."""

    scores: dict[str, pd.Series]
    stuck: dict[str, list[int]]
    effects: dict[str, Effect]
    without_stuck: dict[str, Effect]  # of the arms that have a stuck seed, or whose reference has one
    rates: dict[str, dict[str, Rate]]  # "diverged" and "stuck"
    whole: tuple[str, Effect] | None  # of a ladder: its end against its start
    judging: dict[str, Any]  # the arguments of compare_scores, to judge the same arms elsewhere


def judge(
    arms: Mapping[str, Arm],
    references: Mapping[str, str],
    *,
    metric: str,
    margin: float,
    planned: int,
    marks: Mapping[str, str],
    edge: Mapping[str, str],
) -> Judgement:
    """Judge the arms, the baseline first.

    Args:
        arms: by label.
        references: the arm that each arm but the first is compared with.
        metric: a key of summary.json.
        margin: differences below it do not matter; NaN if there is none.
        planned: the number of arms that were planned, with the baseline; 0 if it is not known.
        marks: the marks of words (see planned.py).
        edge: for an arm whose best tuned value is at an edge of the values tried, a note that says so.
    """
    finished = {label: finished_runs(arm) for label, arm in arms.items()}
    scores = {label: scores_of(runs, metric) for label, runs in finished.items()}
    diverged = {label: [r.seed for r in arm.runs if r.state == RunState.DIVERGED] for label, arm in arms.items()}
    stuck = stuck_seeds(finished)
    judging: dict[str, Any] = {
        "diverged": diverged,
        "margin": margin,
        "family": max(planned - 1, len(references)),
        "deviations": {label: _deviations(runs, metric) for label, runs in finished.items()},
        "marks": marks,
        "edge": _at_edges(references, edge),
        "unlike": unlike_pairs(arms, references),
    }
    first, last = next(iter(arms)), list(arms)[-1]
    ladder = len(arms) >= LONG_LADDER and references.get(last, first) != first
    whole = f"{last} against {first}"
    if ladder:
        judging["family"] += 1
        judging["unlike"] |= unlike_pairs({first: arms[first], whole: arms[last]}, {whole: first})
    effects = _effects(scores, references, whole if ladder else None, metric, judging)
    without = {label: series.drop(stuck[label], errors="ignore") for label, series in scores.items()}
    touched = [arm for arm, other in references.items() if stuck[arm] or stuck[other]]
    others = compare_scores(without, references, metric=metric, **judging) if touched else {}
    counted = {label: series.notna().sum() for label, series in scores.items()}
    unstuck = {label: len(runs) - len(stuck[label]) for label, runs in finished.items()}
    return Judgement(
        scores=scores,
        stuck=stuck,
        effects={arm: effects[arm] for arm in references},
        without_stuck={arm: others[arm] for arm in touched},
        rates={
            "diverged": compare_rates(diverged, counted, references, judging["family"]),
            "stuck": compare_rates(stuck, unstuck, references, judging["family"]),
        },
        whole=(whole, effects[whole]) if ladder else None,
        judging=judging,
    )


def _effects(
    scores: Mapping[str, pd.Series],
    references: Mapping[str, str],
    whole: str | None,
    metric: str,
    judging: Mapping[str, Any],
) -> dict[str, Effect]:
    """Return the effects of the arms, and of the whole ladder under the name `whole`."""
    if whole is None:
        return compare_scores(scores, references, metric=metric, **judging)
    first, last = next(iter(scores)), list(scores)[-1]
    more = {key: {**judging[key], whole: judging[key][last]} for key in ("diverged", "deviations")}
    named = {**scores, whole: scores[last]}
    return compare_scores(named, {**references, whole: first}, metric=metric, **{**judging, **more})


def _at_edges(references: Mapping[str, str], edge: Mapping[str, str]) -> dict[str, str]:
    """Return why arms must not be judged: their own best value, or that of their reference, may lie beyond an edge."""
    notes = {}
    for arm, other in references.items():
        own = [edge[arm]] if arm in edge else []
        notes[arm] = "; ".join([*own, f"of {other}, {edge[other]}"] if other in edge else own)
    return {arm: note for arm, note in notes.items() if note}


def finished_runs(arm: Arm) -> list[Run]:
    """Return the runs that ended with a result."""
    return [run for run in arm.runs if run.state == RunState.FINISHED]


def scores_of(runs: Sequence[Run], metric: str) -> pd.Series:
    """Return the metric of the runs that have it, by seed."""
    return pd.Series({run.seed: run.number(metric) for run in runs if metric in run.summary}, dtype=float)


def _deviations(runs: Sequence[Run], metric: str) -> dict[int, Any]:
    found = {run.seed: block_deviations(run.summary, metric) for run in runs}
    return {seed: deviations for seed, deviations in found.items() if deviations is not None}
