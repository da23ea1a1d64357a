"""Heat maps of the means of a grid, one for each pair of slots."""

from html import escape
from math import isfinite

from gptlab.compare.analysis.comparison import Comparison, Factorial
from gptlab.compare.views.report.figure import Figure, layout, text
from gptlab.compare.views.report.formatting import number
from gptlab.compare.views.report.theme import named

CELL_HEIGHT = 46  # pixels


def heat_maps(factorial: Factorial, comparison: Comparison) -> list[Figure]:
    """Return the heat maps, all with the same colours; the lowest mean has the strongest colour."""
    known = [v for means in factorial.means.values() for v in means.to_numpy(dtype=float).ravel() if isfinite(v)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    figures = []
    for (down, across), means in factorial.means.items():
        table = means.astype(float)
        heat = {
            "type": "heatmap",
            "x": [text(name, 18) for name in map(str, table.columns)],
            "y": [text(name, 18) for name in map(str, table.index)],
            "z": table.to_numpy().tolist(),
            "zmin": low,
            "zmax": high if high > low else low + 1,
            "text": [[number(value) for value in row] for row in table.to_numpy()],
            "texttemplate": "%{text}",
            "colorscale": [[0, named("low")], [1, named("high")]],
            "showscale": False,
            "xgap": 3,
            "ygap": 3,
            "hovertemplate": f"{escape(down)} %{{y}}, {escape(across)} %{{x}}<br>{escape(comparison.metric)} %{{text}}"
            "<extra></extra>",
        }
        axes = {"showgrid": False, "showline": False, "type": "category", "fixedrange": True}
        height = 90 + CELL_HEIGHT * len(table)
        figures.append(
            {"data": [heat], "layout": layout(height, across, down, xaxis=axes, yaxis=axes | {"autorange": "reversed"})}
        )
    return figures
