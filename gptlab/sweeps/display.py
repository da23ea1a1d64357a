"""The display of a running `gptlab sweep`."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live

from gptlab.runs.record import read_summary
from gptlab.runs.states import SETTLED, RunState
from gptlab.sweeps.cell import Cell
from gptlab.sweeps.manifest import CellEntry
from gptlab.sweeps.status import CellStatus, progress_line, read_statuses, render

SECONDS_BETWEEN_READS = 0.5
SHARE_OF_TIME = 0.02  # the most that a sweep spends on reading the states of its cells
SECONDS_BETWEEN_LINES = 60.0  # of a sweep without a terminal


class SweepDisplay:
    """The display of a running sweep: the table of `gptlab status` on a terminal, and a line for each cell that ends.

    Without a terminal it prints a line about the running cells after each minute in which none has ended.
    It reads the cells' folders in a thread of its own, because a launcher returns only when all its cells have ended.
    """

    def __init__(self, console: Console, folder: Path, cells: Sequence[Cell]):
        self.console, self.folder, self.cells = console, folder, cells
        self.entries = [CellEntry.of(cell) for cell in cells]
        self.statuses = read_statuses(folder, self.entries)
        self.ended = {status.folder for status in self.statuses if status.state in SETTLED}
        self.live: Live | None = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.announced_waiting = False
        self.last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self.ended:
            self._line(f"{len(self.ended)} of {len(self.cells)} cells have ended already")
        if self.console.is_terminal:
            self.live = Live(self._render(), console=self.console, transient=True, redirect_stderr=False)
            self.live.start()
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        self.thread.join()
        if self.live:
            self.live.stop()

    def waiting_for_others(self, n: int) -> None:
        """Say once that the cells left are being run by another process."""
        if not self.announced_waiting:
            self._line(f"waiting for {n} cell{'s' * (n != 1)} that another process is running")
            self.announced_waiting = True

    def _watch(self) -> None:
        pause = SECONDS_BETWEEN_READS
        while not self.stop.wait(pause):
            started = time.perf_counter()
            self._update()
            pause = max(SECONDS_BETWEEN_READS, (time.perf_counter() - started) / SHARE_OF_TIME)
        self._update()

    def _update(self) -> None:
        self.statuses = read_statuses(self.folder, self.entries, self.statuses)
        for i, cell in enumerate(self.cells):
            if cell.failure:
                self.statuses[i] = replace(self.statuses[i], state=RunState.FAILED, reason=cell.failure)
        for status in self.statuses:
            if status.state in SETTLED and status.folder not in self.ended:
                self.ended.add(status.folder)
                self._line(f"[{len(self.ended)}/{len(self.cells)}] {status.state}{_final_loss(status)}  {status.label}")
        if self.live:
            self.live.update(self._render())
        elif time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES and not self.stop.is_set():
            self._line(progress_line(self.statuses))

    def _render(self) -> Group:
        return render(self.folder, self.statuses, can_continue=False)

    def _line(self, text: str) -> None:
        self.last_line = time.monotonic()
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _final_loss(status: CellStatus) -> str:
    loss = read_summary(status.folder).get("val/loss") if status.folder else None
    return "" if loss is None else f"  val/loss {loss:.4f}"
