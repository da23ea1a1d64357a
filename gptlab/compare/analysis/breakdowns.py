"""Tables of a loss by position in the window and of a task's score by difficulty: means over the seeds of each arm."""

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from gptlab.compare.analysis.comparison import Breakdown
from gptlab.compare.read.runs import Run

NAME = re.compile(r"(?P<metric>val/[a-z]+)_(?P<by>[a-z]+)-(?P<level>[0-9a-z-]+?)(?:_(?P<length>\d+)x)?")


def breakdowns(runs: Mapping[str, Sequence[Run]]) -> list[Breakdown]:
    """Return the breakdowns that the summaries of the finished runs hold, for the finished runs of each arm.

    Their keys have the form of val/accuracy_pairs-8 or val/loss_position-3-4_2x.
    """
    keys_by_level: dict[tuple[str, str, int], dict[str, str]] = {}  # (metric, by, length) -> level -> summary key
    for key in dict.fromkeys(key for arm_runs in runs.values() for run in arm_runs for key in run.summary):
        if name := NAME.fullmatch(key):
            title = name["metric"], name["by"], int(name["length"] or 1)
            keys_by_level.setdefault(title, {})[name["level"]] = key
    return [
        Breakdown(*title, {level: _means(runs, key) for level, key in keys.items()})
        for title, keys in sorted(keys_by_level.items())
    ]


def _means(runs: Mapping[str, Sequence[Run]], key: str) -> list[tuple[float, float]]:
    """Return mean and standard deviation for each arm; NaN for an arm without the number."""
    numbers = [pd.Series([run.number(key) for run in arm_runs], dtype=float).dropna() for arm_runs in runs.values()]
    return [(values.mean(), values.std()) for values in numbers]
