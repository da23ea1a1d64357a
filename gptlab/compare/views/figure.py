"""The comparison as one picture: effects at the left, curves at the right, and of a grid the means below."""

import io
from collections.abc import Iterator, Mapping
from math import isfinite
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from gptlab.compare.analysis.comparison import Comparison, Factorial
from gptlab.compare.formatting import si
from gptlab.compare.views.captions import verdict_of
from gptlab.config import ConfigError
from gptlab.runs.metrics import metric_named

SETTLED = 0.2  # of the tokens; the fall from ln V before that may leave the picture at its top
REACH = 3  # of the largest effect or margin: an interval of two seeds may leave the picture
MOST_POINTS = 400  # of a drawn mean
WIDTH, HEIGHT = 14, 6  # inches
ROW, MAPS = 0.3, 3.2  # inches: of an arm in the forest, of a row of heat maps
MAPS_PER_ROW = 3

Points = tuple[np.ndarray, np.ndarray]  # tokens, values


def draw(comparison: Comparison, file_format: str) -> bytes:
    """As png, pdf or svg. An arm has one colour everywhere, black the baseline."""
    if not any(len(own) > own["seed"].nunique() for own in comparison.curves.values()):
        metric = comparison.metric
        raise ConfigError(f"metric={metric}: no run has logged it twice, nor a loss; train for longer before you plot")
    colours = dict(zip((r.name for r in comparison.results), _colours(len(comparison.results)), strict=True))
    maps = len(comparison.factorial.means) if comparison.factorial else 0
    sizes = [max(HEIGHT, 2 + ROW * len(comparison.results)), *([MAPS * -(-maps // MAPS_PER_ROW)] if maps else [])]
    figure = Figure(figsize=(WIDTH, sum(sizes)), dpi=100, layout="constrained")
    parts: Any = figure.subfigures(len(sizes), 1, height_ratios=sizes, squeeze=False)
    left, right = parts[0, 0].subplots(1, 2, width_ratios=[1, 1.2])
    _forest(left, comparison, colours)
    _curves(right, comparison, colours)
    if comparison.factorial:
        _heat_maps(parts[1, 0], comparison.factorial, comparison.metric)
    figure.suptitle(fill(comparison.question or "", 120))
    picture = io.BytesIO()
    figure.savefig(picture, format=file_format)
    return picture.getvalue()


def _forest(axes: Axes, comparison: Comparison, colours: Mapping[str, Any]) -> None:
    """Each arm's difference from its reference with its 95 % t interval; the margin is shaded."""
    margin = np.nan_to_num(comparison.margin)
    effects = [r.effect for r in comparison.results if r.effect and isfinite(r.effect.mean)]
    far = REACH * max([margin, *(abs(e.mean) for e in effects)])
    ends = [abs(end) for e in effects for end in (e.mean, e.low, e.high) if isfinite(end)]
    reach = 1.08 * max(margin, min(far, max(ends, default=0))) or 1.0
    axes.set_xlim(-reach, reach)
    axes.axvspan(-margin, margin, color="grey", alpha=0.15, linewidth=0)
    axes.axvline(0, color="black", linewidth=0.8)
    for y, result in enumerate(comparison.results):
        effect, colour = result.effect, colours[result.name]
        said = verdict_of(effect) if effect else "baseline"
        axes.plot([effect.mean if effect else 0], [y], "o", color=colour)
        if effect:
            axes.plot([effect.low, effect.high], [y, y], color=colour, linewidth=2)
        axes.text(1.02, y, fill(said, 24), transform=axes.get_yaxis_transform(), va="center", fontsize="small")
    axes.set_yticks(range(len(colours)), [fill(name, 28) for name in colours])
    for label, colour in zip(axes.yaxis.get_ticklabels(), colours.values(), strict=True):
        label.set_color(colour)
    axes.set_ylim(len(colours) - 0.5, -0.5)
    metric = metric_named(comparison.metric)
    axes.set_xlabel(f"difference in {metric.title}, 95% interval\n{metric.better} is better; grey: the margin")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)


def _curves(axes: Axes, comparison: Comparison, colours: Mapping[str, Any]) -> None:
    """The mean over an arm's finished seeds and a band of one standard deviation; thin lines for all other runs."""
    states = comparison.runs[comparison.runs["phase"] == ""].set_index(["arm", "seed"])["state"]
    finished: list[tuple[str, str, pd.DataFrame]] = []
    others: list[tuple[str, str, pd.DataFrame]] = []
    for name, points in comparison.curves.items():
        for seed, own in points.groupby("seed"):
            group = finished if states[name, seed] == "finished" else others
            group.append((name, states[name, seed], own))
    _limit(axes, [own for _, _, own in finished or others], comparison.curve_metric)
    for name, state, own in others:
        values = own[comparison.curve_metric].to_numpy()
        axes.plot(own["tokens"], values, color=colours[name], linewidth=0.8, alpha=0.6)
        if state == "diverged":
            height = np.clip(values[-1], *axes.get_ylim())
            axes.plot(own["tokens"].iloc[-1], height, "x", color=colours[name], markersize=9, clip_on=False)
    metric = comparison.curve_metric
    for name in comparison.curves:
        seeds = [(own["tokens"].to_numpy(), own[metric].to_numpy()) for arm, _, own in finished if arm == name]
        if seeds:
            tokens, mean, sd = _band(seeds)
            axes.plot(tokens, mean, color=colours[name], linewidth=2)
            axes.fill_between(tokens, mean - sd, mean + sd, color=colours[name], alpha=0.2, linewidth=0)
    if "diverged" in set(states):
        handle = Line2D([], [], color="grey", linestyle="", marker="x", markersize=9, label="diverged")
        axes.legend(handles=[handle], frameon=False)
    axes.set_xlabel("training tokens")
    axes.set_ylabel(metric_named(comparison.curve_metric).title)
    axes.xaxis.set_major_formatter(lambda tokens, _: si(tokens))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _band(seeds: list[Points]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, mean and standard deviation where all seeds have values, interpolated between their own."""
    first, last = max(x[0] for x, _ in seeds), min(x[-1] for x, _ in seeds)
    tokens = np.unique(np.concatenate([x for x, _ in seeds]))
    tokens = tokens[(tokens >= first) & (tokens <= last)]
    if len(tokens) > MOST_POINTS:
        tokens = tokens[np.linspace(0, len(tokens) - 1, MOST_POINTS).round().astype(int)]
    values = np.stack([np.interp(tokens, x, y) for x, y in seeds])
    return tokens, values.mean(0), values.std(0, ddof=1) if len(seeds) > 1 else np.zeros(len(tokens))


def _limit(axes: Axes, curves: list[pd.DataFrame], metric: str) -> None:
    """Show what the finished runs did after SETTLED; the rest, and what diverged, may leave the picture at its top."""
    points = pd.concat(curves)
    late = points.loc[points["tokens"] >= SETTLED * points["tokens"].max(), metric]
    if late.max() > late.min():
        pad = 0.05 * (late.max() - late.min())
        axes.set_ylim(late.min() - pad, late.max() + pad)


def _heat_maps(part: SubFigure, factorial: Factorial, metric: str) -> None:
    """The mean of the metric for each two levels of two settings."""
    n = len(factorial.means)
    grid = part.subplots(-(-n // MAPS_PER_ROW), MAPS_PER_ROW, squeeze=False)
    values = np.concatenate([means.to_numpy(dtype=float).ravel() for means in factorial.means.values()])
    low, high = np.nanmin(values), np.nanmax(values)
    for axes in grid.flat[n:]:
        axes.set_visible(False)
    for axes, ((down, across), means) in zip(_flat(grid), factorial.means.items(), strict=False):
        axes.imshow(means, cmap="viridis", aspect="auto", vmin=low, vmax=high)
        axes.set_xticks(range(means.shape[1]), [fill(str(level), 14) for level in means.columns], fontsize="small")
        axes.set_yticks(range(means.shape[0]), [fill(str(level), 14) for level in means.index], fontsize="small")
        axes.set_xlabel(across)
        axes.set_ylabel(down)
        for (i, j), value in np.ndenumerate(means.to_numpy(dtype=float)):
            if isfinite(value):
                ink = "black" if value - low > 0.6 * (high - low) else "white"
                axes.text(j, i, f"{value:.4f}", ha="center", va="center", color=ink, fontsize="small")
    part.suptitle(f"mean {metric_named(metric).title}", fontsize="medium", x=0.01, ha="left")


def _flat(grid: np.ndarray) -> Iterator[Axes]:
    yield from grid.flat


def _colours(n: int) -> list[Any]:
    """Black for the baseline, then n - 1 that can be told apart."""
    distinct = [colour for i, colour in enumerate(matplotlib.color_sequences["tab10"]) if i != 7]  # grey
    if n - 1 > len(distinct):
        distinct = list(matplotlib.colormaps["turbo"](np.linspace(0.08, 0.95, n - 1)))
    return ["black", *distinct[: n - 1]]
