"""A chart as data, and what all charts share: axes, colours of arms, rendering to a picture.

A view is a Vega-Lite specification without its top level. Colours in it are names of the theme ("theme:ink"), which
the page and `rendered` replace by the colours of the theme in use. A row of data belongs to the arm at its `place`
among the results; the page hides arms by filtering on it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from textwrap import wrap
from typing import Any

from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.views.charts.theme import THEMES, named, style

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
DIGITS = 7  # significant digits of a number in a chart
PICTURE_SCALE = 1.0  # pixels of a PNG per pixel of the chart
MENU = 34  # pixels at the right for the page's button that saves a chart
BELOW = 62  # pixels of an axis with its title
NOT_HIDDEN = {"filter": "indexof(hidden, datum.place) < 0"}

View = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """One view with its parameters, and what the page's controls need to know."""

    view: View
    params: dict[str, Any] = field(default_factory=dict)
    controls: dict[str, Any] = field(default_factory=dict)

    @property
    def height(self) -> int:
        """The height of the chart with its axis, in pixels."""
        return int(self.view["height"]) + BELOW

    def specification(self) -> View:
        """Return the complete specification of this chart alone."""
        return {**complete(self.view, self.params), "usermeta": self.controls}


def complete(view: View, params: dict[str, Any]) -> View:
    """Add the top level of a specification to a view: parameters, schema, looks."""
    axis: View = {"gridColor": named("line"), "domainColor": named("line"), "tickColor": named("line")}
    axis |= {"labelColor": named("ink"), "titleColor": named("ink"), "titleFontWeight": "normal", "titlePadding": 12}
    whole: View = rounded(
        {
            "$schema": SCHEMA,
            "background": named("page"),
            "padding": {"left": 4, "right": MENU, "top": 6, "bottom": 4},
            "autosize": {"type": "fit-x", "contains": "padding"},
            "params": [{"name": name, "value": value} for name, value in {"hidden": [], **params}.items()],
            "config": {
                "font": FONT,
                "axis": axis | {"labelFontSize": 12, "titleFontSize": 13},
                "title": {"color": named("ink"), "fontWeight": "normal"},
                "view": {"stroke": None},
            },
            **view,
        }
    )
    return whole


def rendered(specification: View, file_format: str) -> bytes:
    """Return the picture of a specification in light colours, as png, pdf or svg."""
    import vl_convert

    light = coloured(specification, THEMES["light"])
    if file_format == "png":
        return vl_convert.vegalite_to_png(light, scale=PICTURE_SCALE)
    if file_format == "pdf":
        return vl_convert.vegalite_to_pdf(light)
    return vl_convert.vegalite_to_svg(light).encode()


def coloured(part: Any, theme: dict[str, str]) -> Any:
    """Return a copy of a part of a specification with every named colour replaced by the theme's."""
    if isinstance(part, dict):
        return {key: coloured(value, theme) for key, value in part.items()}
    if isinstance(part, list):
        return [coloured(value, theme) for value in part]
    match = re.fullmatch(r"theme:([a-z0-9-]+)", part) if isinstance(part, str) else None
    return theme[match[1]] if match else part


def rounded(part: Any) -> Any:
    """Return a copy with at most DIGITS significant digits in every number, and null for what is not finite."""
    if isinstance(part, dict):
        return {key: rounded(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [rounded(value) for value in part]
    if isinstance(part, bool) or not isinstance(part, float | int):
        return part
    if not isfinite(part):
        return None
    short = float(f"{part:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def layered(layers: Sequence[View | None], height: int, **more: Any) -> View:
    """Return a view of all layers, as wide as the page; None among them is left out."""
    return {"width": "container", "height": height, "layer": [layer for layer in layers if layer], **more}


def layer(rows: Iterable[dict[str, Any]], mark: str, looks: View | None = None, **encoding: Any) -> View:
    """Return a layer of marks for `rows`. When the page hides an arm, the rows with its place go too."""
    values = list(rows)
    by_arm = {"transform": [NOT_HIDDEN]} if values and "place" in values[0] else {}
    return {"data": {"values": values}, **by_arm, "mark": {"type": mark, **(looks or {})}, "encoding": encoding}


def rule(axis: View, value: float, colour: str, dash: Sequence[int] = ()) -> View:
    """Return a line across the whole chart at one value of x or y, whose encoding is `axis`."""
    looks = {"color": named(colour), "strokeDash": list(dash)}
    return layer([{axis["field"]: value}], "rule", looks, **{axis["field"]: axis})


def quantitative(field_name: str, title: str, scale: View, width: int = 90, **axis: Any) -> View:
    """Return the encoding of a number, with a title wrapped to `width` characters."""
    axis = {"format": "~g", "tickCount": 8, "labelOverlap": True, **axis}
    return {"field": field_name, "type": "quantitative", "title": lines(title, width), "scale": scale, "axis": axis}


def scale(domain: Sequence[float] | None = None, type: str = "linear", **more: Any) -> View:
    """Return a scale over exactly this domain, or over the data without forcing zero into it."""
    no_zero = {"zero": False} if type == "linear" else {}
    return {"type": type, **no_zero, "nice": False, **({} if domain is None else {"domain": list(domain)}), **more}


def arms(comparison: Comparison, *channels: str) -> View:
    """Return encodings that give each arm its colour, and on request its "dash" and "shape", without a legend."""
    styles = [style(comparison.places[result.name]) for result in comparison.results]
    ranges = {
        "color": [named(s.colour) for s in styles],
        "strokeDash": [s.dash for s in styles],
        "shape": [s.symbol for s in styles],
    }
    names = ["color", *({"dash": "strokeDash"}.get(channel, channel) for channel in channels)]
    domain = list(range(len(styles)))
    return {
        name: {"field": "place", "type": "nominal", "scale": {"domain": domain, "range": ranges[name]}, "legend": None}
        for name in names
    }


def tooltip(**titles: str) -> list[View]:
    """Return the encoding of a tooltip: a line for each field with its title."""
    return [{"field": name, "title": title, "type": "nominal"} for name, title in titles.items()]


def lines(text: str, width: int, most: int = 2) -> list[str]:
    """Wrap a text to lines of `width` characters and cut it after `most` of them."""
    return wrap(text, width, max_lines=most, placeholder=" …") or [""]


def baseline_last(comparison: Comparison) -> list[tuple[int, Result]]:
    """Return places and results in the order of drawing, so that the baseline lies on top."""
    first, *others = enumerate(comparison.results)
    return [*others, first]


def padded(values: Iterable[float], share: float) -> list[float] | None:
    """Return the ends of an axis with `share` of the range free on both sides; None if there is no range."""
    known = [value for value in values if isfinite(value)]
    if not known:
        return None
    pad = share * (max(known) - min(known))
    return [min(known) - pad, max(known) + pad] if pad else None
