"""Activations, gradients and updates inside a run of each arm: the pictures of `gptlab inspect`, one line per arm."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any

from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.views.charts.chart import (
    Chart,
    arms,
    baseline_last,
    layer,
    layered,
    quantitative,
    rule,
    scale,
    tooltip,
)

HEIGHT = 240  # pixels
RULE_OF_THUMB = -3  # log10 of update:weight
FAINT = 0.4  # opacity of the first snapshot, where the last is drawn too

Snapshot = dict[str, Any]
Line = tuple[list[float], list[float], float]  # x, y, opacity


def activation_charts(comparison: Comparison) -> dict[str, Chart]:
    """Return charts by the id of the element that each is drawn in, without those that no snapshot has data for."""
    rms, gradient = _first_and_last("stream_rms", start=0), _first_and_last("residual_grad_norm", start=1)
    charts = {
        "activations": _chart(comparison, "block", "rms of the stream", rms, log=True),
        "gradients": _chart(comparison, "block", "norm of the gradient", gradient, log=True),
        "gradient-weight": _chart(comparison, "block", "log10 of gradient:weight", _gradient_to_weight),
        "updates": _chart(
            comparison, "training tokens", "log10 of update:weight", _update_to_weight, thumb=RULE_OF_THUMB
        ),
        "entropy": _chart(comparison, "block", "entropy of attention, nats", _attention_entropy),
    }
    return {name: chart for name, chart in charts.items() if chart}


def _first_and_last(key: str, *, start: int) -> Callable[[list[Snapshot]], Iterator[Line]]:
    def lines_of(snapshots: list[Snapshot]) -> Iterator[Line]:
        for snapshot, opacity in ((snapshots[0], FAINT), (snapshots[-1], 1.0)):
            yield _numbered(snapshot[key], start), snapshot[key], opacity

    return lines_of


def _gradient_to_weight(snapshots: list[Snapshot]) -> Iterator[Line]:
    """Yield the ratio over all matrices of a block together, in the last snapshot."""
    squares: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for name, (weight, gradient, _) in snapshots[-1]["parameters"].items():
        path = name.split(".")
        if path[0] == "blocks" and path[-1] == "weight":
            squares[int(path[1])].append((weight**2, gradient**2))
    ratios = [[sum(column) for column in zip(*pairs, strict=True)] for _, pairs in sorted(squares.items())]
    y = [math.log10(gradient / weight) / 2 if gradient and weight else math.nan for weight, gradient in ratios]
    yield _numbered(y, 1), y, 1.0


def _update_to_weight(snapshots: list[Snapshot]) -> Iterator[Line]:
    """Yield the mean over the blocks, snapshot by snapshot."""
    means = [(s["tokens"], fmean(s["update_ratio"])) for s in snapshots if s["update_ratio"]]
    known = [(tokens, mean) for tokens, mean in means if math.isfinite(mean)]
    yield [tokens for tokens, _ in known], [mean for _, mean in known], 1.0


def _attention_entropy(snapshots: list[Snapshot]) -> Iterator[Line]:
    """Yield the mean over the heads in the last snapshot, if that is a full one."""
    heads = [fmean(values) if values else math.nan for values in snapshots[-1].get("attention_entropy", ())]
    if any(map(math.isfinite, heads)):
        yield _numbered(heads, 1), heads, 1.0


def _numbered(values: Sequence[float], start: int) -> list[float]:
    return list(range(start, start + len(values)))


def _chart(
    comparison: Comparison,
    x: str,
    y: str,
    lines_of: Callable[[list[Snapshot]], Iterator[Line]],
    *,
    log: bool = False,
    thumb: float | None = None,
) -> Chart | None:
    rows = []
    for place, result in baseline_last(comparison):
        snapshots = comparison.snapshots.get(result.name)
        for number, (xs, ys, opacity) in enumerate(lines_of(snapshots) if snapshots else ()):
            for x_value, y_value in zip(xs, ys, strict=True):
                if math.isfinite(y_value):
                    at = {"x": x_value, "y": y_value, "opacity": opacity, "line": f"{place}.{number}"}
                    rows.append({"place": place, "arm": result.name, **at})
    if not rows:
        return None
    ticks = {"tickMinStep": 1, "format": "d"} if x == "block" else {"format": "~s"}
    y_axis = quantitative("y", y, scale(type="log" if log else "linear"), 45)
    xy = {"x": quantitative("x", x, scale(padding=8), **ticks), "y": y_axis}
    looks = {"detail": {"field": "line"}, "opacity": {"field": "opacity", "type": "quantitative", "scale": None}}
    hover = tooltip(arm="arm", x=x, y=y)
    view = layered(
        [
            None if thumb is None else rule(y_axis, thumb, "muted", [7, 3]),
            layer(rows, "line", {"strokeWidth": 2}, **xy, **looks, **arms(comparison, "dash")),
            layer(
                rows, "point", {"filled": True, "size": 36}, **xy, **looks, **arms(comparison, "shape"), tooltip=hover
            ),
        ],
        HEIGHT,
    )
    return Chart(view)
