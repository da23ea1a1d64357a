"""Forest plots: effects with their intervals, one below the other, and the margin."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from gptlab.compare.analysis.comparison import Comparison, Effect, Factorial, Result
from gptlab.compare.views.report.figure import Figure, layout, text, vertical
from gptlab.compare.views.report.formatting import metric_label, p_value, sign_of, signed
from gptlab.compare.views.report.theme import BASELINE, Style, named, style

ROW_HEIGHT = 40  # pixels
MOST_REACH = 3  # times the largest mean or the margin; an interval that reaches farther ends in an arrow


@dataclass(frozen=True)
class Row:
    """One effect of a forest plot."""

    label: str
    mean: float
    low: float
    high: float
    hover: str
    style: Style
    index: int  # of the arm among the results
    note: str  # at the right
    tone: str = "muted"  # colour of the note
    pairs: Sequence[float] = ()  # the differences of the single seeds


def effects(comparison: Comparison) -> Figure | None:
    """Plot each arm's difference from its reference, and the difference for each seed."""
    rows = [
        _effect_row(result, result.effect, index, comparison)
        for index, result in enumerate(comparison.results)
        if result.effect is not None
    ]
    return forest(rows, comparison.margin, f"difference in {metric_label(comparison.metric)}")


def _effect_row(result: Result, effect: Effect, index: int, comparison: Comparison) -> Row:
    reference = next((r for r in comparison.results if r.name == result.reference), comparison.baseline)
    sign = sign_of(effect.verdict)
    pairs = (result.scores - reference.scores).dropna()
    return Row(
        label=text(result.name),
        mean=effect.mean,
        low=effect.low,
        high=effect.high,
        hover=f"<b>{text(result.name, 60)}</b><br>{signed(effect.mean)} against {text(reference.name, 50, 1)}"
        f"<br>95 % t interval: {signed(effect.low)} to {signed(effect.high)}"
        f"<br>95 % bootstrap interval: {signed(effect.boot_low)} to {signed(effect.boot_high)}"
        f"<br>Holm's p: {p_value(effect.p_holm)}, {effect.pairs} pairs<br>{sign.symbol} {effect.verdict}",
        style=style(index),
        index=index,
        note=f"{sign.symbol} {effect.verdict}",
        tone=sign.tone,
        pairs=list(pairs) if len(pairs) > 1 else [],
    )


def factorial_effects(factorial: Factorial, comparison: Comparison) -> Figure | None:
    """Plot the main effects, then the interactions."""
    rows = [
        Row(
            label=f"<b>{text(effect['slots'])}</b><br>{text(effect['levels'], lines=1)}",
            mean=effect["effect"],
            low=effect["low"],
            high=effect["high"],
            hover=f"<b>{text(effect['slots'], 60)}</b>: {text(effect['levels'], 60)}<br>{effect['kind']} effect"
            f" {signed(effect['effect'])}, 95 %: {signed(effect['low'])} to {signed(effect['high'])}"
            f"<br>Holm's p: {p_value(effect['p_holm'])}",
            style=style(0) if effect["kind"] == "main" else Style("muted", "solid", "diamond"),
            index=0,
            note=f"p {p_value(effect['p_holm'])}",
            tone=BASELINE if effect["p_holm"] < 0.05 else "muted",
        )
        for effect in factorial.effects.to_dict("records")
        if isfinite(effect["effect"])
    ]
    return forest(rows, comparison.margin, f"difference in {metric_label(comparison.metric)}")


def forest(rows: list[Row], margin: float, title: str) -> Figure | None:
    """Plot a row for each effect, a band for differences within ±margin, and a line at zero."""
    if not any(isfinite(row.mean) for row in rows):
        return None
    margin = margin if isfinite(margin) else 0.0
    left, right = _ends(rows, margin)
    band = {"type": "rect", "xref": "x", "yref": "paper", "x0": -margin, "x1": margin, "y0": 0, "y1": 1}
    note = {"x": 1, "xref": "paper", "xanchor": "left", "xshift": 10, "showarrow": False, "align": "left"}
    shown = layout(
        80 + ROW_HEIGHT * len(rows),
        title,
        "",
        xaxis={"range": [left, right], "tickformat": "~r"},
        yaxis={
            "tickvals": list(range(len(rows))),
            "ticktext": [row.label for row in rows],
            "range": [len(rows) - 0.5, -0.5],
            "showgrid": False,
            "fixedrange": True,
        },
        shapes=[
            band | {"fillcolor": named("accent", 0.12), "line": {"width": 0}, "layer": "below"},
            vertical(0, BASELINE),
        ],
        annotations=[
            note | {"text": row.note, "y": y, "font": {"color": named(row.tone)}} for y, row in enumerate(rows)
        ],
    )
    shown["margin"]["r"] = 24 + 8 * max(len(row.note) for row in rows)
    return {"data": [trace for y, row in enumerate(rows) for trace in _traces(row, y, left, right)], "layout": shown}


def _ends(rows: list[Row], margin: float) -> tuple[float, float]:
    """Return the ends of the axis.

    The interval of an arm with two seeds, 12.7 standard errors to each side, must not flatten all the others.
    """
    means = [x for row in rows for x in (row.mean, *row.pairs) if isfinite(x)]
    near = np.array([0.0, -margin, margin, *means])
    far = MOST_REACH * np.abs(near).max()
    all_ends = [*near, *(np.clip(x, -far, far) for row in rows for x in (row.low, row.high) if isfinite(x))]
    pad = 0.05 * (max(all_ends) - min(all_ends)) or 1.0
    return min(all_ends) - pad, max(all_ends) + pad


def _traces(row: Row, y: int, left: float, right: float) -> Iterator[dict[str, Any]]:
    colour = named(row.style.colour)
    same = {"type": "scatter", "legendgroup": str(row.index), "hovertemplate": row.hover + "<extra></extra>"}
    points = same | {"mode": "markers", "y": [y]}
    if isfinite(row.low) and isfinite(row.high):
        ends = [max(row.low, left), min(row.high, right)]
        yield same | {"x": ends, "y": [y, y], "mode": "lines", "line": {"color": colour, "width": 2.5}}
        for cut, x, symbol in ((row.low < left, left, "left"), (row.high > right, right, "right")):
            if cut:
                yield points | {"x": [x], "marker": {"color": colour, "symbol": f"triangle-{symbol}", "size": 10}}
    if isfinite(row.mean):
        yield points | {"x": [row.mean], "marker": row.style.marker(size=11)}
    if row.pairs:
        yield points | {
            "x": list(row.pairs),
            "y": [y + 0.28] * len(row.pairs),
            "marker": {"color": named(row.style.colour, 0.5), "size": 5},
            "hovertemplate": "one seed: %{x:+.4f}<extra></extra>",
        }
