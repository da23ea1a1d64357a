"""The start of the curves, which the usual picture cuts off. `make results` adds it to RESULTS.md."""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from gptlab.compare import build_comparison
from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.views.charts.picture import draw
from gptlab.compare.views.markdown import render_markdown

HERE = Path(__file__).parent
LOW = 3.0  # nats per token; all arms reach it


def main() -> dict[str, bytes]:
    """Return the files made from the kept runs, by name."""
    comparison = build_comparison([HERE / "kept.json"])
    text = render_markdown(comparison, "results.png") + _text(comparison)
    return {
        "RESULTS.md": text.encode(),
        "results.png": draw(comparison, "png"),
        "hockey_stick.png": _picture(comparison),
    }


def _curve(comparison: Comparison, result: Result) -> pd.Series:
    """Return the mean loss over the seeds by step: at 0 on the first batch before its update, later val/loss."""
    first = np.mean([run.number("train/loss_initial") for run in result.arm.runs])
    after = comparison.curves[result.name].groupby("step")["val/loss"].mean()
    return pd.concat([pd.Series({0: first}), after])


def _steps_to(loss: float, curve: pd.Series) -> str:
    """Return the step of the first evaluation below `loss`."""
    return f"{curve.index[curve < loss][0]:.0f}" if (curve < loss).any() else "never"


def _text(comparison: Comparison) -> str:
    uniform = comparison.results[0].arm.runs[0].number("ln_vocab")
    rows = "\n".join(
        f"| {r.name} | {c[0]:.2f} | {_steps_to(uniform, c[1:])} | {_steps_to(LOW, c)} | {c.iloc[-1]:.4f} |"
        for r in comparison.results
        for c in [_curve(comparison, r)]
    )
    return f"""
## The hockey stick

Means over the seeds, evaluated every 10 steps. The loss of a uniform guess, ln V, is {uniform:.2f}.

| arm | loss at the start | steps to below ln V | steps to below {LOW:g} | loss at the end |
| --- | ---: | ---: | ---: | ---: |
{rows}

![The whole curves](hockey_stick.png)
"""


def _picture(comparison: Comparison) -> bytes:
    figure, axes = plt.subplots(figsize=(7, 4), dpi=100, layout="constrained")
    for result in comparison.results:
        axes.plot(_curve(comparison, result), "o-", markersize=3, label=result.name)
    axes.axhline(comparison.results[0].arm.runs[0].number("ln_vocab"), color="grey", linewidth=1, linestyle="--")
    axes.set(title="the loss from the first step on; dashed: ln V", xlabel="steps", ylabel="loss (nats per token)")
    axes.set_yscale("log")
    axes.set_yticks([2.5, 3, 4, 5, 7, 10, 15, 20], ["2.5", "3", "4", "5", "7", "10", "15", "20"])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    plt.close(figure)
    return out.getvalue()
