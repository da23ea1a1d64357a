"""Tuning curves: how each arm depends on a tuned setting, the value chosen, and whether it is at the grid's edge."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from gptlab.compare.analysis.arms import Arm, as_text, identity
from gptlab.compare.analysis.comparison import Tuning
from gptlab.compare.read.runs import Run, SweepFile
from gptlab.runs.metrics import metric_named
from gptlab.runs.states import OUTCOMES, RunState

POINT_COLUMNS = ["arm", "value", "mean", "low", "high", "seeds", "diverged", "chosen", "at_edge"]
Point = dict[str, Any]


def tunings(
    runs: Sequence[Run],
    arms: Sequence[Arm],
    labels: Sequence[str],
    sweep: SweepFile,
    metric: str,
    chosen: Mapping[str, Mapping[str, Any]],
) -> list[Tuning]:
    """Return the tuning curves for each tuned setting.

    Args:
        runs: those of the tuning, and those of the comparison that lie at and beside the chosen values.
        arms: the arms.
        labels: their names.
        sweep: the parts of sweep.yaml that hold what is tuned.
        metric: the metric that is judged.
        chosen: the values chosen for each arm, by its label in the sweep.
    """
    settings = list(sweep.tune)
    by_arm: dict[str, list[Run]] = {label: [] for label in labels}
    for run in runs:
        if (index := arm_of(run, arms, settings)) is not None:
            by_arm[labels[index]].append(run)
    seeds = sorted({run.seed for run in runs if run.phase == "tune"})
    curves = []
    for setting in settings:
        grid = [as_value(text) for text in sweep.tune[setting]]
        rows = [
            point | {"arm": label}
            for label, arm in zip(labels, arms, strict=True)
            for point in _points(by_arm[label], _used(setting, arm, chosen), setting, settings, grid, metric)
        ]
        if rows:
            curves.append(Tuning(setting, seeds, pd.DataFrame(rows)[POINT_COLUMNS]))
    return curves


def arm_of(run: Run, arms: Sequence[Arm], settings: Sequence[str]) -> int | None:
    """Return the index of the arm that a tuning run belongs to, or None.

    It is the arm with the run's label, or else the one that has the same settings apart from the tuned ones.
    """
    label = run.config.get("variant")
    named = [i for i, arm in enumerate(arms) if label and arm.label == label]
    if len(named) == 1 and arms[named[0]].runs[0].content == run.content:
        return named[0]
    untuned = identity(run, settings)
    matches = [i for i in named or range(len(arms)) if identity(arms[i].runs[0], settings) == untuned]
    return matches[0] if matches else None


def as_value(text: str) -> float | str:
    """Return a setting's value as a number if it is one."""
    try:
        return float(text)
    except ValueError:
        return text


def _used(setting: str, arm: Arm, chosen: Mapping[str, Mapping[str, Any]]) -> float | str:
    """Return the value chosen for an arm: sweep.yaml's, or in older sweeps that of its runs."""
    value: float | str = chosen.get(arm.label or "", {}).get(
        setting, as_value(as_text(arm.runs[0].config).get(setting, "null"))
    )
    return value


def _points(
    runs: Sequence[Run],
    used: float | str,
    setting: str,
    settings: Sequence[str],
    grid: Sequence[float | str],
    metric: str,
) -> list[Point]:
    """Return a point for each value of `setting`, at the best values of the other tuned settings."""
    combinations: dict[str, list[Run]] = {}
    for run in runs:
        texts = as_text(run.config)
        combinations.setdefault(json.dumps([texts.get(key, "null") for key in settings]), []).append(run)
    sign = -1 if metric_named(metric).higher_is_better else 1
    best: dict[float | str, Point] = {}
    for same in combinations.values():
        point = _point(setting, same, metric, sign * math.inf)
        other = best.get(point["value"])
        if not math.isnan(point["mean"]) and (other is None or sign * point["mean"] < sign * other["mean"]):
            best[point["value"]] = point
    if not best:
        return []
    points = sorted(best.values(), key=lambda p: (isinstance(p["value"], str), p["value"]))
    if used not in best:  # the comparison has no run with one of these values yet
        used = min(points, key=lambda p: sign * p["mean"])["value"]
    numbers = [v for v in (*grid, *best) if isinstance(v, float)]
    for point in points:
        point["chosen"] = point["value"] == used
        point["at_edge"] = point["chosen"] and bool(numbers) and used in (min(numbers), max(numbers))
    return points


def _point(setting: str, runs: Sequence[Run], metric: str, worst: float) -> Point:
    """Summarise the seeds of one combination of values; a seed that diverged counts as `worst`."""
    ended = [run for run in runs if run.state in OUTCOMES]
    scores = pd.Series([worst if run.state == RunState.DIVERGED else run.number(metric) for run in ended], dtype=float)
    return {
        "value": as_value(as_text(runs[0].config).get(setting, "null")),
        "mean": scores.mean(skipna=False),
        "low": scores.min(),
        "high": scores.max(),
        "seeds": len(ended),
        "diverged": sum(run.state == RunState.DIVERGED for run in ended),
    }
