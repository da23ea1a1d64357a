"""The display of a running run: a progress bar on a terminal, plain lines in a pipe."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0
HEADLINE = ("val/loss", "val/bpb", "val/accuracy", "val/excess")  # what is printed of an evaluation


class Display:
    """Prints lines and the progress of a run on `console`; `total` is its budget in steps or seconds."""

    def __init__(self, console: Console, total: float):
        self.console, self.total = console, total
        self.bar: Progress | None = None
        self.shown_at = time.monotonic()
        self.val = ""

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.bar.add_task("starting", total=self.total)
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def line(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def logged(self, done: float, metrics: dict[str, Any]) -> None:
        """Show training metrics: on the bar, or in a line every few seconds. `done` is in the unit of `total`."""
        text = f"step {metrics['step']:>6,}  train/loss {metrics['train/loss']:.4f}"
        speed = f"{metrics['speed/tokens_per_s']:,.0f} tokens/s" if "speed/tokens_per_s" in metrics else ""
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=done, description=f"{text}{self.val}  {speed}")
        elif time.monotonic() - self.shown_at > SECONDS_BETWEEN_LINES:
            self.shown_at = time.monotonic()
            self.line(f"{text}  {speed}  {100 * done / self.total:.0f} %")

    def evaluated(self, metrics: dict[str, Any]) -> None:
        """Print a line about an evaluation."""
        self.shown_at = time.monotonic()
        self.val = f"  val/loss {metrics['val/loss']:.4f}"  # shown on the bar from the next log on
        self.line(f"step {metrics['step']:>6,}  {headline(metrics)}")


def headline(metrics: dict[str, Any]) -> str:
    """Return the main metrics of an evaluation in one line."""
    return "  ".join(f"{key} {metrics[key]:.4f}" for key in HEADLINE if key in metrics)
