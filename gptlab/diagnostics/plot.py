"""Snapshots as pictures: the plots of Karpathy's "Building makemore, part 3", by layer and over the training."""

import io
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gptlab.diagnostics.activations import Snapshot

WIDTH, ROW_HEIGHT = 14, 3.4  # inches, at 100 dots per inch
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")  # Okabe & Ito 2008
MARKERS = "osD^vPX*"
LAYER_COLOURS = matplotlib.colormaps["viridis"]  # dark for the first layer
RULE_OF_THUMB = -3  # a healthy log10 of update:weight

Panel = Callable[[Axes, Sequence[Snapshot]], None]


def draw_runs(runs: Mapping[str, Sequence[Snapshot]], file_format: str) -> bytes:
    """Draw the snapshots of one run, or of two side by side with the same axes, as png, pdf or svg."""
    full = all("attention_entropy" in snapshots[-1] for snapshots in runs.values())
    panels = BASIC + (FULL if full else [])
    columns = 2 if len(runs) == 2 or not full else 3
    n_rows = len(panels) if len(runs) == 2 else -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH, ROW_HEIGHT * n_rows + 0.5), dpi=100, layout="constrained")
    grid = figure.subplots(n_rows, columns, squeeze=False, sharey="row" if len(runs) == 2 else "none")
    if len(runs) == 2:
        for column, (name, snapshots) in zip(grid.T, runs.items(), strict=True):
            for axes, panel in zip(column, panels, strict=True):
                panel(axes, snapshots)
            column[0].set_title(f"{fill(name, 70)}\n\n{column[0].get_title()}")
    else:
        [(name, snapshots)] = runs.items()
        for axes, panel in zip(grid.flat, panels, strict=False):
            panel(axes, snapshots)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        figure.suptitle(fill(name, 130))
    return _render(figure, file_format)


def draw_arms(snapshots: Mapping[str, Snapshot], file_format: str) -> bytes:
    """Draw the scale of stream and gradient by layer in models at initialisation, a line for each arm."""
    figure = Figure(figsize=(WIDTH, 5.2 + 0.22 * -(-len(snapshots) // 4)), dpi=100, layout="constrained")
    stream, gradient, relative = figure.subplots(1, 3)
    for i, (name, snapshot) in enumerate(snapshots.items()):
        style: dict[str, Any] = {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i // len(COLOURS) % len(MARKERS)],
        }
        grads = np.array(snapshot["probe/residual_grad_norm"])
        stream.plot(snapshot["stream_rms"], label=fill(name, 60), markersize=5, **style)
        gradient.plot(_blocks(grads), grads, markersize=5, **style)
        relative.plot(_blocks(grads), grads / grads[0] if grads[0] else grads * math.nan, markersize=5, **style)
    relative.axhline(1, color="black", linewidth=0.8)
    figure.legend(loc="outside lower center", ncols=min(4, len(snapshots)), frameon=False)
    _finish_axes(stream, "Activations at initialisation", "root mean square of the stream", log=True)
    _finish_axes(gradient, "Gradient at initialisation", "norm, of the matrices that write into the stream", log=True)
    _finish_axes(relative, "The same, the first block's = 1", "above the line: grows toward the output", log=True)
    return _render(figure, file_format)


def _activations(axes: Axes, snapshots: Sequence[Snapshot]) -> None:
    _first_and_last(
        axes, snapshots, {"stream_rms": "stream", "attention_rms": "attention's output", "ffn_rms": "FFN's output"}
    )
    _finish_axes(axes, "Forward activations", "root mean square", log=True)


def _gradients(axes: Axes, snapshots: Sequence[Snapshot]) -> None:
    names = {"grad_norm": "all of the block", "residual_grad_norm": "matrices that write into the stream"}
    _first_and_last(axes, snapshots, names)
    _finish_axes(axes, "Gradients", "norm of the parameters' gradient", log=True)


def _gradient_to_weight(axes: Axes, snapshots: Sequence[Snapshot]) -> None:
    """Draw gradient:weight of each kind of matrix in the last snapshot."""
    kinds: dict[str, dict[int, float]] = defaultdict(dict)
    for name, (weight, grad, _) in snapshots[-1]["parameters"].items():
        parts = name.split(".")
        if parts[0] == "blocks" and parts[-1] == "weight" and weight and grad:
            kinds[".".join(parts[2:-1])][int(parts[1]) + 1] = math.log10(grad / weight)
    for i, (kind, ratios) in enumerate(kinds.items()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        axes.plot(list(ratios), list(ratios.values()), label=kind, color=colour, marker=marker, markersize=5)
    _finish_axes(axes, f"Gradient:weight, step {snapshots[-1]['step']:,}", "log10 of the norms' ratio")


def _update_to_weight(axes: Axes, snapshots: Sequence[Snapshot]) -> None:
    ratios = np.array([snapshot["update_ratio"] for snapshot in snapshots], dtype=float)  # snapshots x layers
    tokens = [snapshot["tokens"] for snapshot in snapshots]
    for layer, ratio in enumerate(ratios.T):
        axes.plot(tokens, ratio, color=_layer_colour(layer, ratios.shape[1]), marker="." if len(snapshots) < 40 else "")
    axes.axhline(RULE_OF_THUMB, color="black", linestyle="--", linewidth=1, label="rule of thumb")
    _finish_axes(axes, "Update:weight, a line for each layer", "log10 of the norms' ratio", x="training tokens")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g}M" if value >= 1e6 else f"{value:,.0f}")
    _layer_colour_bar(axes, ratios.shape[1])


def _attention_entropy(axes: Axes, snapshots: Sequence[Snapshot]) -> None:
    for layer, heads in enumerate(snapshots[-1]["attention_entropy"], start=1):
        axes.plot([layer] * len(heads), heads, "o", color=COLOURS[0], alpha=0.45, markersize=5)
    for snapshot, line in ((snapshots[0], "--"), (snapshots[-1], "-")):
        means = [float(np.mean(heads)) if heads else math.nan for heads in snapshot["attention_entropy"]]
        axes.plot(_blocks(means), means, line, color=COLOURS[0], label=f"mean, step {snapshot['step']:,}")
    _finish_axes(axes, "Attention entropy; points: heads", "nats, mean over queries")


def _density(quantity: str, title: str) -> Panel:
    """Return a panel that draws a histogram of the last snapshot, a line for each layer."""

    def panel(axes: Axes, snapshots: Sequence[Snapshot]) -> None:
        histograms = snapshots[-1][f"histogram/{quantity}"]
        for layer, h in enumerate(histograms):
            edges = np.linspace(-1, 1, len(h["counts"]) + 1)
            density = np.array(h["counts"]) / max(1, sum(h["counts"])) / (edges[1] - edges[0])
            axes.plot(
                (edges[1:] + edges[:-1]) / 2 * 4,
                density / 4,
                color=_layer_colour(layer, len(histograms)),
                linewidth=1.2,
            )
        _finish_axes(
            axes, f"{title}, step {snapshots[-1]['step']:,}", "density", x="value / its layer's root mean square"
        )
        _layer_colour_bar(axes, len(histograms))

    return panel


def _idle_units(axes: Axes, snapshots: Sequence[Snapshot]) -> None:
    names = {
        "ffn_silent": "FFN: silent for a token",
        "ffn_dead": "FFN: silent for all",
        "tanh_saturated": "tanh > 0.97",
    }
    _first_and_last(axes, snapshots, names)
    _finish_axes(axes, "Silent, dead and saturated units", "share")
    axes.set_ylim(-0.03, 1.03)


def _effective_rank(axes: Axes, snapshots: Sequence[Snapshot]) -> None:
    _first_and_last(axes, snapshots, {"stream_effective_rank": "stream"})
    _finish_axes(axes, "Effective rank of the stream", "directions", log=True)


BASIC: list[Panel] = [_activations, _gradients, _gradient_to_weight, _update_to_weight]
FULL: list[Panel] = [
    _attention_entropy,
    _density("stream", "Activations"),
    _density("stream_grad", "Gradients of the stream"),
    _idle_units,
    _effective_rank,
]


def _first_and_last(axes: Axes, snapshots: Sequence[Snapshot], names: Mapping[str, str]) -> None:
    """Draw quantities by layer, dashed for the first snapshot and solid for the last; the stream starts at block 0."""
    for i, (key, label) in enumerate(names.items()):
        for snapshot, line in ((snapshots[0], "--"), (snapshots[-1], "-")):
            values = np.array(snapshot[key], dtype=float)
            x = range(len(values)) if key.startswith("stream") else _blocks(values)
            shown = label if line == "-" else None  # one entry in the legend
            if not np.isnan(values).all():
                axes.plot(x, values, line, color=COLOURS[i], marker=MARKERS[i], markersize=5, label=shown)
    axes.plot([], [], "--", color="grey", label=f"step {snapshots[0]['step']:,}")
    axes.plot([], [], "-", color="grey", label=f"step {snapshots[-1]['step']:,}")


def _blocks(values: Sequence[float] | np.ndarray) -> range:
    return range(1, len(values) + 1)


def _layer_colour(layer: int, n_layer: int) -> Any:
    return LAYER_COLOURS(0.92 * layer / max(1, n_layer - 1))


def _layer_colour_bar(axes: Axes, n_layer: int) -> None:
    colours = matplotlib.colors.ListedColormap([_layer_colour(layer, n_layer) for layer in range(n_layer)])
    bar = axes.figure.colorbar(ScalarMappable(Normalize(0.5, n_layer + 0.5), colours), ax=axes, pad=0.01, aspect=30)
    bar.set_ticks([1, n_layer] if n_layer > 1 else [1], minor=False)
    bar.set_label("block", labelpad=-8)
    bar.outline.set_visible(False)


def _finish_axes(axes: Axes, title: str, y: str, *, x: str = "block", log: bool = False) -> None:
    axes.set_title(title, fontsize="medium", loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if log:
        axes.set_yscale("log")
        _number_ticks(axes)
    if x == "block":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0] and not axes.figure.legends:
        axes.legend(framealpha=0.7, edgecolor="none", fontsize="small")  # transparent, since it may cover lines


def _number_ticks(axes: Axes) -> None:
    """Label ticks with plain numbers, with as many labels between the decades as fit."""
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    digits = "123468" if decades < 1 else "125" if decades < 2.5 else "1"

    def text(value: float, _: object) -> str:
        return f"{value:g}" if f"{value:e}"[0] in digits else ""

    axes.yaxis.set_major_formatter(text)
    axes.yaxis.set_minor_formatter(text)


def _render(figure: Figure, file_format: str) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format=file_format)
    return picture.getvalue()
