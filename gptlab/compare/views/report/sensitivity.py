"""The metric of each arm against a tuned setting."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis.comparison import Comparison, Tuning
from gptlab.compare.views.report.figure import Figure, baseline_last, layout, text
from gptlab.compare.views.report.formatting import metric_label, number
from gptlab.compare.views.report.theme import named, style
from gptlab.runs.metrics import metric_named

MOST_REACH = 4  # times the distance from the best mean to the median; worse means leave the picture
STACK = 0.035  # fraction of the height between the crosses of arms that diverged at the same value


def sensitivity(tuning: Tuning, comparison: Comparison) -> Figure:
    """Plot the metric against the setting, with a ring around the chosen value and a cross where a run diverged."""
    values = pd.to_numeric(tuning.points["value"], errors="coerce")
    points = tuning.points.assign(x=values if values.notna().all() else tuning.points["value"].astype(str))
    log = bool(values.notna().all() and (values > 0).all() and values.nunique() > 1)
    best, worst = _ends(points, -1 if metric_named(comparison.metric).higher_is_better else 1)
    data: list[dict[str, Any]] = []
    crosses: dict[Any, int] = {}
    for index, result in baseline_last(comparison):
        curve = points[points["arm"] == result.name].sort_values("x")
        data += _traces(curve, result.name, index)
        data += _crosses(curve[curve["diverged"].astype(float) > 0], result.name, index, best, worst, crosses)
    axis = {"type": "log", "tickvals": sorted(set(values)), "ticktext": [f"{v:g}" for v in sorted(set(values))]}
    shown = layout(
        420,
        tuning.setting,
        metric_label(comparison.metric),
        xaxis=axis if log else {"type": "-" if values.notna().all() else "category"},
        yaxis={"range": sorted([best, worst])},
    )
    return {"data": data, "layout": shown}


def _ends(points: pd.DataFrame, sign: int) -> tuple[float, float]:
    """Return the best and the worst end of the axis; `sign` is -1 if higher is better."""
    known = points[np.isfinite(points["mean"].astype(float))]
    if known.empty:
        return 0.0, float(sign)
    means = sign * known["mean"]
    bars = sign * pd.concat([known["mean"], known["low"], known["high"]])
    best, worst = bars.min(), bars.max()
    usual = MOST_REACH * (means.median() - means.min())
    if usual:
        worst = min(worst, means.min() + usual)
    pad = 0.12 * (worst - best) or 0.05 * abs(best) or 1.0
    return sign * (best - pad / 2), sign * (worst + pad)


def _traces(curve: pd.DataFrame, name: str, index: int) -> Iterator[dict[str, Any]]:
    known = curve[np.isfinite(curve["mean"].astype(float))]
    arm_style = style(index)
    if known.empty:
        return
    yield {
        "type": "scatter",
        "mode": "lines+markers",
        "legendgroup": str(index),
        "x": known["x"].tolist(),
        "y": known["mean"].tolist(),
        "error_y": {
            "array": (known["high"] - known["mean"]).tolist(),
            "arrayminus": (known["mean"] - known["low"]).tolist(),
            "color": named(arm_style.colour, 0.6),
            "thickness": 1.2,
            "width": 3,
        },
        "line": arm_style.line(width=1.8),
        "marker": arm_style.marker(size=7),
        "text": [f"{number(mean)}, seeds: {n}" for mean, n in zip(known["mean"], known["seeds"], strict=True)],
        "hovertemplate": f"<b>{text(name, 60)}</b><br>%{{x}}: %{{text}}<extra></extra>",
    }
    chosen = known[known["chosen"].astype(bool)]
    if len(chosen):
        yield {
            "type": "scatter",
            "mode": "markers",
            "legendgroup": str(index),
            "x": chosen["x"].tolist(),
            "y": chosen["mean"].tolist(),
            "marker": {"symbol": "circle-open", "size": 17, "color": named(arm_style.colour), "line": {"width": 2}},
            "hoverinfo": "skip",
        }


def _crosses(
    lost: pd.DataFrame, name: str, index: int, best: float, worst: float, at: dict[Any, int]
) -> Iterator[dict[str, Any]]:
    """Yield crosses at the worst end. `at` counts the crosses at each value, which are stacked."""
    if lost.empty:
        return
    heights = []
    for x in lost["x"]:
        at[x] = at.get(x, -1) + 1
        heights.append(worst - (worst - best) * STACK * (at[x] + 0.6))
    yield {
        "type": "scatter",
        "mode": "markers",
        "legendgroup": str(index),
        "x": lost["x"].tolist(),
        "y": heights,
        "marker": {"symbol": "x", "size": 9, "color": named(style(index).colour)},
        "text": [
            f"{float(n):.0f} of {seeds} diverged" for n, seeds in zip(lost["diverged"], lost["seeds"], strict=True)
        ],
        "hovertemplate": f"<b>{text(name, 60)}</b><br>%{{x}}: %{{text}}<extra></extra>",
    }
