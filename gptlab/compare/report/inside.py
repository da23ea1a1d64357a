"""What went on inside the arms' models: one run of each, gradients by layer at the start, updates over the training."""

import math
from collections.abc import Callable
from statistics import fmean
from typing import Any

from gptlab.compare.comparison import Comparison
from gptlab.compare.report.figure import Figure, baseline_last, horizontal, layout, text
from gptlab.compare.report.theme import style

RULE_OF_THUMB = -3  # log10 of update:weight
Line = tuple[list[float], list[float]]  # x, y


def gradients(comparison: Comparison) -> Figure | None:
    """Of the matrices that write into the stream, in each arm's first look."""

    def line(looks: list[dict[str, Any]]) -> Line:
        norms = looks[0]["residual_grad_norm"]
        return list(range(1, len(norms) + 1)), norms

    shown = layout(380, "block", "norm of the gradient at the first look", yaxis={"type": "log"})
    return _figure(comparison, line, shown)


def updates(comparison: Comparison) -> Figure | None:
    """The mean over the layers, look by look."""

    def line(looks: list[dict[str, Any]]) -> Line:
        means = [fmean(look["update_ratio"]) for look in looks]
        known = [(look["tokens"], mean) for look, mean in zip(looks, means, strict=True) if math.isfinite(mean)]
        return [tokens for tokens, _ in known], [mean for _, mean in known]

    shapes = [horizontal(RULE_OF_THUMB, "muted", "dash")]
    return _figure(comparison, line, layout(380, "training tokens", "log10 of update:weight", shapes=shapes))


def _figure(comparison: Comparison, line: Callable[[list[dict[str, Any]]], Line], shown: Figure) -> Figure | None:
    data = []
    for place, result in baseline_last(comparison):
        if looks := comparison.looks.get(result.name):
            x, y = line(looks)
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "legendgroup": str(place),
                    "x": x,
                    "y": y,
                    "line": style(place).line(width=2),
                    "marker": style(place).marker(size=6),
                    "hovertemplate": f"<b>{text(result.name, 60)}</b><br>%{{y:.3g}} at %{{x:.4s}}<extra></extra>",
                }
            )
    return {"data": data, "layout": shown} if data else None
