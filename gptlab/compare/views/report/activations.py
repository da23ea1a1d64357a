"""Activations, gradients, updates and attention of one run of each arm, with a line for each arm."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any

from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.views.report.figure import Figure, baseline_last, horizontal, layout, text
from gptlab.compare.views.report.theme import style

RULE_OF_THUMB = -3  # log10 of update:weight
FAINT = 0.4  # opacity of the first snapshot where the last is drawn too
MOST_TICKS = 16  # with more blocks, not each block has a tick
LOG = {"type": "log", "dtick": "D2"}  # ticks at 1, 2 and 5

Snapshot = dict[str, Any]
Line = tuple[list[float], list[float], float]  # x, y, opacity


def activation_figures(comparison: Comparison) -> dict[str, Figure]:
    """Return the figures by the id of their element, without those that no snapshot has data for."""
    axis = _axis_of_blocks(comparison)

    def by_block(y: str, lines: Callable[[list[Snapshot]], Iterator[Line]], **more: Any) -> Figure | None:
        return _figure(comparison, layout(320, "block", y, xaxis=axis, **more), lines)

    shapes = [horizontal(RULE_OF_THUMB, "muted", "dash")]
    over_time = layout(320, "training tokens", "log10 of update:weight", shapes=shapes)
    figures = {
        "activations": by_block("rms of the stream", _first_and_last("stream_rms", start=0), yaxis=LOG),
        "gradients": by_block("norm of the gradient", _first_and_last("residual_grad_norm", start=1), yaxis=LOG),
        "gradient-weight": by_block("log10 of gradient:weight", _gradient_to_weight),
        "updates": _figure(comparison, over_time, _update_to_weight),
        "entropy": by_block("entropy of attention, nats", _attention_entropy),
    }
    return {name: figure for name, figure in figures.items() if figure}


def _first_and_last(key: str, *, start: int) -> Callable[[list[Snapshot]], Iterator[Line]]:
    def lines(snapshots: list[Snapshot]) -> Iterator[Line]:
        for snapshot, opacity in ((snapshots[0], FAINT), (snapshots[-1], 1.0)):
            yield _numbered(snapshot[key], start), snapshot[key], opacity

    return lines


def _gradient_to_weight(snapshots: list[Snapshot]) -> Iterator[Line]:
    """Yield the ratio for all matrices of a block together, in the last snapshot."""
    squares: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for name, (weight, gradient, _) in snapshots[-1]["parameters"].items():
        path = name.split(".")
        if path[0] == "blocks" and path[-1] == "weight":
            squares[int(path[1])].append((weight**2, gradient**2))
    ratios = [[sum(column) for column in zip(*pairs, strict=True)] for _, pairs in sorted(squares.items())]
    y = [math.log10(gradient / weight) / 2 if gradient and weight else math.nan for weight, gradient in ratios]
    yield _numbered(y, 1), y, 1.0


def _update_to_weight(snapshots: list[Snapshot]) -> Iterator[Line]:
    """Yield the mean over the blocks for each snapshot."""
    means = [
        (snapshot["tokens"], fmean(snapshot["update_ratio"])) for snapshot in snapshots if snapshot["update_ratio"]
    ]
    known = [(tokens, mean) for tokens, mean in means if math.isfinite(mean)]
    yield [tokens for tokens, _ in known], [mean for _, mean in known], 1.0


def _attention_entropy(snapshots: list[Snapshot]) -> Iterator[Line]:
    """Yield the mean over the heads in the last snapshot, which has it only if it is a full one."""
    heads = [fmean(values) if values else math.nan for values in snapshots[-1].get("attention_entropy", ())]
    if any(map(math.isfinite, heads)):
        yield _numbered(heads, 1), heads, 1.0


def _numbered(values: Sequence[float], start: int) -> list[float]:
    return list(range(start, start + len(values)))


def _axis_of_blocks(comparison: Comparison) -> Figure:
    deepest = max(
        (len(snapshots[0]["grad_norm"]) for snapshots in comparison.snapshots.values() if snapshots), default=0
    )
    return {"dtick": 1} if deepest <= MOST_TICKS else {}


def _figure(comparison: Comparison, shown: Figure, lines: Callable[[list[Snapshot]], Iterator[Line]]) -> Figure | None:
    data = []
    for index, result in baseline_last(comparison):
        for x, y, opacity in lines(snapshots) if (snapshots := comparison.snapshots.get(result.name)) else ():
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "legendgroup": str(index),
                    "x": x,
                    "y": y,
                    "opacity": opacity,
                    "line": style(index).line(width=2),
                    "marker": style(index).marker(size=6),
                    "hovertemplate": f"<b>{text(result.name, 60)}</b><br>%{{y:.3g}} at %{{x:.4s}}<extra></extra>",
                }
            )
    return {"data": data, "layout": shown} if any(trace["x"] for trace in data) else None
