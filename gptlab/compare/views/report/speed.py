"""How good an arm is against how fast it trains."""

from collections.abc import Iterator
from html import escape
from math import isfinite
from typing import Any

from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.views.report.figure import Figure, baseline_last, horizontal, layout, text, vertical
from gptlab.compare.views.report.formatting import metric_label, number, si
from gptlab.compare.views.report.theme import named, style

WIDTH, HEIGHT = 640, 380  # pixels of the plot where the page is narrow, to keep names from each other
LETTER, LINE = 7, 17  # pixels of a name's letter and height
LONGEST = 30  # letters
# Where a name may stand: how it is anchored, and pixels from its point.
SIDES = (
    *((anchor, dx, dy) for dy in (11, -11, 0) for anchor, dx in (("left", 13), ("right", -13))),
    ("center", 0, 19),
    ("center", 0, -19),
)

Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


def speed(comparison: Comparison) -> Figure | None:
    """The metric against tokens per second; a point is as large as the model."""
    known = [
        (place, result)
        for place, result in baseline_last(comparison)
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
    if known[-1][0] == 0 and len(known) > 1:  # what is right of, and below, the baseline
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
    return {"data": [_point(result, place, largest, comparison.metric) for place, result in known], "layout": shown}


def _padded(values: list[float]) -> list[float]:
    pad = 0.1 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 1.0
    return [min(values) - pad, max(values) + pad]


def _point(result: Result, place: int, largest: float, metric: str) -> dict[str, Any]:
    tokens_per_s, parameters = result.costs["tokens_per_s"], result.costs["parameters"]
    said = f"{escape(metric)}: {number(result.mean)} ± {number(result.sd)}"
    costs = f"{si(tokens_per_s)} tokens/s, {si(parameters)} parameters"
    return {
        "type": "scatter",
        "mode": "markers",
        "legendgroup": str(place),
        "x": [tokens_per_s],
        "y": [result.mean],
        "error_y": {"array": [result.sd], "color": named(style(place).colour), "thickness": 1.5, "width": 4},
        "marker": style(place).marker(size=6 + 10 * (parameters / largest) ** 0.5),
        "hovertemplate": f"<b>{text(result.name, 60)}</b><br>{said}<br>{costs}<extra></extra>",
    }


def _labels(known: list[tuple[int, Result]], across: list[float], up: list[float]) -> Iterator[dict[str, Any]]:
    """A name beside each point, on the first side where it covers nothing; none where it would everywhere."""

    def pixel(value: float, ends: list[float], length: int) -> float:
        return (value - ends[0]) / (ends[1] - ends[0]) * length

    points = [
        (pixel(result.costs["tokens_per_s"], across, WIDTH), pixel(result.mean, up, HEIGHT)) for _, result in known
    ]
    taken: list[Box] = [(x - 9, y - 9, x + 9, y + 9) for x, y in points]
    for (x, y), (_, result) in zip(points, known, strict=True):
        bar = result.sd / (up[1] - up[0]) * HEIGHT if isfinite(result.sd) else 0
        taken.append((x - 4, y - bar, x + 4, y + bar))
    for (x, y), (place, result) in zip(points, known, strict=True):
        name = result.name if len(result.name) <= LONGEST else result.name[: LONGEST - 2] + " …"
        wide = LETTER * len(name)
        for side, dx, dy in SIDES:
            start = x + dx - {"left": 0, "right": wide, "center": wide / 2}[side]
            box = (start, y + dy - LINE / 2, start + wide, y + dy + LINE / 2)
            if box[0] >= 0 and box[2] <= WIDTH and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                yield {
                    "name": str(place),  # by which page.js hides it with its point
                    "x": result.costs["tokens_per_s"],
                    "y": result.mean,
                    "text": text(name, LONGEST, 1),
                    "xanchor": side,
                    "yanchor": "middle",
                    "xshift": dx,
                    "yshift": dy,
                    "showarrow": False,
                    "font": {"color": named(style(place).colour), "size": 12},
                }
                break


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
