"""`gptlab status`: what the cells of a sweep are doing, from any other terminal."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gptlab.config import ConfigError
from gptlab.files import read_json
from gptlab.runs.lock import state_of
from gptlab.runs.record import read_status
from gptlab.sweeps.progress import ENDS, last_metrics

ORDER = ("finished", "diverged", "failed", "running", "interrupted", "waiting")
OUTCOMES = ("finished", "diverged")  # final; a failed cell may be tried again
SECONDS_BETWEEN_LOOKS = 2.0
LAST_BYTES = 4096  # of a log


@dataclass(frozen=True)
class Seen:
    """A cell as it is now."""

    label: str
    folder: Path | None  # not known before the tuning has chosen
    state: str
    share: float  # of its budget that is spent, while it has no outcome
    elapsed: float  # seconds of wall-clock since it started, or that it took
    metrics: dict[str, Any]  # the last that it logged


def show_status(folder: Path, console: Console, *, watch: bool = False) -> None:
    """Print how far a sweep is; with `watch` again and again, until every cell has ended."""
    cells = look(folder)
    if not watch:
        console.print(render(folder, cells))
        return
    with Live(render(folder, cells), console=console, refresh_per_second=4) as live:
        while any(c.state not in ENDS for c in cells):
            time.sleep(SECONDS_BETWEEN_LOOKS)
            cells = look(folder, cells)
            live.update(render(folder, cells))


def look(folder: Path, before: Sequence[Seen] = ()) -> list[Seen]:
    """Every cell; what was seen to have its outcome before has it still, and is not looked at again."""
    if not (folder / "sweep.yaml").is_file():
        raise ConfigError(f"status {folder}: not a sweep's folder; there is no sweep.yaml in it")
    known = {c.folder.name: c for c in before if c.folder and c.state in OUTCOMES}
    lines = read_json(folder / "sweep.yaml")["cells"]
    return [known.get(line["folder"]) or _look_at(line, folder) for line in lines]


def _look_at(line: dict[str, Any], top: Path) -> Seen:
    if line["folder"] is None:
        return Seen(line["label"], None, "waiting", 0.0, 0.0, {})
    folder = top / line["folder"]
    status = read_status(folder)
    state = state_of(folder, status)
    metrics = {} if state in OUTCOMES else last_metrics(folder / "metrics.jsonl")
    spent, budget = metrics.get("step" if line["steps"] else "seconds", 0.0), line["steps"] or line["seconds"]
    started, updated = (_when(status.get(k)) for k in ("started", "updated"))
    now = datetime.now(UTC) if state == "running" else updated
    elapsed = (now - started).total_seconds() if started and now else 0.0
    return Seen(line["label"], folder, state, min(1.0, spent / budget), elapsed, metrics)


def _when(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def seconds_left(cells: Sequence[Seen]) -> float | None:
    """Of wall-clock, at the pace of what has run so far; None before anything has."""
    done = [c.elapsed for c in cells if c.state == "finished" and c.elapsed > 0]
    running = [c for c in cells if c.state == "running"]
    ahead = [c.elapsed / c.share for c in running if c.share > 0.02]
    if not (done or ahead) or not running:
        return None
    usual = fmean(done or ahead)
    left = sum((1 - c.share) * (c.elapsed / c.share if c.share > 0.02 else usual) for c in running)
    left += sum((1 - c.share) * usual for c in cells if c.state in ("waiting", "interrupted"))
    return left / len(running)


def render(folder: Path, cells: Sequence[Seen]) -> Group:
    counts = Counter(c.state for c in cells)
    said = ", ".join(f"{counts[s]} {s}" for s in ORDER if counts[s])
    left = seconds_left(cells)
    time_left = "" if left is None else f"; {_duration(left)} left"
    lines: list[Any] = [Text(f"{folder}: {len(cells)} cells: {said}{time_left}")]
    running = [c for c in cells if c.state == "running"]
    if running:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for c in running:
            table.add_row("running", c.label, f"{c.share:.0%}", *_numbers(c.metrics))
        lines.append(table)
    lines += [Text(f"failed   {c.label}: {_last_words(c)}", overflow="fold") for c in cells if c.state == "failed"]
    lines += [Text(f"diverged {c.label}") for c in cells if c.state == "diverged"]
    if counts["waiting"] + counts["interrupted"] and not running:
        lines.append(Text("nothing is running; the same `gptlab sweep` goes on"))
    return Group(*lines)


def _numbers(metrics: dict[str, Any]) -> tuple[str, str]:
    loss = next((f"{k} {metrics[k]:.4f}" for k in ("val/loss", "train/loss") if k in metrics), "")
    speed = metrics.get("speed/tokens_per_s")
    return loss, f"{speed:,.0f} tokens/s" if speed else ""


def _last_words(cell: Seen) -> str:
    """Why it failed, as recorded, or the last line of its log."""
    assert cell.folder is not None
    if reason := read_status(cell.folder).get("reason"):
        return str(reason)
    log = cell.folder / "log.txt"
    lines = log.read_bytes()[-LAST_BYTES:].decode(errors="replace").split("\n") if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no reason was recorded")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
