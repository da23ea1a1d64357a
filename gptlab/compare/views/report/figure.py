"""Parts that all figures of the report share. A figure is {"data": traces, "layout": layout}, as plotly.js reads it.

Figures are plain dictionaries, since building plotly's own objects takes longer than everything else. A trace's
`legendgroup` is the index of its arm among the results.
"""

from html import escape
from textwrap import wrap
from typing import Any

from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.views.report.theme import named

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"

Figure = dict[str, Any]


def text(plain: str, width: int = 34, lines: int = 2) -> str:
    """Return text for plotly.js, which interprets tags: escaped, and cut to `lines` lines of `width` characters."""
    return "<br>".join(escape(line, quote=False) for line in wrap(plain, width, max_lines=lines, placeholder=" …"))


def baseline_last(comparison: Comparison) -> list[tuple[int, Result]]:
    """Return the results with their indices in drawing order: the baseline comes last, on top of the others."""
    first, *others = enumerate(comparison.results)
    return [*others, first]


def layout(
    height: int, x: str, y: str, *, xaxis: Figure | None = None, yaxis: Figure | None = None, **more: Any
) -> Figure:
    """Return a layout with axis titles `x` and `y` and a height in pixels; the width is the page's."""
    axis = {"gridcolor": named("line"), "linecolor": named("line"), "zeroline": False, "automargin": True}
    title = {"standoff": 12}
    return {
        "height": height,
        "paper_bgcolor": named("page"),
        "plot_bgcolor": named("page"),
        "font": {"family": FONT, "size": 13, "color": named("ink")},
        "hoverlabel": {"bgcolor": named("panel"), "bordercolor": named("line"), "font": {"color": named("ink")}},
        "margin": {"l": 20, "r": 20, "t": 16, "b": 20},
        "showlegend": False,  # the page has its own legend, which wraps
        "hovermode": "closest",
        "uirevision": "kept",  # the zoom survives a change of the theme
        "xaxis": axis | {"title": title | {"text": text(x, 90)}} | (xaxis or {}),
        "yaxis": axis | {"title": title | {"text": text(y, 45)}} | (yaxis or {}),
        **more,
    }


def vertical(x: float, colour: str, dash: str = "solid") -> Figure:
    """Return a vertical line through the whole figure."""
    line = {"color": named(colour), "width": 1, "dash": dash}
    return {"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": line}


def horizontal(y: float, colour: str, dash: str = "solid") -> Figure:
    """Return a horizontal line through the whole figure."""
    line = {"color": named(colour), "width": 1, "dash": dash}
    return {"type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": line}
