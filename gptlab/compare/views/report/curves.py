"""The curves of the arms: mean and band over seeds, against any of the axes."""

from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.read.runs import AXES
from gptlab.compare.views.report.figure import Figure, baseline_last, layout, text
from gptlab.compare.views.report.formatting import metric_label
from gptlab.compare.views.report.theme import named, style

POINTS = 200  # of an arm's curve
POINTS_ALONE = 60  # of a run that has not finished
MOST_BANDS = 6  # arms; more bands hide the lines
FIRST_AXIS = "tokens"
FIRST_SHOWN = {"half": 0.5, "late": 0.2, "whole": 0.0}  # of the tokens; before that is the fall from ln V

Line = tuple[dict[str, list[float]], list[dict[str, Any]]]  # x by axis, and the traces that have it


def curves(comparison: Comparison) -> Figure | None:
    """A line for the mean of each arm's finished seeds, a band from their lowest to their highest.

    Runs that did not finish are thin and dotted, with a cross where one diverged. Beside data and layout there are for
    page.js: `xs`, the x of every axis for each `meta.line` of a trace; `axes`, their titles; `ranges` of y.
    """
    frames = _with_states(comparison)
    if frames.empty:
        return None
    metric = comparison.curve_metric
    lines: list[Line] = []
    for place, result in baseline_last(comparison):
        own = frames[frames["arm"] == result.name]
        done = own[(own["state"] == "finished") & np.isfinite(own[metric])]
        if not done.empty:
            lines.append(_mean(done, metric, result.name, place))
        lines += [_alone(run, metric, result.name, place) for _, run in own[own["state"] != "finished"].groupby("seed")]
    data = [
        trace | {"x": x[FIRST_AXIS], "meta": {**trace.get("meta", {}), "line": number}}
        for number, (x, traces) in enumerate(lines)
        for trace in traces
    ]
    shown = layout(520, AXES[FIRST_AXIS].title, metric_label(metric))
    return {
        "data": data,
        "layout": shown,
        "xs": [x for x, _ in lines],
        "axes": {name: axis.title for name, axis in AXES.items()},
        "ranges": _ranges(frames, metric),
    }


def has_bands(comparison: Comparison) -> bool:
    """Whether bands are shown before the reader asks for them."""
    return len(comparison.curves) <= MOST_BANDS


def _with_states(comparison: Comparison) -> pd.DataFrame:
    """All curves below each other, with columns arm and state; those that diverged go on to where they did."""
    curves = [frame.assign(arm=name) for name, frame in comparison.curves.items() if not frame.empty]
    if not curves:
        return pd.DataFrame()
    runs = comparison.runs[comparison.runs["phase"] != "tune"]  # which choose a setting and are not compared
    lost = runs.loc[runs["state"] == "diverged", ["arm", "seed", "tokens", "seconds"]]
    frames = pd.concat([*curves, *([lost] if len(lost) else [])], ignore_index=True).dropna(subset=["tokens"])
    for column in ("step", "flops"):  # an arm's go with its tokens
        per_token = (frames[column] / frames["tokens"]).groupby(frames["arm"]).transform("median")
        frames[column] = frames[column].fillna(frames["tokens"] * per_token)
    return frames.merge(runs[["arm", "seed", "state"]], on=["arm", "seed"], how="left")


def _mean(done: pd.DataFrame, metric: str, name: str, place: int) -> Line:
    """Where all seeds were evaluated."""
    seeds = done["seed"].nunique()
    points = done.groupby("tokens")
    table = points[metric].agg(["mean", "min", "max", "count"]).join(points[["step", "flops", "seconds"]].mean())
    table = table[table["count"] == seeds].reset_index()
    table = table.iloc[_kept(len(table), POINTS)]
    same: dict[str, Any] = {"type": "scatter", "mode": "lines", "legendgroup": str(place)}
    edge = same | {"line": {"width": 0}, "hoverinfo": "skip", "meta": {"band": True}}
    band = [
        edge | {"y": table["min"].tolist()},
        edge | {"y": table["max"].tolist(), "fill": "tonexty", "fillcolor": named(style(place).colour, 0.16)},
    ]
    mean = same | {
        "y": table["mean"].tolist(),
        "line": style(place).line(width=2.4 if place else 2.8),
        "hovertemplate": f"<b>{text(name, 60)}</b><br>%{{y:.4f}} at %{{x:.4s}}<extra></extra>",
    }
    return _xs(table), [*(band if seeds > 1 else []), mean]


def _alone(run: pd.DataFrame, metric: str, name: str, place: int) -> Line:
    """A run that did not finish; what is not a number ends the line."""
    run = run.sort_values("tokens")
    run = run.iloc[_kept(len(run), POINTS_ALONE)]
    state, seed = run["state"].iloc[0], run["seed"].iloc[0]
    said = f"<b>{text(name, 60)}</b>, seed {seed}: {text(str(state))}<extra></extra>"
    values = run[metric].where(np.isfinite(run[metric]))
    same: dict[str, Any] = {"type": "scatter", "legendgroup": str(place), "hovertemplate": said}
    line = {"color": named(style(place).colour, 0.75), "dash": "dot", "width": 1.3}
    traces = [same | {"mode": "lines", "y": values.tolist(), "line": line}]
    if state == "diverged":
        last = values.ffill().iloc[-1] if values.notna().any() else float("inf")
        cross = {"symbol": "x", "size": 10, "color": named(style(place).colour)}
        end = [None] * (len(run) - 1) + [last if np.isfinite(last) else 1e300]
        traces.append(
            same | {"mode": "markers", "y": end, "marker": cross, "cliponaxis": False, "meta": {"clamp": end}}
        )
    return _xs(run), traces


def _xs(table: pd.DataFrame) -> dict[str, list[float]]:
    return {name: table[axis.column].tolist() for name, axis in AXES.items()}


def _kept(n: int, most: int) -> list[int]:
    """So many of n points at most, half of them evenly and half ever farther apart, for a logarithmic x too."""
    if n <= most:
        return list(range(n))
    even = np.linspace(0, n - 1, most // 2)
    growing = np.geomspace(1, n, most // 2) - 1
    return sorted({int(round(i)) for i in (*even, *growing)})


def _ranges(frames: pd.DataFrame, metric: str) -> dict[str, list[float] | None]:
    """Of y for what finished runs did in the last so many of the tokens. None: as plotly.js likes."""
    finite = frames[np.isfinite(frames[metric])]
    done = finite[finite["state"] == "finished"]
    done = finite if done.empty else done
    share = done["tokens"] / done["tokens"].max()
    return {name: _padded(done.loc[share >= first, metric]) for name, first in FIRST_SHOWN.items()}


def _padded(values: pd.Series) -> list[float] | None:
    if values.empty or values.max() == values.min():
        return None
    pad = 0.05 * (values.max() - values.min())
    return [values.min() - pad, values.max() + pad]
