"""The tables as text, column by column. The terminal and Markdown print the same cells."""

from collections.abc import Callable, Iterator
from typing import Any

from gptlab.compare.analysis.comparison import (
    CONFIDENCE,
    Breakdown,
    Comparison,
    Factorial,
    Result,
)
from gptlab.compare.columns import SHOWN_COLUMNS, Column
from gptlab.compare.formatting import number, p_value, percent, plus_minus
from gptlab.compare.read.runs import AXES
from gptlab.compare.views.budget_captions import reading_of
from gptlab.compare.views.captions import difference_of, verdict_of

Cells = dict[str, list[str]]  # title -> cells; a title may be broken at "\n"
GATE, TREND = "at all\nrungs", "per tenfold\ncompute"
PUBLISHED, AGREEMENT = "published", "agreement"
# Columns of text, which is aligned at the left and may be folded
TEXT_TITLES = ("verdict", "levels", GATE, TREND, AGREEMENT)
STATE_TITLES = {"diverged": "di-\nverged", "failed": "failed", "unfinished": "unfin-\nished"}


def verdict_cells(comparison: Comparison) -> Cells:
    """Return the columns of the first table: seeds, mean, difference, p and verdict."""
    results = comparison.results
    cells = {
        "n": [f"{r.states['finished']}" for r in results],
        f"{comparison.metric}\nmean ± sd": [plus_minus(r.mean, r.sd) for r in results],
    }
    if len(results) == 1:
        return cells
    return cells | {
        f"difference\n± {CONFIDENCE:.0%}": [difference_of(r) for r in results],
        "p\n(Holm)": [p_value(r.effect.p_holm) if r.effect else "" for r in results],
        "verdict": [verdict_of(comparison, r) for r in results],
    }


def multiplier_cells(comparison: Comparison) -> Cells:
    """Return the columns of compute multipliers, for the arms that multiplied_arms returns."""
    arms = multiplied_arms(comparison)
    in_units = [(m.tokens, m.flops, m.seconds, bool(m.unsteady)) for m in (r.multiplier for r in arms) if m is not None]
    return {
        "tokens": [str(tokens) for tokens, _, _, _ in in_units],
        "FLOPs": [str(flops) for _, flops, _, _ in in_units],
        "seconds": [f"{seconds}{' *' * unreliable}" for _, _, seconds, unreliable in in_units],
    }


def multiplied_arms(comparison: Comparison) -> list[Result]:
    """Return the arms that have a compute multiplier."""
    return [r for r in comparison.results if r.multiplier is not None and not r.multiplier.tokens.reason]


def cost_cells(comparison: Comparison) -> Cells:
    """Return the columns of costs and of runs that did not finish.

    The baseline's costs are absolute; those of the other arms are relative to the baseline.
    """
    cells = {column.title: _relative(comparison, column) for column in SHOWN_COLUMNS}
    cells["stuck"] = [f"{len(r.stuck)}" for r in comparison.results]
    for state, title in STATE_TITLES.items():
        if state == "diverged" or any(r.states[state] for r in comparison.results):
            cells[title] = [f"{r.states[state]}" for r in comparison.results]
    return cells


def _relative(comparison: Comparison, column: Column) -> list[str]:
    reference = comparison.baseline.costs[column.key]
    return [column.format(reference), *(percent(r.costs[column.key], reference) for r in comparison.results[1:])]


def breakdown_cells(breakdown: Breakdown) -> Cells:
    """Return a column of means for each level of the breakdown."""
    return {level: [plus_minus(mean, sd) for mean, sd in arms] for level, arms in breakdown.levels.items()}


def equal_budget_cells(comparison: Comparison) -> Cells:
    """Return a column of differences and verdicts for each equal budget, without a row for the baseline."""
    return {
        f"equal {AXES[equal.axis].word}": [
            reading_of(equal.readings[r.name]) if r.name in equal.readings else "left out"
            for r in comparison.results[1:]
        ]
        for equal in comparison.equal_budgets
    }


def factorial_cells(factorial: Factorial) -> Cells:
    """Return the table of effects over a grid; its first column is the name of the effect."""
    rows = factorial.effects.to_dict("records")
    columns: dict[str, Callable[[dict[Any, Any]], str]] = {
        "effect of": lambda row: row["slots"],
        "levels": lambda row: row["levels"],
        f"effect\n± {CONFIDENCE:.0%}": lambda row: plus_minus(row["effect"], row["high"] - row["effect"], "+"),
        "p\n(Holm)": lambda row: p_value(row["p_holm"]),
        "verdict": lambda row: row["verdict"],
    }
    if not any(row["verdict"] for row in rows):  # a fraction of a grid
        columns.pop("verdict")
    return {title: [cell(row) for row in rows] for title, cell in columns.items()}


def mean_cells(factorial: Factorial) -> Iterator[tuple[str, Cells]]:
    """Yield, for each pair of settings, a title and the table of means: levels of the first down, the second across."""
    for (down, across), means in factorial.means.items():
        cells = {f"{down} \\ {across}": [str(level) for level in means.index]}
        yield f"{down} x {across}", cells | {str(k): [number(v) for v in column] for k, column in means.items()}
