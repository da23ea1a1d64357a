"""The metric of each arm against its training speed."""

from collections.abc import Iterator
from html import escape
from math import isfinite
from typing import Any

from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.views.report.figure import Figure, baseline_last, horizontal, layout, text, vertical
from gptlab.compare.views.report.formatting import metric_label, number, si
from gptlab.compare.views.report.theme import named, style

WIDTH, HEIGHT = 640, 380  # pixels of the plot on a narrow page; names are placed without overlap at this size
LETTER, LINE = 7, 17  # pixels: width of a letter, height of a line
LONGEST_NAME = 30  # letters
# The places for a name, in order of preference: its anchor, and its distance from the point in pixels.
SIDES = (
    *((anchor, dx, dy) for dy in (11, -11, 0) for anchor, dx in (("left", 13), ("right", -13))),
    ("center", 0, 19),
    ("center", 0, -19),
)

Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


def speed_figure(comparison: Comparison) -> Figure | None:
    """Plot the metric against tokens per second; the size of a point grows with the parameters."""
    known = [
        (index, result)
        for index, result in baseline_last(comparison)
        if isfinite(result.mean) and isfinite(result.costs["tokens_per_s"])
    ]
    if not known:
        return None
    across = _padded([result.costs["tokens_per_s"] for _, result in known])
    up = _padded(
        [result.mean + side * (result.sd if isfinite(result.sd) else 0) for _, result in known for side in (-1, 1)]
    )
    largest = max(result.costs["parameters"] for _, result in known)
    lines = []
    if known[-1][0] == 0 and len(known) > 1:  # lines through the baseline
        baseline = comparison.baseline
        lines = [vertical(baseline.costs["tokens_per_s"], "muted", "dot"), horizontal(baseline.mean, "muted", "dot")]
    shown = layout(
        HEIGHT + 60,
        "training tokens per second (median over runs)",
        metric_label(comparison.metric),
        xaxis={"range": across, "tickformat": "~s"},
        yaxis={"range": up},
        shapes=lines,
        annotations=list(_labels(known, across, up)),
    )
    return {"data": [_point(result, index, largest, comparison.metric) for index, result in known], "layout": shown}


def _padded(values: list[float]) -> list[float]:
    pad = 0.1 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 1.0
    return [min(values) - pad, max(values) + pad]


def _point(result: Result, index: int, largest: float, metric: str) -> dict[str, Any]:
    tokens_per_s, parameters = result.costs["tokens_per_s"], result.costs["parameters"]
    score = f"{escape(metric)}: {number(result.mean)} ± {number(result.sd)}"
    costs = f"{si(tokens_per_s)} tokens/s, {si(parameters)} parameters"
    return {
        "type": "scatter",
        "mode": "markers",
        "legendgroup": str(index),
        "x": [tokens_per_s],
        "y": [result.mean],
        "error_y": {"array": [result.sd], "color": named(style(index).colour), "thickness": 1.5, "width": 4},
        "marker": style(index).marker(size=6 + 10 * (parameters / largest) ** 0.5),
        "hovertemplate": f"<b>{text(result.name, 60)}</b><br>{score}<br>{costs}<extra></extra>",
    }


def _labels(known: list[tuple[int, Result]], across: list[float], up: list[float]) -> Iterator[dict[str, Any]]:
    """Yield a name beside each point, at the first place where it covers nothing; no name if there is no such place."""

    def pixel(value: float, ends: list[float], length: int) -> float:
        return (value - ends[0]) / (ends[1] - ends[0]) * length

    points = [
        (pixel(result.costs["tokens_per_s"], across, WIDTH), pixel(result.mean, up, HEIGHT)) for _, result in known
    ]
    taken: list[Box] = [(x - 9, y - 9, x + 9, y + 9) for x, y in points]
    for (x, y), (_, result) in zip(points, known, strict=True):
        bar = result.sd / (up[1] - up[0]) * HEIGHT if isfinite(result.sd) else 0
        taken.append((x - 4, y - bar, x + 4, y + bar))
    for (x, y), (index, result) in zip(points, known, strict=True):
        name = result.name if len(result.name) <= LONGEST_NAME else result.name[: LONGEST_NAME - 2] + " …"
        wide = LETTER * len(name)
        for side, dx, dy in SIDES:
            start = x + dx - {"left": 0, "right": wide, "center": wide / 2}[side]
            box = (start, y + dy - LINE / 2, start + wide, y + dy + LINE / 2)
            if box[0] >= 0 and box[2] <= WIDTH and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                yield {
                    "name": str(index),  # page.js hides it with its point
                    "x": result.costs["tokens_per_s"],
                    "y": result.mean,
                    "text": text(name, LONGEST_NAME, 1),
                    "xanchor": side,
                    "yanchor": "middle",
                    "xshift": dx,
                    "yshift": dy,
                    "showarrow": False,
                    "font": {"color": named(style(index).colour), "size": 12},
                }
                break


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
