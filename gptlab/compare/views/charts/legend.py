"""The names of the arms with their looks, below a static picture."""

from collections.abc import Mapping
from typing import Any

from gptlab.compare.views.charts.chart import View, layer, layered
from gptlab.compare.views.charts.theme import named, style

LETTER = 7  # pixels of a letter, at most on average
ROW = 22  # pixels


def legend(places: Mapping[str, int], width: int) -> View:
    """Return the names in as many columns as have room for the longest of them.

    Args:
        places: the place of each arm, on which its looks depend, by the name that is shown.
        width: of the whole legend, in pixels.
    """
    columns = max(1, width // (LETTER * max(map(len, places)) + 40))
    rows: list[dict[str, Any]] = []
    for i, (name, place) in enumerate(places.items()):
        look = style(place)
        at = {"x": i % columns, "y": i // columns}
        rows.append(at | {"arm": name, "colour": named(look.colour), "shape": look.symbol})
    shared: dict[str, Any] = {
        "x": {"field": "x", "type": "quantitative", "axis": None, "scale": {"domain": [0, columns]}},
        "y": {"field": "y", "type": "ordinal", "axis": None},
        "color": {"field": "colour", "type": "nominal", "scale": None},
    }
    shape = {"field": "shape", "type": "nominal", "scale": None}
    text = {"align": "left", "dx": 10, "fontSize": 12, "limit": width // columns - 14}
    layers = [
        layer(rows, "point", {"filled": True, "size": 90, "opacity": 1}, **shared, shape=shape),
        layer(rows, "text", text, **shared, text={"field": "arm"}),
    ]
    return layered(layers, ROW * (1 + rows[-1]["y"])) | {"width": width}
