"""The state of a sweep, from any terminal: `gptlab status`."""

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gptlab.config import ConfigError
from gptlab.files import finite
from gptlab.runs.lock import state_of
from gptlab.runs.record import read_status, read_summary
from gptlab.runs.states import OUTCOMES, SETTLED, RunState
from gptlab.sweeps.look import ArmLook, looks_table
from gptlab.sweeps.manifest import NAME, CellEntry, read_manifest

ORDER = (*SETTLED, RunState.RUNNING, RunState.INTERRUPTED, RunState.WAITING)  # the order of the counts
UNDECIDED = (RunState.RUNNING, RunState.INTERRUPTED, RunState.WAITING)
SECONDS_BETWEEN_READS = 2.0
MEASURABLE_SHARE = 0.02  # a cell that has spent less of its budget says nothing about its pace
RUNNING_IN_LINE = 4  # cells that such a line names
LOG_TAIL_BYTES = 4096


@dataclass(frozen=True)
class CellStatus:
    """The current state of a cell."""

    label: str
    folder: Path | None  # None before the tuning has chosen the values that name it
    phase: str | None
    state: RunState
    share: float = 0.0  # the share of the budget that is spent; 0 once there is an outcome
    elapsed: float = 0.0  # seconds of wall-clock since it started, or that it took
    metrics: dict[str, Any] = field(default_factory=dict)  # the last logged; empty once there is an outcome
    reason: str = ""  # why it failed


def status_document(folder: Path) -> dict[str, Any]:
    """Return the state of a sweep as plain data, which `gptlab status --json` prints.

    Fields:
        folder (str): the folder of the sweep, as given.
        question (str | None): the question of its experiment file.
        command (str | None): the command that started it.
        n_cells (int): the number of its cells, those of the tuning included.
        counts (dict[str, int]): the number of cells in each state: finished, diverged, failed, running, interrupted
            (its process is gone; the same command continues it), waiting. Every state is there.
        seconds_left (float | None): an estimate at the pace so far; None if nothing is running or measured yet.
        cells (list): for each cell
            label (str): a short name.
            folder (str | None): its run folder; None until the tuning has chosen its values.
            phase (str | None): "tune" for a cell of the tuning, "neighbour" for one beside the values that it chose.
            state (str): one of the states above.
            share (float): the share of its budget that is spent, from 0 to 1.
            elapsed_seconds (float): wall-clock since it started, or that it took.
            metrics (dict): the summary of a cell with an outcome, else the last line that it logged, with `step`,
                `tokens` and whatever was measured then; null stands for a number that is not finite.
            reason (str | None): why it failed.
        looks (list | None): of a sequential sweep, for each arm at the last look {arm, reference, seeds, word, state,
            chance}: `state` is open, settled or given up; `chance` is that of an open arm to be settled at the end.

    Raises:
        ConfigError: the folder is not one of a sweep.
    """
    manifest = _manifest(folder)
    statuses = read_statuses(folder, manifest["cells"])
    counts = Counter(status.state for status in statuses)
    return {
        "folder": str(folder),
        "question": manifest.get("question"),
        "command": manifest.get("command"),
        "n_cells": len(statuses),
        "counts": {str(state): counts[state] for state in ORDER},
        "seconds_left": seconds_left(statuses),
        "cells": [_cell_document(status) for status in statuses],
        "looks": manifest.get("looks"),
    }


def _cell_document(status: CellStatus) -> dict[str, Any]:
    decided = status.folder is not None and status.state in OUTCOMES
    return {
        "label": status.label,
        "folder": str(status.folder) if status.folder else None,
        "phase": status.phase,
        "state": str(status.state),
        "share": 1.0 if decided else status.share,
        "elapsed_seconds": status.elapsed,
        "metrics": finite(read_summary(status.folder) if decided and status.folder else status.metrics),
        "reason": status.reason or None,
    }


def show_status(folder: Path, console: Console, *, watch: bool = False) -> None:
    """Print the state of a sweep; with `watch`, refresh it until every cell has ended."""
    statuses = statuses_in(folder)
    if not watch:
        console.print(status_view(folder, statuses))
        return
    with Live(status_view(folder, statuses), console=console, refresh_per_second=4) as live:
        while any(status.state not in SETTLED for status in statuses):
            time.sleep(SECONDS_BETWEEN_READS)
            statuses = statuses_in(folder, statuses)
            live.update(status_view(folder, statuses))


def status_view(folder: Path, statuses: Sequence[CellStatus] | None = None) -> Group:
    """Return what `render` does, and the arms of a sequential sweep at the last look."""
    statuses = statuses_in(folder) if statuses is None else statuses
    looks = [ArmLook(**look) for look in _manifest(folder).get("looks") or []]
    return Group(render(folder, statuses), *([looks_table(looks)] if looks else []))


def statuses_in(folder: Path, before: Sequence[CellStatus] = ()) -> list[CellStatus]:
    """Return the state of every cell that sweep.yaml lists; see read_statuses for `before`."""
    return read_statuses(folder, _manifest(folder)["cells"], before)


def _manifest(folder: Path) -> dict[str, Any]:
    if manifest := read_manifest(folder):
        return manifest
    raise ConfigError(f"status {folder}: not a sweep's folder; there is no {NAME} in it")


def read_statuses(folder: Path, entries: Sequence[CellEntry], before: Sequence[CellStatus] = ()) -> list[CellStatus]:
    """Return the state of every cell; cells that had an outcome `before` or have no folder yet are not read."""
    known = {status.folder: status for status in before if status.state in OUTCOMES}
    try:
        begun = set(os.listdir(folder))
    except OSError:  # nothing is written yet
        begun = set()
    statuses = []
    for entry in entries:
        if entry.folder is None or entry.folder not in begun:
            path = None if entry.folder is None else folder / entry.folder
            statuses.append(CellStatus(entry.label, path, entry.phase, RunState.WAITING))
        else:
            statuses.append(known.get(folder / entry.folder) or _read_status_of(entry, folder / entry.folder))
    return statuses


def _read_status_of(entry: CellEntry, folder: Path) -> CellStatus:
    record = read_status(folder)
    state = RunState(state_of(folder, record))
    metrics = {} if state in OUTCOMES else _last_metrics(folder / "metrics.jsonl")
    spent = metrics.get("step" if entry.steps else "seconds", 0.0)
    budget = entry.steps or entry.seconds
    started, updated = (_parse_time(record.get(key)) for key in ("started", "updated"))
    end = datetime.now(UTC) if state == RunState.RUNNING else updated
    return CellStatus(
        label=entry.label,
        folder=folder,
        phase=entry.phase,
        state=state,
        share=min(1.0, spent / budget) if budget else 0.0,
        elapsed=(end - started).total_seconds() if started and end else 0.0,
        metrics=metrics,
        reason=_failure_reason(record, folder / "log.txt") if state == RunState.FAILED else "",
    )


def _parse_time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _last_metrics(path: Path) -> dict[str, Any]:
    """Return the last whole line of metrics.jsonl, read from the end of the file."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
        metrics: dict[str, Any] = json.loads(lines[-1])
    except (OSError, IndexError, ValueError):
        return {}
    return metrics


def _failure_reason(record: dict[str, Any], log: Path) -> str:
    """Return the recorded reason, or the last line of the log."""
    if reason := record.get("reason"):
        return str(reason)
    lines = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").split("\n") if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no reason was recorded")


def seconds_left(statuses: Sequence[CellStatus]) -> float | None:
    """Return an estimate of the wall-clock left, at the pace so far; None if nothing is running or measured yet."""
    running = [status for status in statuses if status.state == RunState.RUNNING]
    took = [status.elapsed for status in statuses if status.state == RunState.FINISHED and status.elapsed > 0]
    paces = took or [pace for pace in map(_pace, running) if pace]
    if not running or not paces:
        return None
    usual = fmean(paces)
    left = [(1 - status.share) * (_pace(status) or usual) for status in statuses if status.state in UNDECIDED]
    return sum(left) / len(running)


def _pace(status: CellStatus) -> float | None:
    """Return the seconds that the whole cell takes at its pace so far; None if unknown."""
    if status.state != RunState.RUNNING or status.share <= MEASURABLE_SHARE:
        return None
    return status.elapsed / status.share


def render(folder: Path, statuses: Sequence[CellStatus], *, can_continue: bool = True) -> Group:
    """Return counts, the running cells and the failures; `can_continue` adds how to continue it if nothing runs."""
    counts = Counter(status.state for status in statuses)
    left = seconds_left(statuses)
    time_left = "" if left is None else f"; {_duration(left)} left"
    lines: list[Text | Table] = [
        Text(f"{folder}: {len(statuses)} cell{'s' * (len(statuses) != 1)}: {_counts(counts)}{time_left}")
    ]
    if counts[RunState.RUNNING]:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")  # a label is told from others by its end, which must not be cut
        for _ in range(3):
            table.add_column(no_wrap=True)
        for status in statuses:
            if status.state == RunState.RUNNING:
                table.add_row("running", Text(status.label), f"{status.share:.0%}", *_loss_and_speed(status.metrics))
        lines.append(table)
    for status in statuses:
        if status.state == RunState.FAILED:
            lines.append(Text(f"failed   {status.label}: {status.reason}", overflow="fold"))
    lines += [Text(f"diverged {status.label}") for status in statuses if status.state == RunState.DIVERGED]
    if can_continue and not counts[RunState.RUNNING] and counts[RunState.WAITING] + counts[RunState.INTERRUPTED]:
        lines.append(Text("nothing is running; the same `gptlab sweep` continues it"))
    return Group(*lines)


def progress_line(statuses: Sequence[CellStatus]) -> str:
    """Return one line for a log: counts, the running cells with their share, and the time left."""
    running = [status for status in statuses if status.state == RunState.RUNNING]
    shown = [f"{status.label} {status.share:.0%}" for status in running[:RUNNING_IN_LINE]]
    more = [f"{len(running) - len(shown)} more"] if len(running) > len(shown) else []
    left = seconds_left(statuses)
    parts = [_counts(Counter(status.state for status in statuses))]
    parts += [f"running: {', '.join(shown + more)}"] if running else []
    parts += [] if left is None else [f"{_duration(left)} left"]
    return f"{len(statuses)} cells: {'; '.join(parts)}"


def _counts(counts: Counter[RunState]) -> str:
    return ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])


def _loss_and_speed(metrics: dict[str, Any]) -> tuple[str, str]:
    loss = next((f"{key} {metrics[key]:.4f}" for key in ("val/loss", "train/loss") if key in metrics), "")
    speed = metrics.get("speed/tokens_per_s")
    return loss, f"{speed:,.0f} tokens/s" if speed else ""


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
