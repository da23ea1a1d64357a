"""A comparison as one HTML file, which opens from disk and loads nothing from the network."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.analysis.equal_budget import shifted
from gptlab.compare.analysis.verdict import DEFINITIONS
from gptlab.compare.columns import SHOWN_COLUMNS
from gptlab.compare.read.runs import AXES
from gptlab.compare.views.captions import difference_lines, multiplier_lines, standing_lines
from gptlab.compare.views.charts import formatting
from gptlab.compare.views.charts.all import comparison_charts
from gptlab.compare.views.charts.chart import Chart
from gptlab.compare.views.charts.curves import FIRST_SHOWN, has_bands
from gptlab.compare.views.charts.theme import THEMES, style
from gptlab.compare.views.columns import multiplied_arms, multiplier_cells
from gptlab.compare.views.labels import short_names
from gptlab.compare.views.published_tables import published_arms, published_cells, published_lines
from gptlab.runs.metrics import metric_named

MOST_OPEN_RUNS = 12  # a longer list of runs is folded
LONGEST_SETTING = 60  # letters; what differs is not written below an arm's name if it is longer
SAMPLE_LINES, SAMPLE_LETTERS = 6, 480  # of a sampled text that are shown before it is unfolded

__all__ = ["render_report"]


def render_report(comparison: Comparison) -> str:
    """Return the page: verdicts and figures, the arms, where their runs are and how to reproduce them."""
    return page(
        "page.html.j2",
        comparison_charts(comparison),
        comparison=comparison,
        short=short_names(comparison.results),
        places=comparison.places,
        factorial_rows=comparison.factorial.effects.to_dict("records") if comparison.factorial else [],
        longest_setting=LONGEST_SETTING,
        sample_lines=SAMPLE_LINES,
        sample_letters=SAMPLE_LETTERS,
        axes=AXES,
        definitions=DEFINITIONS,
        better=metric_named(comparison.metric).better,
        columns=SHOWN_COLUMNS,
        verdicts=_verdicts(comparison),
        settled=f"{100 * (1 - FIRST_SHOWN['late']):.0f} %",
        standing=list(standing_lines(comparison)),
        moved=_moved(comparison),
        coverage=" ".join(difference_lines(comparison)),
        multiplied=_multiplied(comparison),
        multiplier_notes=list(multiplier_lines(comparison)),
        edges=[_edges(tuning.points) for tuning in comparison.tuning],
        published=_published(comparison),
        runs=comparison.runs.to_dict("records"),
        few=len(comparison.runs) <= MOST_OPEN_RUNS,
        bands=has_bands(comparison),
    )


def page(template: str, figures: Mapping[str, Chart], **content: Any) -> str:
    """Return a page with its figures, styles and scripts in one file."""
    payload = {"themes": THEMES, "figures": {name: chart.specification() for name, chart in figures.items()}}
    text = json.dumps(payload, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    shared = {"figures": figures, "payload": Markup(text), "vega": Markup(_vega()), "themes": THEMES}
    return _environment().get_template(template).render(**shared, **content)


@cache
def _environment() -> Environment:
    loader = PackageLoader("gptlab.compare.views.report", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        name: getattr(formatting, name)
        for name in (
            "number",
            "signed",
            "p_value",
            "seed_range",
            "si",
            "percent",
            "listing",
            "sign_of",
            "metric_label",
            "typeset",
        )
    }
    environment.filters |= {"budget": _budget, "changes": _changes, "parted": _parted}
    environment.filters |= {"short_of": lambda name, short: short[name]}
    environment.globals |= {"style": style}
    return environment


@cache
def _vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script that needs no network."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def _verdicts(comparison: Comparison) -> dict[str, int]:
    """Count each verdict, in the order of the definitions."""
    counts = Counter(result.effect.verdict for result in comparison.results if result.effect)
    return {word: counts[word] for word in dict.fromkeys((*DEFINITIONS, *counts)) if counts[word]}


def _multiplied(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of the table of compute multipliers."""
    columns = multiplier_cells(comparison)
    rows = zip(*columns.values(), strict=True)
    return [
        {"name": result.name, "cells": dict(zip(columns, row, strict=True))}
        for result, row in zip(multiplied_arms(comparison), rows, strict=True)
    ]


def _published(comparison: Comparison) -> dict[str, Any]:
    """Return the table of what was published and found, as the part of the page about it takes it."""
    arms, cells = published_arms(comparison), published_cells(comparison)
    return {"arms": arms, "cells": cells, "lines": list(published_lines(comparison))}


def _moved(comparison: Comparison) -> list[str]:
    """Return the arms for which it is shown to matter what is held equal."""
    return list(
        dict.fromkeys(
            name for equal in comparison.equal_budgets for name, reading in equal.readings.items() if shifted(reading)
        )
    )


def _edges(points: pd.DataFrame) -> list[tuple[str, Any]]:
    """Return the arms whose chosen value is the lowest or highest tried, with that value."""
    edge = points[points["chosen"].astype(bool) & points["at_edge"].astype(bool)]
    return list(zip(edge["arm"], edge["value"], strict=True))


def _changes(result: Result, baseline: Result) -> list[tuple[str, str, str]]:
    """Return the settings in which an arm differs: name, the baseline's value, the arm's value."""
    usual = baseline.arm.settings
    changed = {} if result is baseline else result.arm.changed(baseline.arm)
    return [(key, usual.get(key, ""), value) for key, value in changed.items()]


def _parted(cell: str) -> Markup:
    """Return a cell of a table whose interval, `(0.9 to 1.1)` or `± 0.1`, may stand on a line of its own."""
    found = re.fullmatch(r"(.*?) ([(±].*)", cell)
    return Markup('{} <span class="range">{}</span>').format(*found.groups()) if found else Markup.escape(cell)


def _budget(value: float, axis: str) -> str:
    return f"{value:.3g} s" if axis == "seconds" else f"{formatting.si(value)} {AXES[axis].word}"
