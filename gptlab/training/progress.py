"""The display of a run in progress: a bar on a terminal, plain lines when piped."""

import math
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from gptlab.runs.metrics import METRICS

SECONDS_BETWEEN_LINES = 10.0
# An initial loss this far above ln V, in nats, deserves a warning. Logits with standard deviation s cost about s^2 / 2,
# whatever V is. All options of init, with tied and untied heads, and all presets start below 0.9, at sizes from tiny to
# 10m; init=torch with a tied head starts above 29.
FAR_ABOVE = 1.0


class Display:
    """Shows lines of text, and the state of the current run, on `console`."""

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

    def logged(self, done: float, metrics: dict[str, Any], reported: dict[str, float] | None = None) -> None:
        """Show training metrics and what components report: on the bar, or in a line every few seconds.

        `done` is in the unit of `total`.
        """
        text = f"step {metrics['step']:>6,}  train/loss {metrics['train/loss']:.4f}"
        means = {
            key: x for key, x in (reported or {}).items() if not key[-2:].isdigit()
        }  # without the values of single layers
        text += "".join(f"  {key} {x:.4g}" for key, x in means.items())
        speed = f"{metrics['speed/tokens_per_s']:,.0f} tokens/s" if "speed/tokens_per_s" in metrics else ""
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=done, description=f"{text}{self.val}  {speed}")
        elif time.monotonic() - self.shown_at > SECONDS_BETWEEN_LINES:
            self.shown_at = time.monotonic()
            self.line(f"{text}  {speed}  {100 * done / self.total:.0f} %")

    def evaluated(self, metrics: dict[str, Any]) -> None:
        self.shown_at = time.monotonic()
        self.val = f"  val/loss {metrics['val/loss']:.4f}"  # shown next to the training loss from the next log on
        self.line(f"step {metrics['step']:>6,}  {headline(metrics)}")


def headline(metrics: dict[str, Any]) -> str:
    """Return the main metrics of an evaluation in one line."""
    return "  ".join(m.line(metrics[m.key]) for m in METRICS.values() if m.in_terminal and m.key in metrics)


def initial_loss_line(loss: float, vocab_size: int, untrained: bool) -> str:
    """Return the first loss beside that of guessing, with a warning if an untrained model is far above it."""
    uniform = math.log(vocab_size)
    line = f"initial loss {loss:.4f}, ln V = {uniform:.4f}"
    if untrained and loss - uniform > FAR_ABOVE:
        return f"warning: {line}: the logits of an untrained model should be small; see init and head"
    return line
