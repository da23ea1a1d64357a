"""A chart of how each arm depends on a tuned setting."""

from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis.comparison import Comparison, Tuning
from gptlab.compare.views.charts.chart import Chart, arms, baseline_last, layer, layered, quantitative, scale, tooltip
from gptlab.compare.views.charts.formatting import metric_label, number
from gptlab.runs.metrics import metric_named

HEIGHT = 340  # pixels
FARTHEST = 4  # times from the best mean to the median: a run that nearly diverged must not flatten the others
STACK = 0.035  # share of the height between the crosses of arms that diverged at the same value

Rows = list[dict[str, Any]]


def sensitivity(tuning: Tuning, comparison: Comparison) -> Chart:
    """Return a chart of the metric against the setting, with a ring at the value chosen and a cross for divergence."""
    values = pd.to_numeric(tuning.points["value"], errors="coerce")
    numeric = bool(values.notna().all())
    points = tuning.points.assign(x=values if numeric else tuning.points["value"].astype(str))
    best, worst = _ends(points, -1 if metric_named(comparison.metric).higher_is_better else 1)
    means: Rows = []
    crosses: Rows = []
    n_crosses: dict[Any, int] = {}  # crosses at each value so far, to stack them
    for place, result in baseline_last(comparison):
        of_arm = points[points["arm"] == result.name].sort_values("x")
        for row in of_arm.to_dict("records"):
            base = {"place": place, "arm": result.name, "x": row["x"], "setting": str(row["value"])}
            if np.isfinite(row["mean"]):
                text = f"{number(row['mean'])}, seeds: {row['seeds']}"
                picked = {"low": row["low"], "high": row["high"], "chosen": bool(row["chosen"])}
                means.append(base | picked | {"y": row["mean"], "text": text})
            if row["diverged"] > 0:
                height = worst - (worst - best) * STACK * (n_crosses.get(row["x"], 0) + 0.6)
                n_crosses[row["x"]] = n_crosses.get(row["x"], 0) + 1
                text = f"{row['diverged']:.0f} of {row['seeds']} diverged"
                crosses.append(base | {"y": height, "text": text})
    x = _x_axis(tuning.setting, sorted(set(values)) if numeric else None)
    return Chart(_view(comparison, means, crosses, x, sorted([best, worst])))


def _view(comparison: Comparison, means: Rows, crosses: Rows, x: dict[str, Any], ends: list[float]) -> dict[str, Any]:
    xy = {"x": x, "y": quantitative("y", metric_label(comparison.metric), scale(ends), 45)}
    looks = arms(comparison)
    hover = tooltip(arm="arm", setting=" ".join(x["title"]), text="result")
    ends_of_bar = {"y": {**xy["y"], "field": "low"}, "y2": {"field": "high"}}
    ring = {"filled": False, "size": 300, "strokeWidth": 2, "shape": "circle", "opacity": 1}
    cross = {"shape": "cross", "angle": 45, "size": 160, "filled": True, "opacity": 1}
    point = {"filled": True, "size": 50, "opacity": 1}
    return layered(
        [
            layer(means, "rule", {"clip": True, "opacity": 0.6, "strokeWidth": 1.2}, **xy | ends_of_bar, **looks),
            layer(means, "line", {"clip": True, "strokeWidth": 1.8}, **xy, **arms(comparison, "dash")),
            layer(means, "point", {"clip": True, **point}, **xy, **arms(comparison, "shape"), tooltip=hover),
            layer([row for row in means if row["chosen"]], "point", {"clip": True, **ring}, **xy, **looks),
            layer(crosses, "point", cross, **xy, **looks, tooltip=hover),
        ],
        HEIGHT,
    )


def _x_axis(setting: str, values: list[float] | None) -> dict[str, Any]:
    """Return the encoding of x: a log axis for positive numbers, a category for words (values None)."""
    if values is None:
        return {"field": "x", "type": "nominal", "title": [setting], "axis": {"labelAngle": 0}}
    log = values[0] > 0 and len(values) > 1
    return quantitative("x", setting, scale(type="log" if log else "linear", padding=20), values=values)


def _ends(points: pd.DataFrame, sign: int) -> tuple[float, float]:
    """Return the ends of the axis, the best side first; `sign` is -1 where more is better."""
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
    return float(sign * (best - pad / 2)), float(sign * (worst + pad))
