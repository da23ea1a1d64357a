"""All cells of a sweep: checked before the first one starts, run by Hydra's launchers, finished ones skipped."""

import json
import os
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from gptlab.config import ConfigError, did_you_mean
from gptlab.config.compose import load_settings
from gptlab.files import write_json
from gptlab.runs.folder import run_dir
from gptlab.runs.lock import Busy, is_locked
from gptlab.runs.record import read_status
from gptlab.runs.signals import Stopped
from gptlab.sweeps.cell import Cell, check_cells, note_failure, with_references
from gptlab.sweeps.gpu_slots import gpus_for, place_on_gpu
from gptlab.sweeps.grid import plan_sweep
from gptlab.sweeps.launcher import Launch, WorkerDied, on_slurm, one_line, prepare_launcher
from gptlab.sweeps.manifest import write_sweep
from gptlab.sweeps.progress import SweepDisplay
from gptlab.sweeps.tuning import best_values
from gptlab.training.device import choose_machine
from gptlab.training.train import fair, train_matched

SETTLED = ("finished", "diverged", "failed")  # not run again, a failed cell unless asked to
SECONDS_BETWEEN_LOOKS = 1.0
PER_GPU = "sweep.per_gpu"
MOST_DEATHS = 2  # of a cell's process; after the first it goes on from its checkpoint


def sweep(words: Sequence[str], *, retry: bool = False, console: Console | None = None, **arms: Any) -> dict[str, int]:
    """Run the cells of `words` that have no outcome yet; returns how many are in each state.

    Words whose key starts with `hydra` choose and set the launcher, sweep.per_gpu is how many cells a GPU takes at once
    (1); `arms` are plan_sweep's options. What is to be tuned is tuned first. Raises ConfigError, a line for each bad
    cell, before anything is written.
    """
    console = console or Console()
    launcher, own, words = split_words(words)
    here = not on_slurm(launcher)  # else there may be devices that are not here
    per_gpu = _per_gpu(own, here)
    planned = with_references(plan_sweep(words, **arms))
    tuning = check_cells(planned.tuning_cells(), device_is_here=here) if planned.tune else []
    first = planned.combinations[0]
    cells = check_cells([planned.cell(a, s, first) for s in planned.seeds for a in planned.arms], device_is_here=here)
    also = f" and {_count(tuning)} of tuning" if tuning else ""
    console.print(f"{planned.name}: {_count(cells)}{also}, all checked", markup=False, highlight=False)
    top = cells[0].folder.parent
    gpus = {gpu for device in {c.device for c in cells} for gpu in gpus_for(device)} if here else ()
    launch = prepare_launcher(
        launcher,
        top,
        partial(run_cells, per_gpu=per_gpu if here else None),
        n_cells=max(len(tuning), len(cells)),
        places=per_gpu * len(gpus),
    )
    counts: Counter[str] = Counter()
    chosen = None
    if tuning:
        write_sweep(planned, tuning, cells, top)
        counts.update(_run(tuning, launch, console, retry))
        chosen = best_values(planned, tuning)
        for arm, values in chosen.items():
            console.print(f"{arm}: {' '.join(values)}", markup=False, highlight=False, soft_wrap=True)
        kept = [planned.cell(a, s, chosen[a.name]) for s in planned.seeds for a in planned.arms if a.name in chosen]
        cells = check_cells(kept, device_is_here=here) if kept else []
    write_sweep(planned, tuning, cells, top, chosen=chosen)
    counts.update(_run(cells, launch, console, retry))
    _report([*tuning, *cells], counts, console)
    return dict(counts)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Those for the launcher (`+` adds what Hydra does not know of), those for the sweep itself, those of its cells."""
    launcher = [w for w in words if w.lstrip("+").startswith("hydra")]
    own = [w for w in words if w.startswith("sweep.")]
    return launcher, own, [w for w in words if w not in launcher and w not in own]


def _per_gpu(own: list[str], here: bool) -> int:
    per_gpu = 1
    for word in own:
        key, _, value = word.partition("=")
        if key != PER_GPU:
            raise ConfigError(f"{word}: no such setting{did_you_mean(key, [PER_GPU])}; the sweep itself has {PER_GPU}")
        if not here:
            raise ConfigError(f"{word}: SLURM deals out its GPUs; set hydra.launcher.gpus_per_node instead")
        if not value.isdecimal() or int(value) < 1:
            raise ConfigError(f"{word}: must be an int of at least 1, the cells that a GPU takes at once")
        per_gpu = int(value)
    return per_gpu


def _run(cells: list[Cell], launch: Launch, console: Console, retry: bool) -> Counter[str]:
    if retry:
        for cell in cells:
            if cell.state == "failed":
                write_json(cell.folder / "status.json", read_status(cell.folder) | {"state": "interrupted"})
    with SweepDisplay(console, cells) as display:
        _run_until_settled(cells, launch, display)
    return Counter(c.state for c in cells)


def _run_until_settled(cells: list[Cell], launch: Launch, display: SweepDisplay) -> None:
    """Run what has no outcome; what another process is running is waited for, and taken over if that one dies."""
    deaths: Counter[Path] = Counter()
    pending = cells
    while pending := [c for c in pending if c.state not in SETTLED]:
        free = [c for c in pending if not is_locked(c.folder)]
        if not free:
            display.waiting_for_others(len(pending))
            time.sleep(SECONDS_BETWEEN_LOOKS)
            continue
        try:
            for cell, error in zip(free, launch([c.overrides for c in free]), strict=True):
                if error and cell.state not in SETTLED:
                    cell.fail(error)
        except WorkerDied as e:
            deaths.update(c.folder for c in free if c.state == "interrupted")
            if not deaths:
                raise ConfigError(f"hydra/launcher: started none of {len(free)} cells ({e})") from e
            for cell in free:
                if deaths[cell.folder] >= MOST_DEATHS:
                    cell.fail(f"its process died {MOST_DEATHS} times ({e})")


def run_cells(job: DictConfig, per_gpu: int | None = None) -> list[str]:
    """A launcher's job: some cells, one after the other. Returns for each an error that its folder could not tell."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    errors = []
    for overrides in json.loads(job.cells):
        try:
            run_cell(overrides, per_gpu, stops_worker=job.threads is not None)
            errors.append("")
        except Exception as e:
            errors.append(one_line(e))
    return errors


def run_cell(overrides: list[str], per_gpu: int | None, *, stops_worker: bool) -> None:
    """Train one cell, its output in the run folder's log.txt, its outcome in status.json.

    It takes one of the `per_gpu` places of a GPU; None: the GPU is its own.
    """
    cfg, match = fair(load_settings(overrides))
    folder = run_dir(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        open(folder / "log.txt", "a", encoding="utf-8", buffering=1) as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        try:
            with place_on_gpu(str(choose_machine(cfg).device), per_gpu, Path(cfg.runs_dir) / ".gpus"):
                train_matched(cfg, match, job_type=cfg.phase or "sweep")
        except Busy as e:
            print(e)
        except Stopped as e:
            if stops_worker:  # one of joblib's, which would go on with the next job
                os._exit(128 + e.number)
            raise
        except Exception as e:
            traceback.print_exc()
            note_failure(folder, f"{type(e).__name__}: {e}")


def _report(cells: list[Cell], counts: Counter[str], console: Console) -> None:
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


def _count(cells: list[Cell]) -> str:
    return "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
