"""A comparison as a DataFrame with one row per arm, for Python and for CSV files."""

from dataclasses import fields
from math import nan
from typing import Any

import pandas as pd

from gptlab.compare.analysis.comparison import Comparison, Effect, Result
from gptlab.compare.analysis.over_rungs import ArmOverRungs, RungsComparison

ENDS = ("", "low", "high")  # of an interval; "" for the value itself

EFFECT_NAMES = {"mean": "difference", "sd": "sd_difference"}  # clearer than the names in Effect, next to the arm's mean


def tabulate(comparison: Comparison) -> pd.DataFrame:
    """Return the table of arms, the baseline first, with NaN where a value is undefined.

    mean and std are those of the metric over the finished seeds, std with n - 1. The columns from pairs to note are an
    Effect, of the arm minus its `reference`; the baseline has none. `verdict` is its word with its standing. Where
    something was published, the last columns are `published` and `agreement`.
    """
    table = pd.DataFrame([_row(result) for result in comparison.results])
    if comparison.published:
        lines = {line.arm: line for line in comparison.published.lines}
        for column in ("published", "agreement"):
            table[column] = [getattr(lines.get(arm), column, "") for arm in table["arm"]]
    return table


def tabulate_rungs(comparison: RungsComparison) -> pd.DataFrame:
    """Return the tables of all rungs, one below the other.

    The columns rung, rung_flops, at_all_rungs, p_all_rungs (Holm's), trend, trend_per_decade (a factor) with its ends,
    and projected with its ends stand before those of `tabulate`; an arm has the same ones at every rung.
    """
    over = {arm.name: arm for arm in comparison.arms}
    tables = []
    for rung in comparison.rungs:
        table = tabulate(rung.comparison)
        more = pd.DataFrame([_over_rungs(over.get(name)) for name in table["arm"]])
        place = pd.DataFrame({"rung": rung.name, "rung_flops": rung.flops}, index=table.index)
        tables.append(pd.concat([place, more, table], axis=1))
    return pd.concat(tables, ignore_index=True)


def _over_rungs(arm: ArmOverRungs | None) -> dict[str, Any]:
    """Return the columns about all rungs; those of the baseline are empty."""
    if arm is None:
        return {"at_all_rungs": "baseline"}
    projected = [getattr(arm.projection, end or "value", nan) for end in ENDS]
    return {
        "at_all_rungs": f"{arm.word} ({arm.standing})" if arm.standing else arm.word,
        "p_all_rungs": arm.p_holm,
        "trend": arm.trend.word,
        **dict(zip(_named("trend_per_decade"), arm.trend.per_decade, strict=True)),
        **dict(zip(_named("projected"), projected, strict=True)),
    }


def _named(number: str) -> list[str]:
    """Return the names of the columns of a number and of the ends of its interval."""
    return [f"{number}{end and '_' + end}" for end in ENDS]


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
        name: getattr(found, end or "value", float("nan"))
        for unit, found in units.items()
        for name, end in zip(_named(f"multiplier_{unit}"), ENDS, strict=True)
    }
