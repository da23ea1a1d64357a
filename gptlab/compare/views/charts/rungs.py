"""Charts over the rungs of an experiment: the loss and the worth in compute against compute, and isoflop profiles."""

from collections.abc import Iterator, Sequence
from math import exp, isfinite, log
from typing import Any

import numpy as np

from gptlab.compare.analysis.comparison import Result
from gptlab.compare.analysis.isoflop import Profile
from gptlab.compare.analysis.over_rungs import ArmOverRungs, Rung, RungsComparison
from gptlab.compare.analysis.scaling import PowerLaw, Trend
from gptlab.compare.analysis.text_share import SIZES
from gptlab.compare.views.charts.chart import (
    Chart,
    View,
    complete,
    layer,
    layered,
    lines,
    quantitative,
    rendered,
    rule,
    scale,
    tooltip,
)
from gptlab.compare.views.charts.formatting import metric_label, number, si
from gptlab.compare.views.charts.legend import legend
from gptlab.compare.views.charts.theme import BASELINE, named, style
from gptlab.compare.views.labels import short_names_over

HEIGHT, WIDTH, PADDING = 380, 560, 16  # pixels
POINTS = 41  # of a curve
DODGE = 0.012  # of the width of the x axis, between the arms at one rung
FARTHEST = 4.0  # times the widest multiplier that is measured; an interval that reaches farther is cut


def rungs_charts(comparison: RungsComparison) -> dict[str, Chart]:
    """Return the charts by the id of their element, without those that have no data."""
    if comparison.profiles:
        return {"profiles": _profiles(comparison)}
    charts = {"loss": _losses(comparison), "worth": _worth(comparison)}
    return {name: chart for name, chart in charts.items() if chart is not None}


def draw_rungs(comparison: RungsComparison, file_format: str) -> bytes:
    """Return the charts side by side as png, pdf or svg."""
    charts = rungs_charts(comparison)
    views = [chart.view | {"width": WIDTH} for chart in charts.values()]
    params = {name: value for chart in charts.values() for name, value in chart.params.items()}
    title = {"text": lines(comparison.file.question or "", 110), "anchor": "start", "fontSize": 17, "offset": 14}
    rows = [{"hconcat": views, "spacing": 60}, legend(_named(comparison), WIDTH * len(views))]
    return rendered(complete({"vconcat": rows, "title": title, "autosize": "pad", "spacing": 24}, params), file_format)


def _losses(comparison: RungsComparison) -> Chart | None:
    """Return the loss of every run, the means joined by lines, and the common power law where there is one."""
    if not comparison.known_rungs:
        return None
    rows = [row for place, arm in _arms(comparison) for row in _loss_rows(comparison, place, arm)]
    points = [row for row in rows if row["kind"] == "seed"]
    means = [row for row in rows if row["kind"] == "mean"]
    fitted = list(_fit_rows(comparison)) if comparison.power_law else []
    x = _compute_axis([rung.flops for rung in comparison.known_rungs])
    kind = "log" if comparison.metric in SIZES else "linear"  # an accuracy can be 0
    y = quantitative("y", metric_label(comparison.metric), scale(type=kind), 45, tickCount=6)
    xy = {"x": x, "y": y, **_looks(comparison)}
    hover = tooltip(arm="arm", rung="rung", score=comparison.metric)
    dashes = _looks(comparison, "strokeDash")
    view = layered(
        [
            layer(fitted or means, "line", {"strokeWidth": 2}, **xy | dashes, order={"field": "x"}),
            layer(points, "point", {"filled": True, "size": 22, "opacity": 0.5}, **xy, tooltip=hover),
            layer(
                means,
                "point",
                {"filled": True, "size": 80, "opacity": 1},
                **xy | _looks(comparison, "shape"),
                tooltip=hover,
            ),
        ],
        HEIGHT,
    )
    return Chart(view)


def _loss_rows(comparison: RungsComparison, place: int, arm: str) -> Iterator[dict[str, Any]]:
    for rung in comparison.known_rungs:
        if (result := rung.result(arm)) is None:
            continue
        base = {"place": place, "arm": arm, "rung": rung.name, "x": rung.flops}
        for seed, loss in result.scores.dropna().items():
            yield base | {"kind": "seed", "y": loss, "score": f"{number(loss)}, seed {seed}"}
        if isfinite(result.mean):
            yield base | {"kind": "mean", "y": result.mean, "score": f"{number(result.mean)} ± {number(result.sd)}"}


def _fit_rows(comparison: RungsComparison) -> Iterator[dict[str, Any]]:
    """Yield the curve of each arm in the power law with one floor and exponent."""
    law = comparison.power_law
    if law is None or law.reason:
        return
    rung = comparison.rungs[0]
    compute = np.geomspace(rung.flops, comparison.rungs[-1].flops, POINTS)
    for place, arm in _arms(comparison):
        if (height := _height(law, arm, comparison)) is not None:
            for at in compute:
                loss = law.floor.mean + exp(height - law.exponent.mean * log(at))
                yield {"place": place, "arm": arm, "x": float(at), "y": loss}


def _height(law: PowerLaw, arm: str, comparison: RungsComparison) -> float | None:
    """Return ln A of an arm, from its loss and its residual at the first rung; None if it was not fitted."""
    rung = comparison.rungs[0]
    result = rung.result(arm)
    if arm not in law.residuals.index or result is None:
        return None
    fitted = result.mean - law.residuals[rung.flops].astype(float)[arm]
    return log(fitted - law.floor.mean) + law.exponent.mean * log(rung.flops)


def _worth(comparison: RungsComparison) -> Chart | None:
    """Return each arm's multiplier with its interval at every rung, and the line of its trend."""
    arms = list(_arms(comparison))[1:]
    found = [
        (place, arm, rung, result)
        for i, (place, arm) in enumerate(arms)
        for rung in comparison.known_rungs
        if (result := rung.result(arm)) and result.multiplier and not result.multiplier.flops.reason
    ]
    if not found:
        return None
    ends = [rung.flops for rung in comparison.known_rungs]
    if comparison.file.target_flops:
        ends.append(comparison.file.target_flops)
    step = (max(ends) / min(ends)) ** DODGE if len(set(ends)) > 1 else 1.02
    points = [_worth_row(*one, step ** (one[0] - (len(arms) + 1) / 2)) for one in found]
    low, high = _range(points)
    for point in points:
        point |= {"low": max(point["low"], low), "high": min(point["high"], high)}
    trends = [
        row for arm, (place, _) in zip(comparison.arms, arms, strict=True) for row in _trend_rows(arm, place, ends)
    ]
    x = _compute_axis(ends)
    y = quantitative(
        "y", "worth in compute: the baseline's FLOPs for the arm's loss, over the arm's", scale([low, high], "log"), 45
    )
    xy = {"x": x, "y": y, **_looks(comparison)}
    hover = tooltip(arm="arm", rung="rung", worth="worth")
    measured, beyond = ([row for row in trends if row["beyond"] is flag] for flag in (False, True))
    span = {"y": {**y, "field": "low"}, "y2": {"field": "high"}}
    view = layered(
        [
            rule(y, 1.0, BASELINE),
            layer(measured, "line", {"strokeWidth": 1.5, "clip": True}, **xy, order={"field": "x"}),
            layer(beyond, "line", {"strokeWidth": 1.5, "strokeDash": [3, 4], "clip": True}, **xy, order={"field": "x"}),
            layer(points, "rule", {"strokeWidth": 2}, **xy | span, tooltip=hover),
            layer(
                [p for p in points if p["y"] is not None],
                "point",
                {"filled": True, "size": 80, "opacity": 1},
                **xy | _looks(comparison, "shape"),
                tooltip=hover,
            ),
        ],
        HEIGHT,
    )
    return Chart(view)


def _worth_row(place: int, arm: str, rung: Rung, result: Result, shift: float) -> dict[str, Any]:
    if result.multiplier is None:
        raise ValueError(f"{arm}: has no multiplier at {rung.name}")
    found = result.multiplier.flops
    low = found.low if found.low else found.least
    high = found.high if isfinite(found.high) else found.most
    value = found.value if found.value and isfinite(found.value) else None
    base = {"place": place, "arm": arm, "rung": rung.name, "x": rung.flops * shift}
    return base | {"y": value, "low": low, "high": high, "worth": str(found)}


def _range(points: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Return the ends of the axis, which holds 1 and the values; a wide interval must not flatten them."""
    logs = [abs(log(point["y"])) for point in points if point["y"]] or [abs(log(points[0]["high"]))]
    most = max(FARTHEST * max(logs), log(1.1))
    ends = [log(point[end]) for point in points for end in ("low", "high")]
    low, high = max(min([*ends, 0.0]), -most), min(max([*ends, 0.0]), most)
    pad = 0.05 * (high - low)
    return exp(low - pad), exp(high + pad)


def _trend_rows(arm: ArmOverRungs, place: int, ends: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Yield the line of a trend over the rungs, and onwards to the target."""
    found: Trend = arm.trend
    if found.reason:
        return
    largest = float(found.compute[-1])
    for start, end, beyond in ((min(ends), largest, False), (largest, max(ends), True)):
        if end > start:
            for at in np.geomspace(start, end, POINTS):
                projected = found.project(float(at))
                yield {"place": place, "arm": arm.name, "x": float(at), "y": projected.value, "beyond": beyond}


def _profiles(comparison: RungsComparison) -> Chart:
    """Return the mean loss of each arm against the size, with a line for each number of FLOPs, and the best sizes."""
    rows: list[dict[str, Any]] = [
        {"place": place, "arm": arm, "group": f"{arm} {rung.entry.flops}", "flops": rung.entry.flops, "rung": rung.name}
        | {"x": result.costs["parameters"], "y": result.mean, "score": number(result.mean)}
        for place, arm in _arms(comparison)
        for rung in comparison.rungs
        if (result := rung.result(arm)) and isfinite(result.mean)
    ]
    largest = {row["flops"]: row for row in sorted(rows, key=lambda row: row["x"]) if row["place"] == 0}
    ends = [row | {"text": f"{flops:.3g} FLOPs"} for flops, row in largest.items()]
    best = [
        {
            "place": place,
            "arm": arm,
            "rung": f"{flops:.3g} FLOPs",
            "x": found.best,
            "y": found.loss,
            "score": _best(found),
        }
        for flops, profiles in comparison.profiles.items()
        for place, arm in _arms(comparison)
        if (found := profiles.get(arm)) and isfinite(found.loss)
    ]
    x = quantitative("x", "parameters", scale(type="log", padding=PADDING), format="~s")
    y = quantitative("y", metric_label(comparison.metric), scale(padding=PADDING), 45)
    xy = {"x": x, "y": y, **_looks(comparison)}
    hover = tooltip(arm="arm", rung="rung", score=comparison.metric)
    view = layered(
        [
            layer(rows, "line", {"strokeWidth": 1.5}, **xy, detail={"field": "group"}, order={"field": "x"}),
            layer(rows, "point", {"filled": True, "size": 50, "opacity": 1}, **xy, tooltip=hover),
            layer(
                ends,
                "text",
                {"align": "right", "dy": -14, "fontSize": 12, "color": named("ink")},
                x=x,
                y=y,
                text={"field": "text"},
            ),
            layer(best, "point", {"filled": True, "size": 160, "shape": "diamond", "opacity": 1}, **xy, tooltip=hover),
        ],
        HEIGHT,
    )
    return Chart(view)


def _best(found: Profile) -> str:
    return f"{number(found.loss)} at the best size, {si(found.best)}"


def _arms(comparison: RungsComparison) -> Iterator[tuple[int, str]]:
    """Yield the places and the names of the arms, the baseline first."""
    return enumerate([comparison.baseline, *(arm.name for arm in comparison.arms)])


def _named(comparison: RungsComparison) -> dict[str, int]:
    """Return the places of the arms by their short names."""
    return {name: place for place, name in enumerate(short_names_over(comparison).values())}


def _compute_axis(values: Sequence[float]) -> View:
    low, high = min(values), max(values)
    pad = (high / low) ** 0.06 if high > low else 1.5
    return quantitative(
        "x", "training FLOPs of a run of the baseline", scale([low / pad, high * pad], "log"), format=".0e", tickCount=4
    )


def _looks(comparison: RungsComparison, channel: str = "color") -> View:
    """Return the encoding that gives each arm its colour, dash or shape, without a legend."""
    styles = [style(place) for place, _ in _arms(comparison)]
    ranges = {"color": [named(s.colour) for s in styles], "strokeDash": [s.dash for s in styles]}
    ranges |= {"shape": [s.symbol for s in styles]}
    domain = {"domain": list(range(len(styles))), "range": ranges[channel]}
    return {channel: {"field": "place", "type": "nominal", "scale": domain, "legend": None}}
