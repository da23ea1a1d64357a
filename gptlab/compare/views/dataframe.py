"""A comparison as a DataFrame with one row per arm, for Python and for CSV files."""

from dataclasses import fields
from typing import Any

import pandas as pd

from gptlab.compare.analysis.comparison import Comparison, Effect, Result

EFFECT_NAMES = {"mean": "difference", "sd": "sd_difference"}  # clearer than the names in Effect, next to the arm's mean


def tabulate(comparison: Comparison) -> pd.DataFrame:
    """Return the table of arms, the baseline first, with NaN where a value is undefined.

    mean and std are those of the metric over the finished seeds, std with n - 1. The columns from pairs to note are an
    Effect, of the arm minus its `reference`; the baseline has none. `verdict` is its word with its standing.
    """
    return pd.DataFrame([_row(result) for result in comparison.results])


def _row(result: Result) -> dict[str, Any]:
    names = {f.name: EFFECT_NAMES.get(f.name, f.name) for f in fields(Effect) if f.name != "progress"}
    missing = dict.fromkeys(names, float("nan")) | {"pairs": 0, "word": "", "standing": "", "note": ""}
    effect = {name: getattr(result.effect, name) for name in names} if result.effect else missing
    without, progress = result.without_stuck, result.effect.progress if result.effect else None
    return {
        "arm": result.name,
        "differs": result.differs,
        "reference": result.reference or "",
        "seeds": result.states["finished"],
        "mean": result.mean,
        "std": result.sd,
        "verdict": result.effect.verdict if result.effect else "baseline",
        **{names[name]: value for name, value in effect.items()},
        "progress": progress.state if progress else "",
        "chance": progress.chance if progress else float("nan"),
        **_multipliers(result),
        "difference_without_stuck": without.mean if without else float("nan"),
        "verdict_without_stuck": without.verdict if without else "",
        **result.costs,
        **{state: result.states[state] for state in ("diverged", "failed", "unfinished")},
        "stuck": len(result.stuck),
    }


def _multipliers(result: Result) -> dict[str, float]:
    """Return the compute multipliers with the ends of their intervals, inf or 0 for those beyond the budgets."""
    units = {unit: getattr(result.multiplier, unit, None) for unit in ("tokens", "flops", "seconds")}
    return {
        f"multiplier_{unit}{end and '_' + end}": getattr(found, end or "value", float("nan"))
        for unit, found in units.items()
        for end in ("", "low", "high")
    }
