"""The curves of the arms: mean and band over seeds, against any of the axes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.read.runs import AXES
from gptlab.compare.views.charts.chart import (
    Chart,
    arms,
    baseline_last,
    layer,
    layered,
    padded,
    quantitative,
    scale,
    tooltip,
)
from gptlab.compare.views.charts.formatting import metric_label, number

HEIGHT = 440  # pixels
CURVE_POINTS = 200  # points of an arm's curve
UNFINISHED_POINTS = 60  # points of the curve of a run that has not finished
MOST_BANDS = 6  # arms; more bands hide the lines
COLUMNS = {name: axis.column for name, axis in AXES.items()}
FIRST_AXIS = "tokens"
FIRST_SHOWN = {"half": 0.5, "late": 0.2, "whole": 0.0}  # share of the tokens before which the curve is cut off

Rows = list[dict[str, Any]]


def learning_curves(comparison: Comparison, *, range_shown: str = "late") -> Chart | None:
    """Return a line for the mean of each arm's finished seeds, and a band from their lowest to their highest.

    Runs that did not finish are thin and dotted, with a cross where one diverged. Every row has the x of every axis.
    The controls: `axes`, their titles; `ranges` of y and `ends` of each x, which the page chooses from.
    """
    frames = _with_states(comparison)
    if frames.empty:
        return None
    metric = comparison.curve_metric
    means: Rows = []
    alone: Rows = []
    for place, result in baseline_last(comparison):
        of_arm = frames[frames["arm"] == result.name].assign(place=place)
        done = of_arm[(of_arm["state"] == "finished") & np.isfinite(of_arm[metric])]
        if not done.empty:
            means += _mean(done, metric)
        for _, run in of_arm[of_arm["state"] != "finished"].groupby("seed"):
            alone += _alone(run, metric)
    ranges = _ranges(frames, metric)
    ends = {axis: [float(frames[c][frames[c] > 0].min()), float(frames[c].max())] for axis, c in COLUMNS.items()}
    view = _view(comparison, means, alone, ranges[range_shown], ends[FIRST_AXIS][1])
    low, high = ranges[range_shown] or (None, None)
    controls = {"axes": {name: axis.title for name, axis in AXES.items()}, "ranges": ranges, "ends": ends}
    return Chart(view, {"y_low": low, "y_high": high, "bands": has_bands(comparison)}, controls)


def _view(comparison: Comparison, means: Rows, alone: Rows, shown: list[float] | None, last: float) -> dict[str, Any]:
    x = quantitative(FIRST_AXIS, AXES[FIRST_AXIS].title, scale([0, 1.01 * last]), format="~s")
    xy = {"x": x, "y": quantitative("value", metric_label(comparison.curve_metric), scale(shown), 45)}
    by_run = {"detail": {"field": "line"}}
    one_by_one = tooltip(arm="arm", seed="seed", state="state", text="value")
    zoom = {"params": [{"name": "zoom", "select": "interval", "bind": "scales"}]}
    bands = layer(
        [{**row, "value": row["min"]} for row in means if row["max"] > row["min"]],
        "area",
        {"opacity": 0.16, "clip": True},
        **xy,
        y2={"field": "max"},
        **by_run,
        **arms(comparison),
    )
    bands["transform"] = [*bands.get("transform", []), {"filter": "bands"}]
    crosses = layer([row for row in alone if row["end"]], "point", {"shape": "cross", "angle": 45, "size": 160})
    crosses["encoding"] = {**xy, **arms(comparison), "tooltip": one_by_one}
    crosses["mark"] |= {"filled": True, "opacity": 1}
    if shown:  # a loss that left the chart, or is not finite, has its cross at the edge
        clamp = "datum.value === null ? y_high : clamp(datum.value, y_low, y_high)"
        crosses.setdefault("transform", []).append({"calculate": clamp, "as": "value"})
    thin = {"strokeWidth": 1.3, "strokeDash": [2, 3], "opacity": 0.75, "clip": True}
    view_layers = [
        bands,
        layer([row for row in alone if row["value"] is not None], "line", thin, **xy, **by_run, **arms(comparison)),
        layer(means, "line", {"strokeWidth": 2.4, "clip": True}, **xy, **by_run, **arms(comparison, "dash")) | zoom,
        layer(
            means,
            "point",
            {"opacity": 0, "size": 60, "clip": True},
            **xy,
            tooltip=tooltip(arm="arm", text="mean", x="tokens"),
        ),
        crosses if crosses["data"]["values"] else None,
    ]
    return layered(view_layers, HEIGHT)


def has_bands(comparison: Comparison) -> bool:
    """Return whether bands are shown before the reader asks for them."""
    return len(comparison.curves) <= MOST_BANDS


def _with_states(comparison: Comparison) -> pd.DataFrame:
    """Return all curves in one table with columns arm and state; diverged runs go on to where they diverged."""
    frames = [frame.assign(arm=name) for name, frame in comparison.curves.items() if not frame.empty]
    if not frames:
        return pd.DataFrame()
    runs = comparison.runs[comparison.runs["phase"] == ""]  # the others chose a value, or were not the best of theirs
    lost = runs.loc[runs["state"] == "diverged", ["arm", "seed", "tokens", "seconds"]]
    table = pd.concat([*frames, *([lost] if len(lost) else [])], ignore_index=True).dropna(subset=["tokens"])
    for column in ("step", "flops"):  # both are a multiple of an arm's tokens
        per_token = (table[column] / table["tokens"]).groupby(table["arm"]).transform("median")
        table[column] = table[column].fillna(table["tokens"] * per_token)
    return table.merge(runs[["arm", "seed", "state"]], on=["arm", "seed"], how="left")


def _mean(done: pd.DataFrame, metric: str) -> Rows:
    """Return the mean at the points where all seeds were evaluated."""
    seeds = done["seed"].nunique()
    points = done.groupby("tokens")
    table = points[metric].agg(["mean", "min", "max", "count"]).join(points[["step", "flops", "seconds"]].mean())
    table = table[table["count"] == seeds].reset_index()
    return [
        _row(row, done.iloc[0], value=row["mean"], min=row["min"], max=row["max"])
        for row in table.iloc[_thinned(len(table), CURVE_POINTS)].to_dict("records")
    ]


def _alone(run: pd.DataFrame, metric: str) -> Rows:
    """Return the points of a run that did not finish; if it diverged, it did so at the last point."""
    run = run.sort_values("tokens")
    run = run.iloc[_thinned(len(run), UNFINISHED_POINTS)]
    values = run[metric].where(np.isfinite(run[metric]))
    first = run.iloc[0]
    rows = [
        _row(row, first, value=None if np.isnan(value) else value, end=False)
        for row, value in zip(run.to_dict("records"), values, strict=True)
    ]
    if first["state"] == "diverged":
        last = values.ffill().iloc[-1] if values.notna().any() else np.nan
        rows.append({**rows[-1], "value": None if np.isnan(last) else last, "end": True})
    return rows


def _row(at: Mapping[Any, Any], first: pd.Series, **values: Any) -> dict[str, Any]:
    """Return one point: its x on every axis, the run it belongs to, and its values."""
    alone = "end" in values
    value = values["value"]
    return {
        **{axis: at[column] for axis, column in COLUMNS.items()},
        "place": int(first["place"]),
        "line": f"{first['place']}.{first['seed']}" if alone else f"{first['place']}",
        "arm": first["arm"],
        "text": "not finite" if value is None else number(value),
        **({"seed": int(first["seed"]), "state": str(first["state"])} if alone else {}),
        **values,
    }


def _thinned(n: int, most: int) -> list[int]:
    """Return at most `most` of n positions: half evenly spaced, and half with growing gaps, for a log axis."""
    if n <= most:
        return list(range(n))
    even = np.linspace(0, n - 1, most // 2)
    growing = np.geomspace(1, n, most // 2) - 1
    return sorted({int(round(i)) for i in (*even, *growing)})


def _ranges(frames: pd.DataFrame, metric: str) -> dict[str, list[float] | None]:
    """Return the range of y over finished runs after each share of the tokens; None where there is no range."""
    finite = frames[np.isfinite(frames[metric])]
    done = finite[finite["state"] == "finished"]
    done = finite if done.empty else done
    share = done["tokens"] / done["tokens"].max()
    return {name: padded(done.loc[share >= first, metric], 0.05) for name, first in FIRST_SHOWN.items()}
