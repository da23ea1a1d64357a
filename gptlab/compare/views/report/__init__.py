"""A comparison -> one HTML file that opens from disk and asks the network for nothing."""

import json
from collections import Counter
from functools import cache
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gptlab.compare.analysis.comparison import AXES, Comparison, Result
from gptlab.compare.analysis.verdict import DEFINITIONS, higher_is_better
from gptlab.compare.views.captions import margin_of
from gptlab.compare.views.charts import formatting as words
from gptlab.compare.views.charts.activations import inside
from gptlab.compare.views.charts.chart import Chart
from gptlab.compare.views.charts.curves import FIRST_SHOWN, curves, has_bands
from gptlab.compare.views.charts.forest import effects, factorial_effects
from gptlab.compare.views.charts.means import heat_maps
from gptlab.compare.views.charts.sensitivity import sensitivity
from gptlab.compare.views.charts.speed import speed
from gptlab.compare.views.charts.theme import THEMES, style

FEW_RUNS = 12  # are listed unfolded
COSTS = {
    "parameters_non_embedding": "parameters without embeddings",
    "flops_per_token": "FLOPs per token",
    "state_bytes": "bytes of weights, gradients and optimizer",
    "tokens_per_s": "tokens per second",
}

__all__ = ["render_report"]


def render_report(comparison: Comparison) -> str:
    """The page: verdicts and figures, what the arms are, where their runs lie and how to make them again."""
    figures = _figures(comparison)
    payload = {"themes": THEMES, "figures": {name: chart.specification() for name, chart in figures.items()}}
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            comparison=comparison,
            figures=figures,
            payload=Markup(json.dumps(payload, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")),
            vega=Markup(_vega()),
            themes=THEMES,
            axes=AXES,
            definitions=DEFINITIONS,
            higher=higher_is_better(comparison.metric),
            costs=COSTS,
            verdicts=_verdicts(comparison),
            settled=f"{100 * (1 - FIRST_SHOWN['late']):.0f} %",
            margin=margin_of(comparison),
            disagreeing=_disagreeing(comparison),
            edges=[_edges(tuning.points) for tuning in comparison.tuning],
            runs=comparison.runs.to_dict("records"),
            few=len(comparison.runs) <= FEW_RUNS,
            bands=has_bands(comparison),
        )
    )


@cache
def _environment() -> Environment:
    loader = PackageLoader("gptlab.compare.views.report", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        name: getattr(words, name)
        for name in ("number", "signed", "p_value", "seeds", "si", "percent", "listing", "sign_of", "metric_label")
    }
    environment.filters |= {"budget": _budget, "changes": _changes}
    environment.globals |= {"style": style}
    return environment


def _figures(comparison: Comparison) -> dict[str, Chart]:
    """By the id of the element that each is drawn in; without those that there is nothing for."""
    drawn = {"forest": effects(comparison), "curves": curves(comparison), "speed": speed(comparison)}
    drawn |= inside(comparison)
    drawn |= {f"tuning-{i}": sensitivity(tuning, comparison) for i, tuning in enumerate(comparison.tuning)}
    if comparison.factorial is not None:
        drawn["factorial"] = factorial_effects(comparison.factorial, comparison)
        drawn |= {f"means-{i}": figure for i, figure in enumerate(heat_maps(comparison.factorial, comparison))}
    return {name: figure for name, figure in drawn.items() if figure is not None}


@cache
def _vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script that needs no network."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def _verdicts(comparison: Comparison) -> dict[str, int]:
    """How often each came up, in the order of their definitions."""
    counts = Counter(result.effect.verdict for result in comparison.results if result.effect)
    return {word: counts[word] for word in dict.fromkeys((*DEFINITIONS, *counts)) if counts[word]}


def _disagreeing(comparison: Comparison) -> list[str]:
    """The arms whose verdict depends on what is held equal, by the readings that are reliable."""
    said: dict[str, set[str]] = {}
    for reading in comparison.readings:
        for name, effect in reading.effects.items() if reading.reliable else ():
            said.setdefault(name, set()).add(effect.verdict)
    return [result.name for result in comparison.results if len(said.get(result.name, ())) > 1]


def _edges(points: pd.DataFrame) -> list[tuple[str, Any]]:
    """Arms whose chosen value has no neighbour on one side, and the value."""
    edge = points[points["chosen"].astype(bool) & points["at_edge"].astype(bool)]
    return list(zip(edge["arm"], edge["value"], strict=True))


def _changes(result: Result, baseline: Result) -> list[tuple[str, str, str]]:
    """Settings in which an arm differs: name, the baseline's value, its own."""
    usual, own = baseline.arm.settings, result.arm.settings
    return [(key, usual.get(key, ""), value) for key, value in own.items() if usual.get(key) != value]


def _budget(value: float, axis: str) -> str:
    return f"{value:.3g} s" if axis == "seconds" else f"{words.si(value)} {axis.replace('flops', 'FLOPs')}"
