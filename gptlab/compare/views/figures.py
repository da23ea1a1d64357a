"""The figures of the report as PDF files for a paper: as wide as a column, with their letters as text."""

import re
from collections.abc import Iterator, Mapping
from math import ceil

from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.analysis.over_rungs import RungsComparison
from gptlab.compare.views.charts.all import comparison_charts
from gptlab.compare.views.charts.chart import Chart, View, complete, rendered
from gptlab.compare.views.charts.legend import legend
from gptlab.compare.views.charts.rungs import rungs_charts
from gptlab.compare.views.labels import short_names, short_names_over

COLUMN = 234  # points, 3.25 inches: a column of a paper with two
SCALE = 2 / 3  # points per pixel of a chart, whose letters of 12 pixels become 8 points
WIDTH = int(COLUMN / SCALE)  # pixels
HIGHEST = 280  # pixels of a plot; the rows of a forest keep their height
NARROWEST = 60  # pixels of a plot
TICKS = 5
TRIES = 3  # of its width
WITH_ROWS = {"forest": "effects", "factorial": "grid-effects"}  # charts with a row for each effect, and their files
WITHOUT_ARMS = "means"  # the beginning of the name of a chart that draws no arm
SIZE = re.compile(r'width="([\d.]+)" height="([\d.]+)"')


def comparison_figures(comparison: Comparison) -> dict[str, bytes]:
    """Return the PDF file of each figure, by its name."""
    names = short_names(comparison.results)
    places = {names[result.name]: comparison.places[result.name] for result in comparison.results}
    return dict(_figures(comparison_charts(comparison), places))


def rungs_figures(comparison: RungsComparison) -> dict[str, bytes]:
    """Return the PDF files of the figures over the rungs, then of those at each rung, whose name comes first."""
    places = {name: place for place, name in enumerate(short_names_over(comparison).values())}
    figures = dict(_figures(rungs_charts(comparison), places))
    for rung in comparison.rungs:
        figures |= {f"{rung.name}-{name}": pdf for name, pdf in comparison_figures(rung.comparison).items()}
    return figures


def _figures(charts: Mapping[str, Chart], places: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    for name, chart in charts.items():
        if name in WITH_ROWS:
            yield f"{WITH_ROWS[name]}.pdf", _pdf(chart.view, chart, {})
        else:
            named = {} if name.startswith(WITHOUT_ARMS) or len(places) < 2 else places
            yield f"{name}.pdf", _pdf(_low(_without_names(chart.view)), chart, named)


def _without_names(view: View) -> View:
    """Return a view without the names beside its points, which the legend has and a column has no room for."""
    named = [layer for layer in view["layer"] if layer["mark"]["type"] == "text" and "place" in _first_row(layer)]
    return view | {"layer": [layer for layer in view["layer"] if layer not in named]}


def _first_row(layer: View) -> View:
    return next(iter(layer["data"]["values"]), {})


def _low(view: View) -> View:
    return view | {"height": min(view["height"], HIGHEST)}


def _with_few_ticks(view: View) -> View:
    """Return a view with as many numbers along x as a column has room for."""
    layers = []
    for layer in view["layer"]:
        x = layer["encoding"].get("x", {})
        if "tickCount" in (x.get("axis") or {}):
            x = x | {"axis": x["axis"] | {"tickCount": min(x["axis"]["tickCount"], TICKS), "labelSeparation": 8}}
            layer = layer | {"encoding": layer["encoding"] | {"x": x}}
        layers.append(layer)
    return view | {"layer": layers}


def _pdf(view: View, chart: Chart, places: Mapping[str, int]) -> bytes:
    """Return a view with the legend of the arms below it, at most as wide as a column. Its fonts are embedded."""
    import vl_convert

    plot = WIDTH
    for _ in range(TRIES):  # the room that the labels of the axes take is known when they are drawn
        svg = rendered(_specification(view, chart, places, plot), "svg").decode()
        width, height = (float(length) for length in SIZE.findall(svg)[0])
        if width <= WIDTH or plot == NARROWEST:
            break
        plot = max(NARROWEST, plot - ceil(width - WIDTH))
    small = f'width="{width * SCALE:g}" height="{height * SCALE:g}"'
    return vl_convert.svg_to_pdf(SIZE.sub(small, svg, count=1))


def _specification(view: View, chart: Chart, places: Mapping[str, int], plot: int) -> View:
    sized = _with_few_ticks(view) | {"width": plot}
    whole = {"vconcat": [sized, legend(places, plot)], "spacing": 8} if places else sized
    padding = {"left": 2, "right": 4, "top": 4, "bottom": 2}
    return complete(whole, chart.params) | {"autosize": "pad", "padding": padding}
