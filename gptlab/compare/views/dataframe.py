"""A comparison as a table of numbers, one row per arm: for Python and for a CSV file."""

from dataclasses import fields
from typing import Any

import pandas as pd

from gptlab.compare.analysis.comparison import Comparison, Effect, Result

OF_EFFECT = {"mean": "difference", "sd": "sd_difference"}  # whose names in Effect would say too little here


def tabulate(comparison: Comparison) -> pd.DataFrame:
    """The baseline first. NaN is what cannot be known, and what the baseline has not.

    mean, std: of the metric over the finished `seeds`; std with n - 1. difference and what follows up to `note`: an
    Effect, of the arm minus its `reference`.
    """
    return pd.DataFrame([_row(result) for result in comparison.results])


def _row(result: Result) -> dict[str, Any]:
    names = {f.name: OF_EFFECT.get(f.name, f.name) for f in fields(Effect)}
    missing = dict.fromkeys(names, float("nan")) | {"pairs": 0, "verdict": "baseline", "note": ""}
    effect = {name: getattr(result.effect, name) for name in names} if result.effect else missing
    costs = dict(result.costs)
    return {
        "arm": result.name,
        "differs": result.differs,
        "reference": result.reference or "",
        "seeds": result.states["finished"],
        "mean": result.mean,
        "std": result.sd,
        **{names[name]: value for name, value in effect.items()},
        **costs,
        **{state: result.states[state] for state in ("diverged", "failed", "unfinished")},
    }
