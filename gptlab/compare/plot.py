"""The curves of the arms as a picture."""

import io
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gptlab.compare.arms import Arm, names
from gptlab.compare.runs import Run, read_curve
from gptlab.compare.table import si
from gptlab.config import ConfigError

LABELS = {
    "val/loss": "validation loss (nats per token)",
    "val/bpb": "validation loss (bits per byte)",
    "train/loss": "training loss (nats per token)",
}
SETTLED = 0.2  # of the tokens; the fall from ln V before that may leave the picture at its top
MEAN_WIDTH = 2.2  # points

Curves = dict[Run, pd.Series]


def draw_curves(arms: list[Arm], metric: str, question: str | None, file_format: str) -> bytes:
    """The metric against training tokens: a thin line per seed, a thick one for the mean of an arm's finished seeds.

    The first arm is the baseline. Where `metric` has no curve it is val/loss, and without evaluations train/loss.
    """
    shown, curves = _read(arms, metric)
    figure = Figure(figsize=(10, 6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    _limit(axes, curves)
    handles = []
    for arm, name, colour in zip(arms, names(arms), _colours(len(arms)), strict=True):
        _draw_arm(axes, {run: curves[run] for run in arm.runs}, colour)
        handles.append(Line2D([], [], color=colour, linewidth=MEAN_WIDTH, label=fill(name, 28)))
    if any(run.state == "diverged" for run in curves):
        handles.append(Line2D([], [], color="grey", linestyle="", marker="x", markersize=9, label="diverged"))
    axes.set_title(fill(question or "", 90), pad=12)
    axes.set_xlabel("training tokens")
    axes.set_ylabel(LABELS.get(shown, shown))
    axes.xaxis.set_major_formatter(lambda tokens, _: si(tokens))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format=file_format)
    return picture.getvalue()


def _read(arms: list[Arm], metric: str) -> tuple[str, Curves]:
    """The metric to draw and its curves."""
    runs = [run for arm in arms for run in arm.runs]
    for key in dict.fromkeys((metric, "val/loss", "train/loss")):
        curves = {run: read_curve(run, key) for run in runs}
        if any(len(curve) > 1 for curve in curves.values()):
            return key, curves
    raise ConfigError(f"metric={metric}: no run has logged it twice, nor a loss; train for longer before you plot")


def _limit(axes: Axes, curves: Curves) -> None:
    """Show what the finished runs did after SETTLED; the rest, and what diverged, may leave the picture at its top."""
    finished = [curve for run, curve in curves.items() if run.state == "finished"]
    values = pd.concat(finished or list(curves.values()))
    late = values[(values.index >= SETTLED * values.index.max()) & np.isfinite(values)]
    if late.max() > late.min():
        margin = 0.05 * (late.max() - late.min())
        axes.set_ylim(late.min() - margin, late.max() + margin)


def _draw_arm(axes: Axes, curves: Curves, colour: Any) -> None:
    for run, curve in curves.items():
        axes.plot(curve.index, curve, color=colour, linewidth=0.8, alpha=0.5)
        if run.state == "diverged":
            last = next(iter(curve[np.isfinite(curve)].iloc[::-1]), np.inf)  # none before the first evaluation
            height = np.clip(last, *axes.get_ylim())
            axes.plot(run.summary["tokens"], height, "x", color=colour, markersize=9, clip_on=False)
    finished = [curve for run, curve in curves.items() if run.state == "finished"]
    if finished:
        mean = pd.concat(finished, axis=1, join="inner").mean(axis=1)  # where all seeds were evaluated
        axes.plot(mean.index, mean, color=colour, linewidth=MEAN_WIDTH)


def _colours(n: int) -> list[Any]:
    """Black for the baseline, then n - 1 that can be told apart."""
    distinct = [colour for i, colour in enumerate(matplotlib.color_sequences["tab10"]) if i != 7]  # grey
    if n - 1 > len(distinct):
        distinct = list(matplotlib.colormaps["turbo"](np.linspace(0.08, 0.95, n - 1)))
    return ["black", *distinct[: n - 1]]
