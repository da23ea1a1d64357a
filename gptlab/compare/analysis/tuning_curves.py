"""Tuning runs -> how each arm depends on what was tuned, which value it got, and if that lies at the grid's edge."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from gptlab.compare.analysis.arms import Arm, as_text
from gptlab.compare.analysis.comparison import Tuning
from gptlab.compare.read.runs import Run, SweepFile
from gptlab.runs.metrics import metric_named

COLUMNS = ["arm", "value", "mean", "low", "high", "seeds", "diverged", "chosen", "at_edge"]
Point = dict[str, Any]


def tunings(
    runs: Sequence[Run], arms: Sequence[Arm], labels: Sequence[str], sweep: SweepFile, metric: str
) -> list[Tuning]:
    """One for each tuned setting. `runs` are those of the phase tune; `labels` name the `arms`."""
    settings = list(sweep.tune)
    by_arm: dict[str, list[Run]] = {label: [] for label in labels}
    for run in runs:
        if (place := arm_of(run, arms, settings)) is not None:
            by_arm[labels[place]].append(run)
    seeds = sorted({run.seed for run in runs})
    found = []
    for setting in settings:
        edges = [as_value(text) for text in sweep.tune[setting]]
        rows = [
            point | {"arm": label}
            for label, arm in zip(labels, arms, strict=True)
            for point in _points(setting, by_arm[label], arm, settings, edges, metric)
        ]
        if rows:
            found.append(Tuning(setting, seeds, pd.DataFrame(rows)[COLUMNS]))
    return found


def arm_of(run: Run, arms: Sequence[Arm], settings: Sequence[str]) -> int | None:
    """The place of the arm that a tuning run chose a value for: the one with its label, or else its other settings."""
    label = run.config.get("variant")
    named = [i for i, arm in enumerate(arms) if label and arm.label == label]
    if len(named) == 1:
        return named[0]
    own = _without(run, settings)
    alike = [i for i in named or range(len(arms)) if _without(arms[i].runs[0], settings) == own]
    return alike[0] if alike else None


def _without(run: Run, settings: Sequence[str]) -> dict[str, str]:
    return {key: text for key, text in as_text(run.config).items() if key not in settings}


def as_value(text: str) -> float | str:
    """A setting's value: a number where it is one."""
    try:
        return float(text)
    except ValueError:
        return text


def _points(
    setting: str, runs: Sequence[Run], arm: Arm, settings: Sequence[str], grid: Sequence[float | str], metric: str
) -> list[Point]:
    """For each value the best that the other tuned settings make of it."""
    combinations: dict[str, list[Run]] = {}
    for run in runs:
        texts = as_text(run.config)
        combinations.setdefault(json.dumps([texts.get(key, "null") for key in settings]), []).append(run)
    sign = -1 if metric_named(metric).higher_is_better else 1
    best: dict[float | str, Point] = {}
    for own in combinations.values():
        point = _point(setting, own, metric, sign * math.inf)
        other = best.get(point["value"])
        if not math.isnan(point["mean"]) and (other is None or sign * point["mean"] < sign * other["mean"]):
            best[point["value"]] = point
    if not best:
        return []
    points = sorted(best.values(), key=lambda p: (isinstance(p["value"], str), p["value"]))
    used = as_value(as_text(arm.runs[0].config).get(setting, "null"))
    if used not in best:  # no run of the comparison has begun with one of them
        used = min(points, key=lambda p: sign * p["mean"])["value"]
    numbers = [v for v in (*grid, *best) if isinstance(v, float)]
    for point in points:
        point["chosen"] = point["value"] == used
        point["at_edge"] = point["chosen"] and bool(numbers) and used in (min(numbers), max(numbers))
    return points


def _point(setting: str, runs: Sequence[Run], metric: str, worst: float) -> Point:
    """Over the seeds of one combination of values; `worst` if one diverged."""
    ended = [run for run in runs if run.state in ("finished", "diverged")]
    scores = pd.Series([worst if run.state == "diverged" else run.number(metric) for run in ended], dtype=float)
    return {
        "value": as_value(as_text(runs[0].config).get(setting, "null")),
        "mean": scores.mean(skipna=False),
        "low": scores.min(),
        "high": scores.max(),
        "seeds": len(ended),
        "diverged": sum(run.state == "diverged" for run in ended),
    }
