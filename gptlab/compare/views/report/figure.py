"""What all figures of the report share. A figure is {"data": traces, "layout": layout} as plotly.js reads it.

Plain dictionaries, since building plotly's own objects takes longer than all the rest. A trace's `legendgroup` is the
place of its arm among the results.
"""

from html import escape
from textwrap import wrap
from typing import Any

from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.views.report.theme import named

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"

Figure = dict[str, Any]


def text(words: str, width: int = 34, lines: int = 2) -> str:
    """`words` for plotly.js, which reads tags in text: escaped, and cut to so many lines of `width` characters."""
    return "<br>".join(escape(line, quote=False) for line in wrap(words, width, max_lines=lines, placeholder=" …"))


def baseline_last(comparison: Comparison) -> list[tuple[int, Result]]:
    """The results and their places, in the order in which they are drawn: the baseline lies on top."""
    first, *others = enumerate(comparison.results)
    return [*others, first]


def layout(
    height: int, x: str, y: str, *, xaxis: Figure | None = None, yaxis: Figure | None = None, **more: Any
) -> Figure:
    """A layout with axis titles `x` and `y`; `height` in pixels, the width is the page's."""
    axis = {"gridcolor": named("line"), "linecolor": named("line"), "zeroline": False, "automargin": True}
    title = {"standoff": 12}
    return {
        "height": height,
        "paper_bgcolor": named("page"),
        "plot_bgcolor": named("page"),
        "font": {"family": FONT, "size": 13, "color": named("ink")},
        "hoverlabel": {"bgcolor": named("panel"), "bordercolor": named("line"), "font": {"color": named("ink")}},
        "margin": {"l": 20, "r": 20, "t": 16, "b": 20},
        "showlegend": False,  # the page has its own, which wraps
        "hovermode": "closest",
        "uirevision": "kept",  # what the reader zoomed stays when the theme changes
        "xaxis": axis | {"title": title | {"text": text(x, 90)}} | (xaxis or {}),
        "yaxis": axis | {"title": title | {"text": text(y, 45)}} | (yaxis or {}),
        **more,
    }


def vertical(x: float, colour: str, dash: str = "solid") -> Figure:
    """A line through the whole height."""
    line = {"color": named(colour), "width": 1, "dash": dash}
    return {"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": line}


def horizontal(y: float, colour: str, dash: str = "solid") -> Figure:
    """A line through the whole width."""
    line = {"color": named(colour), "width": 1, "dash": dash}
    return {"type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": line}
