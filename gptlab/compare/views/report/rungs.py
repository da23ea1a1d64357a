"""The page of an experiment with rungs: gates, worth in compute, losses, and links to the report of each rung."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptlab.compare.analysis.over_rungs import RungsComparison
from gptlab.compare.analysis.verdict import DEFINITIONS
from gptlab.compare.formatting import number
from gptlab.compare.views.charts.rungs import rungs_charts
from gptlab.compare.views.columns import TEXT_TITLES, Cells
from gptlab.compare.views.labels import short_names_over
from gptlab.compare.views.published_tables import published_over_rungs, published_rungs_lines
from gptlab.compare.views.report import page
from gptlab.compare.views.rungs_tables import (
    gate_cells,
    outcomes_at_rungs,
    profile_cells,
    rung_cells,
    rungs_lines,
    worth_cells,
)
from gptlab.runs.metrics import metric_named


@dataclass(frozen=True)
class Table:
    """A table of text."""

    header: str
    names: Sequence[str]  # of the rows
    columns: Cells
    arms: bool = True  # whether a row is an arm
    title: str = ""


def render_rungs_report(comparison: RungsComparison, pages: Mapping[str, str]) -> str:
    """Return the page. `pages` are the addresses of the rungs' own reports, relative to it."""
    arms = [arm.name for arm in comparison.arms]
    names = [comparison.baseline, *arms]
    worth, gates = worth_cells(comparison), gate_cells(comparison)
    return page(
        "rungs.html.j2",
        rungs_charts(comparison),
        comparison=comparison,
        pages=pages,
        arm_names=names,
        places={name: place for place, name in enumerate(names)},
        short=short_names_over(comparison),
        better=metric_named(comparison.metric).better,
        n_runs=sum(len(rung.comparison.runs) for rung in comparison.rungs),
        definitions=DEFINITIONS,
        text_titles=TEXT_TITLES,
        gates=Table("arm", arms, gates) if gates else None,
        worth=Table("arm", arms, worth) if worth else None,
        rungs=Table("rung", [rung.name for rung in comparison.rungs], rung_cells(comparison), arms=False),
        profiles=[
            Table("arm", list(comparison.profiles[flops]), cells, title=f"At {flops:.3g} FLOPs")
            for flops, cells in profile_cells(comparison).items()
        ],
        fitted=bool(comparison.power_law and not comparison.power_law.reason),
        residuals=_residuals(comparison),
        published=_published(comparison),
        lines=[*outcomes_at_rungs(comparison), *rungs_lines(comparison)],
    )


def _published(comparison: RungsComparison) -> dict[str, Any]:
    """Return the table of what was published and found at each rung, as the part of the page about it takes it."""
    arms, cells = published_over_rungs(comparison)
    return {"arms": arms, "cells": cells, "lines": list(published_rungs_lines(comparison))}


def _residuals(comparison: RungsComparison) -> Table | None:
    """Return the mean losses minus the power law with one exponent, by arm and rung."""
    law = comparison.power_law
    if law is None or law.reason:
        return None
    columns = {rung.name: [number(x, "+") for x in law.residuals[rung.flops]] for rung in comparison.rungs}
    return Table("arm", list(law.residuals.index), columns)
