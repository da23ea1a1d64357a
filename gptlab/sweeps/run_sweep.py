"""Run the cells of a sweep with Hydra's launchers. All are checked before the first one starts; finished ones stay."""

import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from gptlab.config import ConfigError, did_you_mean
from gptlab.files import write_json
from gptlab.runs.lock import is_locked
from gptlab.runs.record import read_status
from gptlab.runs.states import SETTLED, RunState
from gptlab.sweeps.arms import Overrides, SweepPlan, as_texts
from gptlab.sweeps.cell import Cell, CheckedSweep, check_cells, check_sweep
from gptlab.sweeps.ctrl_c import cells_save_on_ctrl_c
from gptlab.sweeps.display import SweepDisplay
from gptlab.sweeps.gpu_slots import gpus_for
from gptlab.sweeps.grid import plan_rungs, split_arguments
from gptlab.sweeps.job import run_cells
from gptlab.sweeps.launcher import Launch, WorkerDied, on_slurm, prepare_launcher
from gptlab.sweeps.look import look_at, with_next_seeds
from gptlab.sweeps.manifest import write_manifest
from gptlab.sweeps.next_rung import refuse_other_plan
from gptlab.sweeps.run_rungs import run_rungs, title_of
from gptlab.sweeps.tuning import stages

SECONDS_BETWEEN_TRIES = 1.0
PER_GPU = "sweep.per_gpu"
MAX_DEATHS = 2  # deaths of a cell's process that fail it; after the first one the cell continues from its checkpoint
MAX_RETURNS = 2  # returns without an outcome that fail a cell; a first one may be due to another process that died


def sweep(
    arguments: Sequence[str], *, retry: bool = False, console: Console | None = None, **options: Any
) -> dict[str, int]:
    """Run every cell that has no outcome yet, and return the number of cells in each state.

    All cells are checked first. Then the tuning runs, if there is any, and then the comparison.

    Args:
        arguments: an experiment file and overrides with lists of values. `hydra/launcher=` and `hydra.launcher.*`
            choose and configure the launcher; `sweep.per_gpu` is the number of cells that a GPU runs at once (1).
        retry: run failed cells again.
        console: where progress is printed.
        **options: those of plan_sweep.

    Raises:
        ConfigError: with a line for each problem of any cell, before anything is written.
    """
    console = console or Console(file=sys.stdout)  # held fast: a cell in this process sends sys.stdout to its log
    split = split_arguments(arguments)
    device_is_here = not on_slurm(split.launcher)
    per_gpu = read_per_gpu(split.sweep, device_is_here)
    sweeps = [check_sweep(plan, device_is_here=device_is_here) for plan in plan_rungs(split.cells, **options)]
    for checked in sweeps:
        refuse_other_plan(checked)
        tuning = f" and {_count(checked.tuning)} of tuning" if checked.tuning else ""
        _print(console, f"{title_of(checked.plan)}: {_count(checked.cells)}{tuning}, all checked")

    def run(checked: CheckedSweep) -> tuple[CheckedSweep, Mapping[str, Overrides] | None]:
        launch = _launcher(split.launcher, checked, per_gpu if device_is_here else None)
        run_them = partial(_run, launch=launch, console=console, retry=retry)
        return _run_stages(checked, run_them, console, device_is_here=device_is_here)

    if not sweeps[0].plan.rung:
        return _report([run(sweeps[0])[0]], sweeps[0].folder, console)
    check = partial(check_sweep, device_is_here=device_is_here)
    return _report(run_rungs(sweeps, run, check, partial(_print, console)), sweeps[0].folder.parent, console)


def _run_stages(
    checked: CheckedSweep, run: Callable[[list[Cell]], None], console: Console, *, device_is_here: bool
) -> tuple[CheckedSweep, Mapping[str, Overrides] | None]:
    """Search the best values of every arm, run the comparison, and give open arms more seeds.

    Only what is planned happens: without tuning there is no search, and with fixed seeds no look.

    Returns:
        The sweep as run, and the values that were chosen for each arm; None without tuning.
    """
    check = partial(check_cells, device_is_here=device_is_here)
    chosen: Mapping[str, Overrides] | None = None
    begun: set[Path] = set()

    def after_look(plan: SweepPlan) -> SweepPlan:
        if plan.first_look is None:
            return plan
        looks = look_at(checked.folder, checked.cells)
        _print(console, f"look: {'; '.join(map(str, looks))}")
        write_manifest(checked, chosen=chosen, looks=looks)
        return with_next_seeds(plan, looks)

    for stage in stages(checked.plan.until_first_look(), after_look):
        known = stage.plan is checked.plan and stage.chosen is None  # its cells were checked before the sweep began
        if stage.searches:
            checked = replace(checked, plan=stage.plan, tuning=checked.tuning if known else check(stage.specs))
        else:
            if stage.chosen != chosen:
                _print_chosen(stage.chosen or {}, console)
            checked = replace(checked, plan=stage.plan, cells=checked.cells if known else check(stage.specs))
        chosen = stage.chosen
        stage.cells = checked.tuning if stage.searches else checked.cells
        write_manifest(checked, chosen=chosen)
        run([cell for cell in stage.cells if cell.folder not in begun])
        begun |= {cell.folder for cell in stage.cells}
    return checked, chosen


def read_per_gpu(settings: Sequence[str], device_is_here: bool) -> int:
    """Read the settings of the sweep itself: the number of cells that a GPU runs at once."""
    per_gpu = 1
    for text in settings:
        key, _, value = text.partition("=")
        if key != PER_GPU:
            raise ConfigError(f"{text}: no such setting{did_you_mean(key, [PER_GPU])}; the sweep itself has {PER_GPU}")
        if not device_is_here:
            raise ConfigError(f"{text}: SLURM assigns its GPUs; set hydra.launcher.gpus_per_node instead")
        if not value.isdecimal() or int(value) < 1:
            raise ConfigError(f"{text}: must be an int of at least 1, the cells that a GPU runs at once")
        per_gpu = int(value)
    return per_gpu


def _launcher(settings: list[str], checked: CheckedSweep, per_gpu: int | None) -> Launch:
    """Prepare the launcher; `per_gpu` is None where a cluster assigns the GPUs."""
    job = partial(run_cells, per_gpu=per_gpu, notes=checked.plan.experiment.notes)
    return prepare_launcher(settings, checked.folder, job, **room_for(checked, per_gpu))


def room_for(checked: CheckedSweep, per_gpu: int | None) -> dict[str, int]:
    """Return how many cells there are at most and how many slots on GPUs, as the launcher takes them."""
    devices = {cell.device for cell in checked.cells} if per_gpu else set()
    gpus = {gpu for device in devices for gpu in gpus_for(device)}
    return {"n_cells": max(len(checked.tuning), len(checked.cells)), "n_slots": (per_gpu or 0) * len(gpus)}


def _run(cells: list[Cell], *, launch: Launch, console: Console, retry: bool) -> None:
    if retry:
        for cell in cells:
            if cell.state == RunState.FAILED:
                status = read_status(cell.folder) | {"state": RunState.INTERRUPTED}
                write_json(cell.folder / "status.json", status)
    if cells:
        with SweepDisplay(console, cells[0].folder.parent, cells) as display:
            _run_until_settled(cells, launch, display)


def _run_until_settled(cells: list[Cell], launch: Launch, display: SweepDisplay) -> None:
    """Run the cells without an outcome. Wait for those of other processes, and take them over if these die.

    It ends: a cell is launched until it has an outcome or has failed, at most MAX_DEATHS + MAX_RETURNS times.
    """
    deaths: Counter[Path] = Counter()
    returns: Counter[Path] = Counter()
    pending = cells
    while pending := [cell for cell in pending if cell.state not in SETTLED]:
        free = [cell for cell in pending if not is_locked(cell.folder)]
        if free:
            _launch_once(free, launch, deaths, returns)
        else:
            display.waiting_for_others(len(pending))
            time.sleep(SECONDS_BETWEEN_TRIES)


def _launch_once(cells: list[Cell], launch: Launch, deaths: Counter[Path], returns: Counter[Path]) -> None:
    """Launch the cells; one whose process dies repeatedly, or comes back repeatedly without an outcome, has failed."""
    try:
        with cells_save_on_ctrl_c([cell.folder for cell in cells]):
            errors = launch([cell.spec.for_job for cell in cells])
    except WorkerDied as e:
        deaths.update(cell.folder for cell in cells if cell.state == RunState.INTERRUPTED)
        if not deaths:
            raise ConfigError(f"hydra/launcher: started none of {len(cells)} cells ({e})") from e
        for cell in cells:
            if deaths[cell.folder] >= MAX_DEATHS:
                cell.fail(f"its process died {MAX_DEATHS} times ({e})")
        return
    for cell, error in zip(cells, errors, strict=True):
        if cell.state in SETTLED or is_locked(cell.folder):
            continue
        returns[cell.folder] += 1
        if error or returns[cell.folder] >= MAX_RETURNS:
            cell.fail(
                error or f"came back {MAX_RETURNS} times without an outcome; its files may have changed meanwhile"
            )


def _print_chosen(chosen: Mapping[str, Overrides], console: Console) -> None:
    for arm, values in chosen.items():
        _print(console, f"{arm}: {' '.join(as_texts(values))}")


def _report(ended: Sequence[CheckedSweep], folder: Path, console: Console) -> dict[str, int]:
    """Print the number of cells in each state, the failures and the next command; return the numbers."""
    cells = [cell for checked in ended for cell in (*checked.tuning, *checked.cells)]
    counts = Counter(str(cell.state) for cell in cells)
    console.print(f"{_count(cells)}: {', '.join(f'{n} {state}' for state, n in counts.items())}", highlight=False)
    for cell in cells:
        if cell.state == RunState.FAILED:
            _print(console, f"failed: {cell.spec.label}: {cell.reason}\n  see {cell.folder / 'log.txt'}")
    if counts[RunState.FAILED]:
        _print(console, "`gptlab sweep --retry ...` runs failed cells again")
    _print(console, f"gptlab compare {shlex.quote(str(folder))}")
    return dict(counts)


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _count(cells: Sequence[Cell]) -> str:
    return "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
