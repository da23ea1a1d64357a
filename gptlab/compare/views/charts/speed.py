"""A chart of each arm's metric against its training speed."""

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.views.charts.chart import (
    Chart,
    arms,
    baseline_last,
    layer,
    layered,
    lines,
    padded,
    quantitative,
    rule,
    scale,
    tooltip,
)
from gptlab.compare.views.charts.formatting import metric_label, number, si
from gptlab.compare.views.labels import short_names

WIDTH, HEIGHT = 640, 360  # pixels of the plot where the page is narrow, so that names do not overlap
LETTER, LINE = 7, 17  # pixels: the width of a letter and the height of a name
LONGEST = 30  # letters
# Where a name may stand: its alignment, and pixels from its point to the right and up.
SIDES = (
    *((anchor, dx, dy) for dy in (11, -11, 0) for anchor, dx in (("left", 13), ("right", -13))),
    ("center", 0, 19),
    ("center", 0, -19),
)

Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


def speed_chart(comparison: Comparison) -> Chart | None:
    """Return the metric against tokens per second; a point grows with the model's parameters."""
    known = [
        (place, result)
        for place, result in baseline_last(comparison)
        if isfinite(result.mean) and isfinite(result.costs["tokens_per_s"])
    ]
    if not known:
        return None
    across = _ends([result.costs["tokens_per_s"] for _, result in known])
    up = _ends([result.mean + side * _bar(result) for _, result in known for side in (-1, 1)])
    largest = max(result.costs["parameters"] for _, result in known)
    rows = [_row(place, result, largest) for place, result in known]
    x = quantitative("x", "training tokens per second (median over runs)", scale(across), format="~s")
    y = quantitative("y", metric_label(comparison.metric), scale(up), 45)
    xy = {"x": x, "y": y, **arms(comparison)}
    size = {"field": "size", "type": "quantitative", "scale": None}
    hover = tooltip(arm="arm", score=comparison.metric, speed="tokens/s", parameters="parameters")
    label = {"fontSize": 12, "baseline": "middle"}
    label |= {name: {"expr": f"datum.{name}"} for name in ("align", "dx", "dy")}
    has_baseline = known[-1][0] == 0 and len(known) > 1
    view = layered(
        [
            rule(x, comparison.baseline.costs["tokens_per_s"], "muted", [2, 3]) if has_baseline else None,
            rule(y, comparison.baseline.mean, "muted", [2, 3]) if has_baseline else None,
            layer(rows, "rule", {"strokeWidth": 1.5}, **xy | {"y": {**y, "field": "low"}, "y2": {"field": "high"}}),
            layer(
                rows,
                "point",
                {"filled": True, "opacity": 1},
                **xy | arms(comparison, "shape"),
                size=size,
                tooltip=hover,
            ),
            layer(
                _labels(known, across, up, short_names(comparison.results)), "text", label, **xy, text={"field": "text"}
            ),
        ],
        HEIGHT,
    )
    return Chart(view)


def _bar(result: Result) -> float:
    return result.sd if isfinite(result.sd) else 0.0


def _ends(values: list[float]) -> list[float]:
    pad = 0.05 * abs(values[0]) or 1.0
    return padded(values, 0.1) or [values[0] - pad, values[0] + pad]


def _row(place: int, result: Result, largest: float) -> dict[str, Any]:
    tokens_per_s, parameters = result.costs["tokens_per_s"], result.costs["parameters"]
    return {
        "place": place,
        "arm": result.name,
        "x": tokens_per_s,
        "y": result.mean,
        "low": result.mean - _bar(result),
        "high": result.mean + _bar(result),
        "size": (6 + 10 * (parameters / largest) ** 0.5) ** 2,
        "score": f"{number(result.mean)} ± {number(result.sd)}",
        "speed": si(tokens_per_s),
        "parameters": si(parameters),
    }


def _labels(
    known: list[tuple[int, Result]], across: list[float], up: list[float], names: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield a name next to each point, on the first side where it covers nothing; leave it out if there is none."""

    def pixel(value: float, ends: list[float], length: int) -> float:
        return (value - ends[0]) / (ends[1] - ends[0]) * length

    points = [
        (pixel(result.costs["tokens_per_s"], across, WIDTH), pixel(result.mean, up, HEIGHT)) for _, result in known
    ]
    taken: list[Box] = [(x - 9, y - 9, x + 9, y + 9) for x, y in points]
    for (x, y), (_, result) in zip(points, known, strict=True):
        bar = _bar(result) / (up[1] - up[0]) * HEIGHT
        taken.append((x - 4, y - bar, x + 4, y + bar))
    for (x, y), (place, result) in zip(points, known, strict=True):
        name = lines(names[result.name], LONGEST, 1)[0]
        wide = LETTER * len(name)
        for align, dx, dy in SIDES:
            start = x + dx - {"left": 0, "right": wide, "center": wide / 2}[align]
            box = (start, y + dy - LINE / 2, start + wide, y + dy + LINE / 2)
            if box[0] >= 0 and box[2] <= WIDTH and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                at = {"x": result.costs["tokens_per_s"], "y": result.mean, "align": align, "dx": dx, "dy": -dy}
                yield {"place": place, "text": name, **at}
                break


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
