"""What went on inside the arms' models, of one run of each: the pictures of `gptlab inspect`, an arm a line."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any

from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.views.report.figure import Figure, baseline_last, horizontal, layout, text
from gptlab.compare.views.report.theme import style

RULE_OF_THUMB = -3  # log10 of update:weight
FAINT = 0.4  # opacity of the first look, where the last is drawn too
FEW_BLOCKS = 16  # up to which each has a tick
LOG = {"type": "log", "dtick": "D2"}  # ticks at 1, 2 and 5

Look = dict[str, Any]
Line = tuple[list[float], list[float], float]  # x, y, opacity


def inside(comparison: Comparison) -> dict[str, Figure]:
    """Figures by the id of the element that each is drawn in, without those that no look has anything for."""
    axis = _axis_of_blocks(comparison)

    def by_block(y: str, lines: Callable[[list[Look]], Iterator[Line]], **more: Any) -> Figure | None:
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


def _first_and_last(key: str, *, start: int) -> Callable[[list[Look]], Iterator[Line]]:
    def lines(looks: list[Look]) -> Iterator[Line]:
        for look, opacity in ((looks[0], FAINT), (looks[-1], 1.0)):
            yield _numbered(look[key], start), look[key], opacity

    return lines


def _gradient_to_weight(looks: list[Look]) -> Iterator[Line]:
    """Of all matrices of a block together, in the last look."""
    squares: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for name, (weight, gradient, _) in looks[-1]["parameters"].items():
        words = name.split(".")
        if words[0] == "blocks" and words[-1] == "weight":
            squares[int(words[1])].append((weight**2, gradient**2))
    ratios = [[sum(column) for column in zip(*found, strict=True)] for _, found in sorted(squares.items())]
    y = [math.log10(gradient / weight) / 2 if gradient and weight else math.nan for weight, gradient in ratios]
    yield _numbered(y, 1), y, 1.0


def _update_to_weight(looks: list[Look]) -> Iterator[Line]:
    """The mean over the blocks, look by look."""
    means = [(look["tokens"], fmean(look["update_ratio"])) for look in looks if look["update_ratio"]]
    known = [(tokens, mean) for tokens, mean in means if math.isfinite(mean)]
    yield [tokens for tokens, _ in known], [mean for _, mean in known], 1.0


def _attention_entropy(looks: list[Look]) -> Iterator[Line]:
    """The mean over the heads in the last look, which has it if it is a full one."""
    heads = [fmean(values) if values else math.nan for values in looks[-1].get("attention_entropy", ())]
    if any(map(math.isfinite, heads)):
        yield _numbered(heads, 1), heads, 1.0


def _numbered(values: Sequence[float], start: int) -> list[float]:
    return list(range(start, start + len(values)))


def _axis_of_blocks(comparison: Comparison) -> Figure:
    deepest = max((len(looks[0]["grad_norm"]) for looks in comparison.snapshots.values() if looks), default=0)
    return {"dtick": 1} if deepest <= FEW_BLOCKS else {}


def _figure(comparison: Comparison, shown: Figure, lines: Callable[[list[Look]], Iterator[Line]]) -> Figure | None:
    data = []
    for place, result in baseline_last(comparison):
        for x, y, opacity in lines(looks) if (looks := comparison.snapshots.get(result.name)) else ():
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "legendgroup": str(place),
                    "x": x,
                    "y": y,
                    "opacity": opacity,
                    "line": style(place).line(width=2),
                    "marker": style(place).marker(size=6),
                    "hovertemplate": f"<b>{text(result.name, 60)}</b><br>%{{y:.3g}} at %{{x:.4s}}<extra></extra>",
                }
            )
    return {"data": data, "layout": shown} if any(trace["x"] for trace in data) else None
