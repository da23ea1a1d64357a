"""A loss by position in the window, and a task's score by difficulty: tables of means over the seeds of each arm."""

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from gptlab.compare.analysis.comparison import Breakdown
from gptlab.compare.read.runs import Run

NAME = re.compile(r"(?P<metric>val/[a-z]+)_(?P<by>[a-z]+)-(?P<level>[0-9a-z-]+?)(?:_(?P<length>\d+)x)?")


def breakdowns(runs: Mapping[str, Sequence[Run]]) -> list[Breakdown]:
    """From the finished runs of each arm: what their summaries call val/accuracy_pairs-8, val/loss_position-3-4_2x."""
    found: dict[tuple[str, str, int], dict[str, str]] = {}  # what is broken down -> level -> key of summary.json
    for key in dict.fromkeys(key for own in runs.values() for run in own for key in run.summary):
        if name := NAME.fullmatch(key):
            of = name["metric"], name["by"], int(name["length"] or 1)
            found.setdefault(of, {})[name["level"]] = key
    return [
        Breakdown(*of, {level: _of_arms(runs, key) for level, key in keys.items()})
        for of, keys in sorted(found.items())
    ]


def _of_arms(runs: Mapping[str, Sequence[Run]], key: str) -> list[tuple[float, float]]:
    """Mean and standard deviation; NaN for an arm that has not measured it."""
    numbers = [pd.Series([run.number(key) for run in own], dtype=float).dropna() for own in runs.values()]
    return [(own.mean(), own.std()) for own in numbers]
