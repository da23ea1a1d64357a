"""Effects with their intervals, one below the other, against the margin."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from gptlab.compare.analysis.comparison import Comparison, Effect, Factorial, Result
from gptlab.compare.views.charts.chart import Chart, arms, layer, layered, lines, quantitative, rule, scale, tooltip
from gptlab.compare.views.charts.formatting import metric_label, p_value, sign_of, signed
from gptlab.compare.views.charts.theme import BASELINE, named
from gptlab.compare.views.labels import short_names

ROW = 40  # pixels
FAR = 3  # times the largest mean or the margin; an interval that reaches farther leaves the chart with an arrow
LETTER = 7.5  # pixels per letter of a note


@dataclass(frozen=True)
class Row:
    """One effect. `details` are the lines of its tooltip, by title."""

    label: list[str]
    mean: float
    low: float
    high: float
    details: dict[str, str]
    place: int  # index of the arm
    note: str  # text at the right
    tone: str  # the note's colour
    symbol: str = ""  # before the note, a text of its own since few fonts have it
    shape: str = "circle"  # Vega's name of the point's shape
    pairs: Sequence[float] = ()  # the paired differences that `mean` is the mean of


def effects(comparison: Comparison) -> Chart | None:
    """Return the difference of each arm from its reference, with the differences of the single seeds."""
    names = short_names(comparison.results)
    rows = [
        _effect_row(result, result.effect, place, comparison, names[result.name])
        for place, result in enumerate(comparison.results)
        if result.effect is not None
    ]
    return forest(rows, comparison)


def _effect_row(result: Result, effect: Effect, place: int, comparison: Comparison, name: str) -> Row:
    reference = next((r for r in comparison.results if r.name == result.reference), comparison.baseline)
    sign = sign_of(effect.verdict)
    pairs = (result.scores - reference.scores).dropna()
    return Row(
        label=lines(name, 34),
        mean=effect.mean,
        low=effect.low,
        high=effect.high,
        details={
            "arm": result.name,
            "settings": result.differs,
            "against": reference.name,
            "difference": signed(effect.mean),
            "interval": f"{signed(effect.low)} to {signed(effect.high)}, at {effect.confidence:.2%}",
            "Holm's p": f"{p_value(effect.p_holm)}, {effect.pairs} pairs",
        },
        place=place,
        symbol=sign.symbol,
        note=effect.verdict,
        tone=sign.tone,
        pairs=list(pairs) if len(pairs) > 1 else [],
    )


def factorial_effects(factorial: Factorial, comparison: Comparison) -> Chart | None:
    """Return the main effects of a grid, then its interactions."""
    rows = [
        Row(
            label=[lines(effect["slots"], 34, 1)[0], lines(effect["levels"], 34, 1)[0]],
            mean=effect["effect"],
            low=effect["low"],
            high=effect["high"],
            details={
                f"{effect['kind']} effect": f"{effect['slots']}: {effect['levels']}",
                "difference": signed(effect["effect"]),
                "interval": f"{signed(effect['low'])} to {signed(effect['high'])}",
                "Holm's p": p_value(effect["p_holm"]),
            },
            place=0,
            symbol=sign_of(effect["verdict"]).symbol if effect["verdict"] else "",
            note=effect["verdict"] or f"p {p_value(effect['p_holm'])}",
            tone=sign_of(effect["verdict"]).tone if effect["verdict"] else "muted",
            shape="circle" if effect["kind"] == "main" else "diamond",
        )
        for effect in factorial.effects.to_dict("records")
        if isfinite(effect["effect"])
    ]
    return forest(rows, comparison)


def forest(rows: list[Row], comparison: Comparison) -> Chart | None:
    """Return a chart with a row for each effect, a band for differences within the margin, and a line at zero."""
    if not any(isfinite(row.mean) for row in rows):
        return None
    margin = comparison.margin if isfinite(comparison.margin) else 0.0
    left, right = _ends(rows, margin)
    x = quantitative("x", f"difference in {metric_label(comparison.metric)}", scale([left, right]), format="~f")
    labels = {"labelExpr": "labels[datum.value]", "labelLimit": 300, "grid": False, "ticks": False, "domain": False}
    y = {"field": "row", "type": "ordinal", "scale": {"domain": list(range(len(rows)))}, "title": None, "axis": labels}
    points = [point for number, row in enumerate(rows) for point in _points(row, number, left, right)]
    colour = arms(comparison)
    shapes = {"field": "shape", "type": "nominal", "scale": None}
    hover = tooltip(**{str(i): title for i, title in enumerate(rows[0].details)})
    xy = {"x": x, "y": y, **colour}
    view = layered(
        [
            layer(
                [{"x": -margin, "x2": margin}],
                "rect",
                {"color": named("accent"), "opacity": 0.12},
                x=x,
                x2={"field": "x2"},
            ),
            rule(x, 0, BASELINE),
            layer(points_of(points, "interval"), "rule", {"strokeWidth": 2.5}, **xy, x2={"field": "x2"}, tooltip=hover),
            layer(points_of(points, "arrow"), "point", {"filled": True, "size": 90}, **xy, shape=shapes),
            layer(
                points_of(points, "mean"),
                "point",
                {"filled": True, "size": 110, "opacity": 1},
                **xy,
                shape=shapes,
                tooltip=hover,
            ),
            layer(
                points_of(points, "seed"),
                "point",
                {"filled": True, "size": 22, "opacity": 0.5, "yOffset": 11},
                **xy,
                tooltip=[{"field": "x", "type": "quantitative", "title": "one seed", "format": "+.4f"}],
            ),
            layer(
                points_of(points, "note"),
                "text",
                {"align": "left", "dx": {"expr": "datum.dx"}, "fontSize": 13},
                y=y,
                x={"value": "width"},
                text={"field": "note"},
                color={"field": "tone", "type": "nominal", "scale": None},
            ),
        ],
        ROW * len(rows),
    )
    params = {"labels": [row.label for row in rows]}
    room = int(24 + LETTER * max(len(row.note) for row in rows))
    return Chart(view, params, {"right": room})


def points_of(points: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Return the rows of one layer."""
    return [{key: value for key, value in point.items() if key != "kind"} for point in points if point["kind"] == kind]


def _ends(rows: list[Row], margin: float) -> tuple[float, float]:
    """Return the ends of the axis. The wide interval of two seeds must not flatten all others."""
    means = [x for row in rows for x in (row.mean, *row.pairs) if isfinite(x)]
    near = np.array([0.0, -margin, margin, *means])
    far = FAR * np.abs(near).max()
    ends = [*near, *(float(np.clip(x, -far, far)) for row in rows for x in (row.low, row.high) if isfinite(x))]
    pad = 0.05 * (max(ends) - min(ends)) or 1.0
    return float(min(ends) - pad), float(max(ends) + pad)


def _points(row: Row, number: int, left: float, right: float) -> Iterator[dict[str, Any]]:
    details = {str(i): value for i, value in enumerate(row.details.values())}
    base = {"row": number, "place": row.place}
    for text, dx in ((row.symbol, 12), (row.note, 30 if row.symbol else 12)):
        yield base | {"kind": "note", "note": text, "dx": dx, "tone": named(row.tone)}
    if isfinite(row.low) and isfinite(row.high):
        yield base | details | {"kind": "interval", "x": max(row.low, left), "x2": min(row.high, right)}
        if row.low < left:
            yield base | {"kind": "arrow", "x": left, "shape": "triangle-left"}
        if row.high > right:
            yield base | {"kind": "arrow", "x": right, "shape": "triangle-right"}
    if isfinite(row.mean):
        yield base | details | {"kind": "mean", "x": row.mean, "shape": row.shape}
    yield from (base | {"kind": "seed", "x": difference} for difference in row.pairs)
