"""The comparison over rungs in a terminal."""

import shlex

from rich.console import Console
from rich.text import Text

from gptlab.compare.analysis.over_rungs import RungsComparison
from gptlab.compare.views.published_tables import published_over_rungs, published_rungs_lines
from gptlab.compare.views.rungs_tables import (
    gate_cells,
    outcomes_at_rungs,
    profile_cells,
    rung_cells,
    rungs_lines,
    worth_cells,
)
from gptlab.compare.views.terminal import print_lines, print_table


def print_rungs(comparison: RungsComparison, folder: str, console: Console) -> None:
    """Print the rungs, the verdicts over them, the worth in compute, and how to read the tables.

    `folder` is that of the experiment, below which each rung can be compared in full.
    """
    if comparison.file.question:
        console.print(Text(comparison.file.question, "bold"), end="\n\n")
    print_table("rung", [Text(rung.name) for rung in comparison.rungs], rung_cells(comparison), console)
    arms = [Text(arm.name) for arm in comparison.arms]
    if gates := gate_cells(comparison):
        console.print()
        print_table("arm", arms, gates, console)
    if worth := worth_cells(comparison):
        console.print()
        print_table("worth in FLOPs", arms, worth, console)
    for flops, cells in profile_cells(comparison).items():
        console.print()
        print_table(f"at {flops:.3g} FLOPs", [Text(arm) for arm in comparison.profiles[flops]], cells, console)
    published, cells = published_over_rungs(comparison)
    if published:
        console.print()
        print_table("published for", list(map(Text, published)), cells, console)
        print_lines(published_rungs_lines(comparison), console)
    print_lines(outcomes_at_rungs(comparison), console)
    print_lines(rungs_lines(comparison), console, "dim")
    if folder:
        print_lines(
            [f"One rung in full: gptlab compare {shlex.quote(f'{folder}/{comparison.rungs[-1].name}')}"], console
        )
