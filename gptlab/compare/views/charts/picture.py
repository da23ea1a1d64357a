"""The comparison as one static picture: effects at the left, curves at the right, and the means of a grid below."""

from typing import Any

from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.views.charts.chart import View, complete, layer, layered, lines, rendered
from gptlab.compare.views.charts.curves import HEIGHT, learning_curves
from gptlab.compare.views.charts.forest import effects
from gptlab.compare.views.charts.means import heat_maps
from gptlab.compare.views.charts.theme import named, style
from gptlab.config import ConfigError
from gptlab.runs.metrics import metric_named

WIDTHS = (480, 620)  # pixels of effects and curves
GAP = 150  # pixels between them, for the verdicts
MAP_WIDTH, MAPS_PER_ROW = 300, 3
LEGEND_COLUMNS = 5


def draw(comparison: Comparison, file_format: str) -> bytes:
    """Return the picture as png, pdf or svg.

    Raises:
        ConfigError: no run has logged the metric twice, so there is no curve.
    """
    if not any(len(curve) > curve["seed"].nunique() for curve in comparison.curves.values()):
        metric = comparison.metric
        raise ConfigError(f"metric={metric}: no run has logged it or a loss twice; train for longer before you plot")
    better = metric_named(comparison.metric).better
    lost = "; a cross: diverged" if "diverged" in set(comparison.runs["state"]) else ""
    shaded = " Shaded: the margin." if comparison.margin > 0 else ""
    notes = (
        f"Dots: single seeds. Lines: simultaneous 95 % intervals.{shaded} {better.capitalize()} is better.",
        f"Lines: means of the finished seeds; bands: from the lowest to the highest{lost}.",
    )
    params: dict[str, Any] = {}
    top: list[View] = []
    for chart, width, note in zip((effects(comparison), learning_curves(comparison)), WIDTHS, notes, strict=True):
        if chart:
            params |= chart.params
            title = {"text": note, "anchor": "start", "fontSize": 12, "color": named("muted")}
            size = {"width": width, "height": max(chart.view["height"], HEIGHT)}
            top.append(chart.view | size | {"title": title})
    rows = [{"hconcat": top, "spacing": GAP}]
    maps = heat_maps(comparison.factorial, comparison) if comparison.factorial else []
    for start in range(0, len(maps), MAPS_PER_ROW):
        rows.append({"hconcat": [chart.view | {"width": MAP_WIDTH} for chart in maps[start : start + MAPS_PER_ROW]]})
    title = {"text": lines(comparison.question or "", 110), "anchor": "start", "fontSize": 17, "offset": 14}
    view = {"vconcat": [*rows, _legend(comparison)], "title": title, "autosize": "pad", "spacing": 24}
    return rendered(complete(view, params | {"bands": True}), file_format)


def _legend(comparison: Comparison) -> dict[str, Any]:
    """Return a line of arms with their colours."""
    rows: list[dict[str, Any]] = []
    for place, result in enumerate(comparison.results):
        name = result.name if place else f"{result.name}, the baseline"
        at = {"x": place % LEGEND_COLUMNS, "y": place // LEGEND_COLUMNS}
        rows.append(at | {"arm": name, "colour": named(style(place).colour)})
    shared: dict[str, Any] = {
        "x": {"field": "x", "type": "quantitative", "axis": None, "scale": {"domain": [0, LEGEND_COLUMNS]}},
        "y": {"field": "y", "type": "ordinal", "axis": None},
        "color": {"field": "colour", "type": "nominal", "scale": None},
    }
    names = {"align": "left", "dx": 10, "limit": 230, "fontSize": 12}
    layers = [
        layer(rows, "point", {"filled": True, "size": 90, "opacity": 1}, **shared),
        layer(rows, "text", names, **shared, text={"field": "arm"}),
    ]
    return layered(layers, 22 * (1 + rows[-1]["y"])) | {"width": sum(WIDTHS) + GAP}
