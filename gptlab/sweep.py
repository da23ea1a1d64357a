"""All cells of a sweep: checked before the first one starts, run by Hydra's launchers, finished ones skipped."""

import json
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from gptlab.cells import Sweep, plan_sweep
from gptlab.compose import load_config
from gptlab.config import ConfigError
from gptlab.data import Dataset
from gptlab.launcher import Launch, prepare_launcher
from gptlab.plan import Plan, choose_machine, make_plan
from gptlab.record import read_status, write_json, write_text
from gptlab.run import open_dataset, train, wandb_settings, with_vocabulary
from gptlab.run_folder import Busy, is_locked, make_folder, run_dir
from gptlab.sweep_display import SweepDisplay

SETTLED = ("finished", "diverged", "failed")  # not run again, a failed cell unless asked to
SECONDS_BETWEEN_LOOKS = 1.0
MOST_STARTS = 2  # of a cell whose process dies: the second goes on from its checkpoint


@dataclass(frozen=True)
class Cell:
    overrides: list[str]
    folder: Path
    plan: Plan

    @property
    def state(self) -> str:
        """As recorded; `interrupted` where the process that said `running` is gone, `waiting` before a first start."""
        state = read_status(self.folder).get("state", "waiting")
        return "interrupted" if state == "running" and not is_locked(self.folder) else state


def sweep(words: Sequence[str], *, retry: bool = False, console: Console | None = None) -> dict[str, int]:
    """Run the cells of `words` that have no outcome yet; returns how many are in each state.

    Words whose key starts with `hydra` choose and set the launcher. Raises ConfigError, a line for each bad cell,
    before anything is written.
    """
    console = console or Console()
    launcher = [w for w in words if w.startswith("hydra")]
    planned = plan_sweep([w for w in words if not w.startswith("hydra")])
    cells = check_cells(planned.cells)
    console.print(f"{planned.name}: {len(cells)} cells, all of them checked", markup=False, highlight=False)
    launch = prepare_launcher(launcher, cells[0].folder.parent, run_cell)
    make_folder(cells[0].folder)
    _write_sweep(planned, cells[0].folder.parent)
    if retry:
        for cell in cells:
            if cell.state == "failed":
                write_json(cell.folder / "status.json", read_status(cell.folder) | {"state": "interrupted"})
    with SweepDisplay(console, cells) as display:
        _run_until_settled(cells, launch, display)
    return _report(cells, console)


def check_cells(all_overrides: list[list[str]]) -> list[Cell]:
    """Compose, build (on the meta device) and plan every cell; texts are tokenised here, once."""
    datasets: dict[str, Dataset] = {}
    cells: dict[Path, Cell] = {}
    problems: dict[str, str] = {}  # a line for each, with the first cell that has it
    for overrides in all_overrides:
        try:
            cfg = load_config(overrides)
            wandb_settings(cfg)
            choose_machine(cfg)
            plan = make_plan(with_vocabulary(cfg, _dataset(cfg, datasets)))
            cells[run_dir(cfg)] = Cell(overrides, run_dir(cfg), plan)
        except ConfigError as e:
            own = [w for w in overrides if not w.startswith(("name=", "variant="))]
            problems.setdefault(str(e), f"{e}   [{' '.join(own)}]" if len(all_overrides) > 1 else str(e))
    if problems:
        raise ConfigError("\n".join(problems.values()))
    return list(cells.values())


def _dataset(cfg: DictConfig, known: dict[str, Dataset]) -> Dataset:
    key = f"{cfg.data} {cfg.tokenizer}"
    if key not in known:
        known[key] = open_dataset(cfg)
    return known[key]


def _run_until_settled(cells: list[Cell], launch: Launch, display: SweepDisplay) -> None:
    """Run what has no outcome; what another process is running is waited for, and taken over if that one dies."""
    starts: Counter[Path] = Counter()
    while pending := [c for c in cells if c.state not in SETTLED]:
        free = [c for c in pending if not is_locked(c.folder)]
        if not free:
            display.waiting_for_others(len(pending))
            time.sleep(SECONDS_BETWEEN_LOOKS)
            continue
        trouble = launch([cell.overrides for cell in free])
        started = [c for c in free if c.state != "waiting"]
        if not started:
            raise ConfigError(f"hydra/launcher: started none of {len(free)} cells ({' '.join(trouble.split())})")
        starts.update(c.folder for c in started)
        for cell in started:
            if cell.state == "interrupted" and starts[cell.folder] >= MOST_STARTS:
                _note_failure(cell.folder, f"its process ended {MOST_STARTS} times without an outcome ({trouble})")


def run_cell(job: DictConfig) -> None:
    """A launcher's job: train one cell, its output in the run folder's log.txt, its outcome in status.json."""
    cfg = load_config(json.loads(job.cell))
    folder = run_dir(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        open(folder / "log.txt", "a", encoding="utf-8", buffering=1) as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        try:
            train(cfg, job_type="sweep")
        except Busy as e:
            print(e)
        except Exception as e:
            traceback.print_exc()
            _note_failure(folder, f"{type(e).__name__}: {e}")


def _note_failure(folder: Path, reason: str) -> None:
    """For what fails outside of the recorder's reach, such as a model too big for the memory."""
    status = read_status(folder)
    if status.get("state") != "failed":
        write_json(folder / "status.json", status | {"state": "failed", "reason": " ".join(reason.split())})


def _write_sweep(planned: Sweep, folder: Path) -> None:
    experiment = planned.experiment
    content = {
        "question": experiment.question,
        "variants": experiment.variants,
        "baseline": next(iter(experiment.variants), None),
        "cells": planned.cells,
    }
    write_text(folder / "sweep.yaml", json.dumps(content, indent=1) + "\n")  # JSON is YAML


def _report(cells: list[Cell], console: Console) -> dict[str, int]:
    counts = Counter(c.state for c in cells)
    said = ", ".join(f"{n} {state}" for state, n in counts.items())
    console.print(f"{len(cells)} cells: {said}", highlight=False)
    for cell in cells:
        if cell.state == "failed":
            reason = read_status(cell.folder).get("reason")
            console.print(
                f"failed: {reason}\n  see {cell.folder / 'log.txt'}", markup=False, highlight=False, soft_wrap=True
            )
    if counts["failed"]:
        console.print("`gptlab sweep --retry ...` runs failed cells again", markup=False, highlight=False)
    console.print(f"gptlab compare {cells[0].folder.parent}", markup=False, highlight=False, soft_wrap=True)
    return dict(counts)
