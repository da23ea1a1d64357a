"""What a running sweep shows: bars for it and for its running cells on a terminal, a line per ended cell anyway."""

import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from gptlab.runs.record import read_summary

SECONDS_BETWEEN_LOOKS = 0.5
SHARE_OF_TIME = 0.02  # that looking may take, where a look takes long
ENDS = ("finished", "diverged", "failed")


class Shown(Protocol):
    label: str
    folder: Path
    plan: Any
    failure: str

    @property
    def state(self) -> str: ...


class SweepDisplay:
    """Looks at the cells' folders from a thread of its own, since a launcher tells nothing before all have ended."""

    def __init__(self, console: Console, cells: Sequence[Shown]):
        self.console, self.cells = console, cells
        self.left = {c.folder: c for c in cells if c.state not in ENDS}
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.total = self.bars.add_task("sweep", total=len(cells), completed=self.n_ended)
        self.running: dict[Path, TaskID] = {}
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.told_waiting = False

    @property
    def n_ended(self) -> int:
        return len(self.cells) - len(self.left)

    def __enter__(self) -> Self:
        if self.n_ended:
            self._line(f"{self.n_ended} of {len(self.cells)} cells have ended already")
        self.bars.start()
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        self.thread.join()
        self.bars.stop()

    def waiting_for_others(self, n: int) -> None:
        if not self.told_waiting:
            self._line(f"waiting for {n} cells that another process is running")
            self.told_waiting = True

    def _watch(self) -> None:
        pause = SECONDS_BETWEEN_LOOKS
        while not self.stop.wait(pause):
            started = time.perf_counter()
            self._look()
            pause = max(SECONDS_BETWEEN_LOOKS, (time.perf_counter() - started) / SHARE_OF_TIME)
        self._look()

    def _look(self) -> None:
        """At the cells that have begun, which are few of those that have not ended."""
        done = float(self.n_ended)
        there = {top: names_in(top) for top in {folder.parent for folder in self.left}}
        for folder, cell in list(self.left.items()):
            if folder.name not in there[folder.parent] and not cell.failure:
                continue
            state = cell.state
            if state in ENDS:
                del self.left[folder]
                self._end(cell, state)
                done += 1
            elif state == "running":
                done += self._advance(cell)
        self.bars.update(self.total, completed=done, description=f"sweep {self.n_ended}/{len(self.cells)}")

    def _advance(self, cell: Shown) -> float:
        """Update a running cell's bar; returns the share of it that is done."""
        metrics = last_metrics(cell.folder / "metrics.jsonl")
        share = min(1.0, cell.plan.progress(metrics.get("step", 0), metrics.get("seconds", 0.0)))
        if cell.folder not in self.running:
            self.running[cell.folder] = self.bars.add_task("", total=1.0)
        loss = next((f"  {k} {metrics[k]:.3f}" for k in ("val/loss", "train/loss") if k in metrics), "")
        self.bars.update(self.running[cell.folder], completed=share, description=f"  {cell.label[:60]}{loss}")
        return share

    def _end(self, cell: Shown, state: str) -> None:
        if cell.folder in self.running:
            self.bars.remove_task(self.running.pop(cell.folder))
        summary = read_summary(cell.folder)
        loss = f"  val/loss {summary['val/loss']:.4f}" if summary.get("val/loss") is not None else ""
        self._line(f"[{self.n_ended}/{len(self.cells)}] {state}{loss}  {cell.label}")

    def _line(self, text: str) -> None:
        self.bars.console.print(text, markup=False, highlight=False, soft_wrap=True)


def names_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:  # not there yet
        return set()


def last_metrics(path: Path) -> dict[str, Any]:
    """The last whole line, read from the end of the file."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 4096))
            lines = file.read().split(b"\n")[:-1]
        return json.loads(lines[-1])
    except (OSError, IndexError, ValueError):
        return {}
