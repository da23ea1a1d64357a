"""The state of an experiment with rungs: that of the sweep at each rung."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from gptlab.compare.read.rungs_file import RungsFile, has_rungs, read_rungs_file
from gptlab.runs.states import SETTLED, RunState
from gptlab.sweeps.manifest import NAME
from gptlab.sweeps.status import SECONDS_BETWEEN_READS, show_status, status_document, status_view, statuses_in


def document(folder: Path) -> dict[str, Any]:
    """Return the state of a sweep, or of an experiment with rungs, as plain data, which `gptlab status --json` prints.

    Fields of an experiment with rungs:
        folder, question, command: as for a sweep; see gptlab.sweeps.status.status_document.
        n_cells (int), counts (dict[str, int]): over the rungs that have begun.
        rungs (list): for each rung, in order
            name (str)
            arms (list | None): the names of the arms that run there; None if an earlier rung has yet to decide.
            status (dict | None): the fields of its sweep; None before it begins.

    Raises:
        ConfigError: the folder is not one of a sweep.
    """
    if not has_rungs(folder):
        return status_document(folder)
    file = read_rungs_file(folder)
    begun = {name: status_document(folder / name) for name in _begun(folder)}
    counts: Counter[str] = Counter()
    for status in begun.values():
        counts.update(status["counts"])
    return {
        "folder": str(folder),
        "question": file.question,
        "command": file.command,
        "n_cells": sum(status["n_cells"] for status in begun.values()),
        "counts": dict(counts),
        "rungs": [
            {"name": rung.name, "arms": rung.arms and list(rung.arms), "status": begun.get(rung.name)}
            for rung in file.rungs
        ],
    }


def show(folder: Path, console: Console, *, watch: bool = False) -> None:
    """Print the state of a sweep or of each rung of an experiment; with `watch`, refresh it until all cells ended."""
    if not has_rungs(folder):
        show_status(folder, console, watch=watch)
        return
    if not watch:
        console.print(_view(folder))
        return
    with Live(_view(folder), console=console, refresh_per_second=4) as live:
        while _waiting(folder):
            time.sleep(SECONDS_BETWEEN_READS)
            live.update(_view(folder))


def _begun(folder: Path) -> list[str]:
    return [rung.name for rung in read_rungs_file(folder).rungs if (folder / rung.name / NAME).is_file()]


def _waiting(folder: Path) -> bool:
    """Return whether a cell has yet to end, or a rung that will run has yet to begin."""
    file, begun = read_rungs_file(folder), _begun(folder)
    for rung in file.rungs:
        if file.promote and rung.arms and len(rung.arms) < 2:
            return False  # no arm goes on to it
        if rung.name not in begun:
            return True
        states = {status.state for status in statuses_in(folder / rung.name)}
        if not states <= set(SETTLED):
            return True
        if RunState.FAILED in states and (file.promote or file.tune_at == "first"):
            return False  # the next rung depends on the cells that failed
    return False


def _view(folder: Path) -> Group:
    file, begun = read_rungs_file(folder), _begun(folder)
    parts: list[RenderableType] = []
    for rung in file.rungs:
        if rung.name in begun:
            parts.append(status_view(folder / rung.name))
        else:
            parts.append(Text(f"{folder / rung.name}: not begun{_arms(file, rung.arms)}"))
    return Group(*parts)


def _arms(file: RungsFile, arms: Sequence[str] | None) -> str:
    if arms is None:
        return "; its arms depend on the rung before"
    return "; no arm goes on to it" if file.promote and len(arms) < 2 else f"; arms: {', '.join(arms)}"
