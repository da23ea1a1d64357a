"""The means of a grid, for each pair of its slots."""

from math import isfinite

from gptlab.compare.analysis.comparison import Comparison, Factorial
from gptlab.compare.views.charts.chart import Chart, View, layer, layered, lines, tooltip
from gptlab.compare.views.charts.formatting import number
from gptlab.compare.views.charts.theme import named

CELL = 46  # pixels


def heat_maps(factorial: Factorial, comparison: Comparison) -> list[Chart]:
    """Return a heat map for each pair of slots, all on one scale of colours, the strongest for the lowest mean."""
    known = [v for means in factorial.means.values() for v in means.to_numpy(dtype=float).ravel() if isfinite(v)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    domain = [low, high if high > low else low + 1]
    colour = {"scale": {"domain": domain, "range": [named("low"), named("high")]}, "legend": None}
    charts = []
    for (down, across), means in factorial.means.items():
        rows = [
            {down: str(i), across: str(j), "mean": value, "text": number(value)}
            for i, row in means.astype(float).iterrows()
            for j, value in row.items()
        ]
        xy = {"x": _levels(across, list(map(str, means.columns))), "y": _levels(down, list(map(str, means.index)))}
        hover = tooltip(**{_escaped(down): down, _escaped(across): across, "text": comparison.metric})
        view = layered(
            [
                layer(
                    [row for row in rows if isfinite(row["mean"])],
                    "rect",
                    {"cornerRadius": 2},
                    **xy,
                    color={"field": "mean", "type": "quantitative", **colour},
                    tooltip=hover,
                ),
                layer(rows, "text", {"color": named("ink"), "fontSize": 13}, **xy, text={"field": "text"}),
            ],
            CELL * len(means),
        )
        charts.append(Chart(view))
    return charts


def _levels(setting: str, levels: list[str]) -> View:
    axis = {"labelAngle": 0, "labelLimit": 140, "domain": False, "ticks": False}
    return {
        "field": _escaped(setting),
        "type": "ordinal",
        "sort": levels,
        "title": lines(setting, 60, 1),
        "scale": {"paddingInner": 0.05},
        "axis": axis,
    }


def _escaped(field: str) -> str:
    """Escape the dots in a field's name, which Vega would read as a path."""
    return field.replace(".", "\\.")
