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
from gptlab.init_from import plan_start
from gptlab.launcher import Launch, WorkerDied, prepare_launcher
from gptlab.plan import Plan, choose_machine, make_plan
from gptlab.record import read_status, write_json, write_text
from gptlab.run import open_dataset, train, wandb_settings, with_vocabulary
from gptlab.run_folder import Busy, is_locked, run_dir
from gptlab.sweep_display import SweepDisplay

SETTLED = ("finished", "diverged", "failed")  # not run again, a failed cell unless asked to
SECONDS_BETWEEN_LOOKS = 1.0
MOST_DEATHS = 2  # of a cell's process; after the first it goes on from its checkpoint


@dataclass
class Cell:
    overrides: list[str]
    label: str  # how it is called where there is little room
    folder: Path
    plan: Plan
    device: str
    failure: str = ""  # a reason that could not be written into its folder

    @property
    def state(self) -> str:
        """As recorded; `interrupted` where the process that said `running` is gone, `waiting` before a first start."""
        if self.failure:
            return "failed"
        state = read_status(self.folder).get("state", "waiting")
        return "interrupted" if state == "running" and not is_locked(self.folder) else state

    @property
    def reason(self) -> str:
        return self.failure or read_status(self.folder).get("reason") or ""

    def fail(self, reason: str) -> None:
        """For what fails outside of the recorder's reach, such as a folder that cannot be written."""
        try:
            note_failure(self.folder, reason)
        except OSError:
            self.failure = reason


def sweep(words: Sequence[str], *, retry: bool = False, console: Console | None = None) -> dict[str, int]:
    """Run the cells of `words` that have no outcome yet; returns how many are in each state.

    Words whose key starts with `hydra` choose and set the launcher. Raises ConfigError, a line for each bad cell,
    before anything is written.
    """
    console = console or Console()
    launcher = [w for w in words if w.startswith("hydra")]
    planned = plan_sweep([w for w in words if not w.startswith("hydra")])
    elsewhere = any("submitit_slurm" in w for w in launcher)  # where there may be devices that are not here
    cells = check_cells(planned.cells, device_is_here=not elsewhere)
    if not launcher and any(c.device != "cpu" for c in cells):
        launcher = ["hydra.launcher.n_jobs=1"]  # a worker per core would crowd the one GPU that they all choose
    console.print(f"{planned.name}: {_count(cells)}, all checked", markup=False, highlight=False)
    launch = prepare_launcher(launcher, cells[0].folder.parent, run_cell)
    _write_sweep(planned, cells[0].folder.parent)
    if retry:
        for cell in cells:
            if cell.state == "failed":
                write_json(cell.folder / "status.json", read_status(cell.folder) | {"state": "interrupted"})
    with SweepDisplay(console, cells) as display:
        _run_until_settled(cells, launch, display)
    return _report(cells, console)


def check_cells(all_overrides: list[list[str]], *, device_is_here: bool = True) -> list[Cell]:
    """Compose, build (on the meta device) and plan every cell; texts are tokenised here, once."""
    shared = set(all_overrides[0]).intersection(*all_overrides) if len(all_overrides) > 1 else set()
    datasets: dict[str, Dataset] = {}
    cells: dict[Path, Cell] = {}
    problems: dict[str, str] = {}  # a line for each, with the first cell that has it
    for overrides in all_overrides:
        try:
            cfg = load_config(overrides)
            wandb_settings(cfg)
            device = choose_machine(cfg).device.type if device_is_here else cfg.device
            dataset = _dataset(cfg, datasets)
            full = with_vocabulary(cfg, dataset)
            plan = make_plan(full)
            plan_start(full, dataset)
            folder = run_dir(cfg)
            cells[folder] = Cell(overrides, _label(overrides, shared), folder, plan, device)
        except ConfigError as e:
            problems.setdefault(str(e), f"{e}   [{_label(overrides, shared)}]" if len(all_overrides) > 1 else str(e))
    if problems:
        raise ConfigError("\n".join(problems.values()))
    return list(cells.values())


def _label(overrides: list[str], shared: set[str]) -> str:
    """What a cell has that others have not: its variant's name, or its overrides."""
    own = [w for w in overrides if w not in shared]
    variant = next((w.partition("=")[2].strip("'") for w in own if w.startswith("variant=")), None)
    return " ".join([variant, *(w for w in own if w.startswith("seed="))] if variant else own or overrides)


def _dataset(cfg: DictConfig, known: dict[str, Dataset]) -> Dataset:
    key = f"{cfg.data} {cfg.tokenizer}"
    if key not in known:
        known[key] = open_dataset(cfg)
    return known[key]


def _run_until_settled(cells: list[Cell], launch: Launch, display: SweepDisplay) -> None:
    """Run what has no outcome; what another process is running is waited for, and taken over if that one dies."""
    deaths: Counter[Path] = Counter()
    while pending := [c for c in cells if c.state not in SETTLED]:
        free = [c for c in pending if not is_locked(c.folder)]
        if not free:
            display.waiting_for_others(len(pending))
            time.sleep(SECONDS_BETWEEN_LOOKS)
            continue
        try:
            for cell, error in zip(free, launch([c.overrides for c in free]), strict=True):
                if error:
                    cell.fail(error)
        except WorkerDied as e:
            deaths.update(c.folder for c in free if c.state == "interrupted")
            if not deaths:
                raise ConfigError(f"hydra/launcher: started none of {len(free)} cells ({e})") from e
            for cell in free:
                if deaths[cell.folder] >= MOST_DEATHS:
                    cell.fail(f"its process died {MOST_DEATHS} times ({e})")


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
            note_failure(folder, f"{type(e).__name__}: {e}")


def note_failure(folder: Path, reason: str) -> None:
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
    try:
        write_text(folder / "sweep.yaml", json.dumps(content, indent=1) + "\n")  # JSON is YAML
    except OSError as e:
        raise ConfigError(f"runs_dir={folder.parent}: cannot be written ({e.strerror}); give another") from e


def _report(cells: list[Cell], console: Console) -> dict[str, int]:
    counts = Counter(c.state for c in cells)
    said = ", ".join(f"{n} {state}" for state, n in counts.items())
    console.print(f"{_count(cells)}: {said}", highlight=False)
    for cell in cells:
        if cell.state == "failed":
            console.print(
                f"failed: {cell.label}: {cell.reason}\n  see {cell.folder / 'log.txt'}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    if counts["failed"]:
        console.print("`gptlab sweep --retry ...` runs failed cells again", markup=False, highlight=False)
    console.print(f"gptlab compare {cells[0].folder.parent}", markup=False, highlight=False, soft_wrap=True)
    return dict(counts)


def _count(cells: list[Cell]) -> str:
    return "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
