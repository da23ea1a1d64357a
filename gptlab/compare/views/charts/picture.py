"""The comparison as one static picture: effects at the left, curves at the right, and the means of a grid below."""

from typing import Any

from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.views.charts.chart import View, complete, lines, rendered
from gptlab.compare.views.charts.curves import HEIGHT, learning_curves
from gptlab.compare.views.charts.forest import effects
from gptlab.compare.views.charts.legend import legend
from gptlab.compare.views.charts.means import heat_maps
from gptlab.compare.views.charts.theme import named
from gptlab.compare.views.labels import short_names
from gptlab.config import ConfigError
from gptlab.runs.metrics import metric_named

WIDTHS = (480, 620)  # pixels of effects and curves
GAP = 150  # pixels between them, for the verdicts
MAP_WIDTH, MAPS_PER_ROW = 300, 3


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
    view = {
        "vconcat": [*rows, legend(_named(comparison), sum(WIDTHS) + GAP)],
        "title": title,
        "autosize": "pad",
        "spacing": 24,
    }
    return rendered(complete(view, params | {"bands": True}), file_format)


def _named(comparison: Comparison) -> dict[str, int]:
    """Return the places of the arms by the names in the legend."""
    names = short_names(comparison.results)
    first, *others = comparison.results
    shown = {f"{names[first.name]}, the baseline": comparison.places[first.name]}
    return shown | {names[result.name]: comparison.places[result.name] for result in others}
