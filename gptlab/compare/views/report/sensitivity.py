"""How each arm depends on a setting that was tuned."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis.comparison import Comparison, Tuning
from gptlab.compare.views.report.figure import Figure, baseline_last, layout, text
from gptlab.compare.views.report.formatting import metric_label, number
from gptlab.compare.views.report.theme import Style, named, style
from gptlab.runs.metrics import metric_named

FARTHEST = 4  # times from the best mean to the median: what nearly diverged must not flatten the others
STACK = 0.035  # of the height, between the crosses of arms that diverged at the same value


def sensitivity(tuning: Tuning, comparison: Comparison) -> Figure:
    """The metric against the setting; a ring around the value chosen, a cross at the edge where a run diverged."""
    values = pd.to_numeric(tuning.points["value"], errors="coerce")
    points = tuning.points.assign(x=values if values.notna().all() else tuning.points["value"].astype(str))
    log = bool(values.notna().all() and (values > 0).all() and values.nunique() > 1)
    best, worst = _ends(points, -1 if metric_named(comparison.metric).higher_is_better else 1)
    data: list[dict[str, Any]] = []
    crosses: dict[Any, int] = {}
    for place, result in baseline_last(comparison):
        own = points[points["arm"] == result.name].sort_values("x")
        data += _traces(own, result.name, place, style(place))
        data += _crosses(own[own["diverged"].astype(float) > 0], result.name, place, best, worst, crosses)
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
    """Of the axis, on the best side and on the worst; `sign` is -1 where more is better."""
    known = points[np.isfinite(points["mean"].astype(float))]
    if known.empty:
        return 0.0, float(sign)
    means = sign * known["mean"]
    bars = sign * pd.concat([known["mean"], known["low"], known["high"]])
    best, worst = bars.min(), bars.max()
    usual = FARTHEST * (means.median() - means.min())
    if usual:
        worst = min(worst, means.min() + usual)
    pad = 0.12 * (worst - best) or 0.05 * abs(best) or 1.0
    return sign * (best - pad / 2), sign * (worst + pad)


def _traces(own: pd.DataFrame, name: str, place: int, look: Style) -> Iterator[dict[str, Any]]:
    known = own[np.isfinite(own["mean"].astype(float))]
    if known.empty:
        return
    yield {
        "type": "scatter",
        "mode": "lines+markers",
        "legendgroup": str(place),
        "x": known["x"].tolist(),
        "y": known["mean"].tolist(),
        "error_y": {
            "array": (known["high"] - known["mean"]).tolist(),
            "arrayminus": (known["mean"] - known["low"]).tolist(),
            "color": named(look.colour, 0.6),
            "thickness": 1.2,
            "width": 3,
        },
        "line": look.line(width=1.8),
        "marker": look.marker(size=7),
        "text": [f"{number(mean)}, seeds: {n}" for mean, n in zip(known["mean"], known["seeds"], strict=True)],
        "hovertemplate": f"<b>{text(name, 60)}</b><br>%{{x}}: %{{text}}<extra></extra>",
    }
    chosen = known[known["chosen"].astype(bool)]
    if len(chosen):
        yield {
            "type": "scatter",
            "mode": "markers",
            "legendgroup": str(place),
            "x": chosen["x"].tolist(),
            "y": chosen["mean"].tolist(),
            "marker": {"symbol": "circle-open", "size": 17, "color": named(look.colour), "line": {"width": 2}},
            "hoverinfo": "skip",
        }


def _crosses(
    lost: pd.DataFrame, name: str, place: int, best: float, worst: float, at: dict
) -> Iterator[dict[str, Any]]:
    """At the worst end. `at` counts the crosses at each value, so that they stand one below the other."""
    if lost.empty:
        return
    heights = []
    for x in lost["x"]:
        at[x] = at.get(x, -1) + 1
        heights.append(worst - (worst - best) * STACK * (at[x] + 0.6))
    yield {
        "type": "scatter",
        "mode": "markers",
        "legendgroup": str(place),
        "x": lost["x"].tolist(),
        "y": heights,
        "marker": {"symbol": "x", "size": 9, "color": named(style(place).colour)},
        "text": [
            f"{float(n):.0f} of {seeds} diverged" for n, seeds in zip(lost["diverged"], lost["seeds"], strict=True)
        ],
        "hovertemplate": f"<b>{text(name, 60)}</b><br>%{{x}}: %{{text}}<extra></extra>",
    }
