"""The state of an experiment with rungs: that of the sweep at each rung."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from gptlab.compare.read.rungs_file import has_rungs, read_rungs_file
from gptlab.runs.states import SETTLED
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
            status (dict | None): the fields of its sweep; None if it has not begun.

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
    rungs, begun = read_rungs_file(folder).rungs, _begun(folder)
    if any(rung.name not in begun and len(rung.arms or ()) > 1 for rung in rungs):
        return True
    return any(status.state not in SETTLED for name in begun for status in statuses_in(folder / name))


def _view(folder: Path) -> Group:
    rungs, begun = read_rungs_file(folder).rungs, _begun(folder)
    parts: list[RenderableType] = []
    for rung in rungs:
        if rung.name in begun:
            parts.append(status_view(folder / rung.name))
        else:
            parts.append(Text(f"{folder / rung.name}: not begun{_arms(rung.arms)}"))
    return Group(*parts)


def _arms(arms: Sequence[str] | None) -> str:
    if arms is None:
        return "; its arms depend on the rung before"
    return f"; arms: {', '.join(arms)}" if len(arms) > 1 else "; no arm goes on to it"
