"""Short names of arms for pictures and narrow tables. JSON, CSV and Markdown have the whole names."""

from collections import Counter
from collections.abc import Mapping, Sequence
from textwrap import shorten

from gptlab.compare.analysis.comparison import Result
from gptlab.compare.analysis.over_rungs import RungsComparison
from gptlab.config import SLOTS

LONGEST = 40  # letters
SAYS_NOTHING = ("none", "null", "true", "false")  # values that need the name of their setting


def short_names(results: Sequence[Result]) -> dict[str, str]:
    """Return a short name for each arm, the baseline first, by its name.

    A variant keeps the name that the experiment gave it. An arm of a grid, whose name is its settings, is called by
    their values: `norm=rmsnorm ffn=swiglu` -> `rmsnorm + swiglu`.
    """
    short = {result.name: shorten(_short(result, results[0]), LONGEST, placeholder=" …") for result in results}
    counts = Counter(short.values())
    return {name: text if counts[text] == 1 else name for name, text in short.items()}


def short_names_over(comparison: RungsComparison) -> dict[str, str]:
    """Return a short name for each arm of an experiment with rungs."""
    short: dict[str, str] = {}
    for rung in comparison.rungs:
        short = short_names(rung.comparison.results) | short
    return {name: short.get(name, name) for name in (comparison.baseline, *(arm.name for arm in comparison.arms))}


def _short(result: Result, baseline: Result) -> str:
    arm = result.arm
    changed = arm.changed(baseline.arm) if result is not baseline else arm.settings
    if arm.label or not changed:
        return result.name
    return " + ".join(_value(setting, value, changed) for setting, value in changed.items())


def _value(setting: str, value: str, changed: Mapping[str, str]) -> str:
    """Return the value of a setting, with the setting's last name where the value alone says nothing."""
    if setting in SLOTS and value not in SAYS_NOTHING and list(changed.values()).count(value) == 1:
        return value
    return f"{setting if setting in SLOTS else setting.rpartition('.')[2]}={value}"
