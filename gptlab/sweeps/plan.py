"""`gptlab plan`: what a sweep would run and what it would cost, as plain data.

Fields of the document (a number that is not known, such as the steps of a budget in seconds, is None):
    name (str): the sweep's name.
    folder (str): the folder of its runs.
    question, literature (str | None): those of the experiment file.
    baseline (str): the arm that the others are compared with.
    against (str): "baseline", or "previous" for a ladder, whose arms are compared with the one before.
    arms (list): for each arm (an arm whose cells are the same runs as another's has no budget, no cost and no cells)
        name (str)
        overrides (dict[str, str]): its overrides, as typed on the command line, without the seed.
        varying (dict[str, str]): those that not all arms have.
        steps (int | None), tokens (int | None), flops (float | None): the training budget of one cell.
        seconds (float | None): the budget of one cell in seconds of training, if it is given so.
        parameters, parameters_non_embedding (int), flops_per_token (float): the cost of its model.
        match (dict | None): the change that `match=` makes: to, reference, before, width_before, reached, width
            and off, the share by which the cost still differs.
        n_cells, n_done (int): its cells, those of the tuning included, and those with an outcome.
    seeds (list[int]): the seeds of the comparison.
    first_look (int | None): of a sequential sweep, the number of seeds that every arm gets; more of them depend on what
        these show, so that the cells and what they cost are the most that can be run. None if the seeds are fixed.
    tuning (dict | None): grid (dict[str, list[str]], setting -> values tried), seeds (list[int]), n_cells (int).
    cells (list): every cell in the order of running, those of the tuning first
        label (str), arm (str), seed (int)
        phase (str | None): "tune" for a cell of the tuning, "neighbour" for one beside the values that it chooses.
        tuned (dict[str, str]): the values that it tries.
        folder (str | None): its run folder; None where the tuning has yet to choose its values.
        steps (int | None), tokens (int | None), flops (float | None), seconds (float | None): as for its arm.
        state (str): waiting, running, interrupted, finished, diverged or failed. Finished and diverged cells are
            not run again.
    n_cells (int), n_left (int): all cells, and those without an outcome.
    tokens, flops (float | None): the training of the cells without an outcome, together.
    estimate (dict | None): the time that the cells without an outcome take, start-up left out; None if it is not known
        seconds (float): of training and evaluation, one cell after another, each with the threads of a worker.
        evaluation_seconds (float): the part of it that is evaluation; an evaluated token is taken to need a quarter of
            the time of a training token. 0 if no speed is known.
        workers (int | None): the cells that run at once; None if other machines run them.
        wall_seconds (float | None): with this many at once, which is not less than the longest cell.
        device (str): cpu, cuda or mps.
        source (str): "runs", whose speeds were taken, each arm's from its own runs if it has any; "timing" of training
            steps; "budget" in seconds; or "" if no cell is left and nothing was measured.
        n_measured (int): the runs or distinct models whose speed was taken. The other arms are taken to reach the
            median of these in FLOPs per second.
        n_steps (int): the steps that were timed, all models together.
        flops_per_s (float | None): the median.
    at_rate (dict | None): the time at a rate that is asked for, one cell after another, with a third of the FLOPs of a
        training token for an evaluated one; None for budgets in seconds
        flops_per_s, seconds (float): as above.
    effect (dict): what the sweep can show of an arm, in the unit of the metric
        metric, unit (str): that is judged.
        comparisons (int): that Holm's correction counts.
        sd (float | None): the noise: the standard deviation of a difference that is paired by seed; None if there is
            neither a measured one nor one to assume.
        sd_source (str): "runs", "given", "assumed", or "".
        n_arms, n_pairs (int): of "runs", the arms whose median was taken, and the fewest pairs of one.
        slope (float | None), slope_source (str): how much the baseline's loss falls with each e-fold of tokens,
            likewise.
        shown (list): for the number of seeds, or for the first and the last look of a sequential sweep; empty if there
            is nothing to compare, with fewer than three seeds, or without a noise
            seeds (int)
            effect (float): the smallest true difference that is detected with a power of 80 % at Holm's first step.
            compute (float | None): the share of compute that the baseline would need more to gain as much.
        target (dict | None): how many seeds it takes to show a difference as large as the margin
            text (str): the margin; "5%" is 5 % of compute.
            effect (float): the margin in the unit of the metric.
            seeds (int | None): None for more than 1,000.

The document of an experiment with rungs has these fields instead:
    name, folder, question, literature: as above; the folder is above those of the rungs.
    promote (list[str]): the verdicts with which an arm goes on to the next rung; [] if all do. Until a rung has been
        run, the next ones count all its arms, so that the sums are the most that can be run.
    n_cells, n_left (int), tokens, flops (float | None): of all rungs together.
    seconds (float | None): of training and evaluation that is left, one cell after another.
    rungs (list): for each rung its name, `rung`, and the fields above; rungs to which no arm goes on are left out.
    unreached (list[str]): the names of those.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptlab.config import ConfigError
from gptlab.runs.states import OUTCOMES, SETTLED, RunState
from gptlab.sweeps.arms import TUNING, Arm, Overrides, SweepPlan
from gptlab.sweeps.cell import Cell, CheckedSweep, check_cells, check_sweep
from gptlab.sweeps.grid import plan_rungs, split_arguments
from gptlab.sweeps.launcher import find_workers, on_slurm
from gptlab.sweeps.next_rung import arms_at, next_plan, refuse_other_plan
from gptlab.sweeps.resolving_power import effect_document
from gptlab.sweeps.run_sweep import read_per_gpu, room_for
from gptlab.sweeps.speeds import Speeds, speeds_of_runs, time_at_rate, time_document, timed_speeds
from gptlab.sweeps.tuning import stages


@dataclass(frozen=True)
class Forecast:
    """The choices of whoever asks for a plan: how its time and its effect are found."""

    timing: bool = True  # whether steps may be timed if no run has measured a speed
    noise: float | None = None  # standard deviation of a paired difference, in the unit of the metric
    flops_per_s: float | None = None  # a rate at which the time is wanted, too

    def __post_init__(self) -> None:
        for flag, value in (("noise", self.noise), ("flops-per-s", self.flops_per_s)):
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"--{flag}={value:g}: must be a number above 0; leave it out if it is not known")


@dataclass(frozen=True)
class Machine:
    """The machine that the cells of a sweep run on, as far as the sweep knows it."""

    is_here: bool = True  # False for a cluster
    workers: int | None = None  # cells at once; None if other machines run them
    threads: int | None = None  # of torch in each; None for as many as this process has


@dataclass(frozen=True)
class Progress:
    """A sweep with the cells that are known so far."""

    checked: CheckedSweep
    values_known: bool = True  # whether the tuning has found the values of the comparison
    chosen: Mapping[str, Overrides] | None = None  # these values, once the comparison cannot change them any more


@dataclass(frozen=True)
class PlannedCell:
    """A cell and what is known of its run."""

    cell: Cell
    folder_known: bool  # False where the tuning has yet to choose the values on which the folder depends

    @property
    def state(self) -> RunState:
        """The state of its run."""
        return self.cell.state if self.folder_known else RunState.WAITING

    @property
    def is_left(self) -> bool:
        """Whether it has no outcome yet."""
        return self.state not in OUTCOMES


def plan_document(arguments: Sequence[str], forecast: Forecast | None = None, **options: Any) -> dict[str, Any]:
    """Return what `gptlab sweep` would do with these arguments, as plain data; nothing is run or written.

    `arguments` and `options` (ladder, knock_out, fraction, tune, seeds, multiplier) are those of
    gptlab.sweeps.run_sweep.sweep, and what that refuses is refused. Every cell is checked; a corpus that was not read
    before is tokenised into the cache.

    The fields are documented at the top of this module.

    Raises:
        ConfigError: with a line for each problem of any cell.
    """
    forecast = forecast or Forecast()
    split = split_arguments(arguments)
    is_here = not on_slurm(split.launcher)
    per_gpu = read_per_gpu(split.sweep, is_here)

    def machine_for(checked: CheckedSweep) -> Machine:
        workers = find_workers(split.launcher, checked.folder, **room_for(checked, per_gpu if is_here else None))
        return Machine(is_here, *(workers or (None, None)))

    plans = plan_rungs(split.cells, **options)
    if plans[0].rung:
        return _rungs_document(plans, machine_for, forecast, is_here=is_here)
    checked = check_sweep(plans[0], device_is_here=is_here)
    refuse_other_plan(checked)
    return sweep_document(as_far_as_run(checked, is_here=is_here), machine_for(checked), forecast)


def _rungs_document(
    plans: Sequence[SweepPlan],
    machine_for: Callable[[CheckedSweep], Machine],
    forecast: Forecast,
    *,
    is_here: bool,
) -> dict[str, Any]:
    """Return the document of an experiment with rungs: those of its rungs, and their sums."""
    first, experiment = plans[0], plans[0].experiment
    carried: Mapping[str, Overrides] | None = None
    documents: list[dict[str, Any]] = []
    folder = Path()
    for plan in plans:
        checked = check_sweep(plan, device_is_here=is_here)
        folder = checked.folder.parent
        if documents:
            ended = not documents[-1]["n_left"]  # so that it is known which arms go on
            arms = (arms_at(folder, checked.folder.name) if ended else None) or [arm.name for arm in plan.arms]
            if experiment.promote and len(arms) < 2:
                break
            checked = check_sweep(next_plan(checked.plan, arms, first, carried), device_is_here=is_here)
        refuse_other_plan(checked)
        progress = as_far_as_run(checked, is_here=is_here)
        if not documents and experiment.tune_at == "first":
            carried = progress.chosen
        documents.append({"rung": checked.folder.name, **sweep_document(progress, machine_for(checked), forecast)})
    seconds = [document["estimate"]["seconds"] if document["estimate"] else None for document in documents]
    return {
        "name": first.name,
        "folder": str(folder),
        **{key: documents[0][key] for key in ("question", "literature")},
        "promote": experiment.promote,
        "unreached": [rung.name for rung in experiment.rungs[len(documents) :]],
        **{key: sum(document[key] for document in documents) for key in ("n_cells", "n_left")},
        **{key: _total([document[key] for document in documents]) for key in ("tokens", "flops")},
        "seconds": _total(seconds),
        "rungs": documents,
    }


def sweep_document(progress: Progress, machine: Machine, forecast: Forecast) -> dict[str, Any]:
    """Return the document of one checked sweep, as far as it was run."""
    checked = progress.checked
    plan = checked.plan
    cells = [PlannedCell(cell, True) for cell in checked.tuning]
    cells += [PlannedCell(cell, progress.values_known) for cell in checked.cells]
    left = [planned.cell for planned in cells if planned.is_left]
    budgets = [_budget(cell) for cell in left]
    tuning = {"grid": plan.tune, "seeds": list(map(int, plan.tune_seeds)), "n_cells": len(checked.tuning)}
    return {
        "name": plan.name,
        "folder": str(checked.folder),
        "question": plan.experiment.question,
        "literature": plan.experiment.literature,
        "baseline": plan.arms[0].name,
        "against": "previous" if plan.experiment.ladder else "baseline",
        "arms": [_arm_document(arm, cells) for arm in plan.arms],
        "seeds": sorted({int(cell.spec.seed or 0) for cell in checked.cells if not cell.spec.phase}),
        "first_look": plan.first_look,
        "tuning": tuning if checked.tuning else None,
        "cells": [_cell_document(planned) for planned in cells],
        "n_cells": len(cells),
        "n_left": len(left),
        "tokens": _total([budget["tokens"] for budget in budgets]),
        "flops": _total([budget["flops"] for budget in budgets]),
        "estimate": time_document(left, _speeds(checked, left, machine, forecast), machine.workers),
        "at_rate": time_at_rate(left, forecast.flops_per_s) if forecast.flops_per_s else None,
        "effect": effect_document(checked, forecast.noise),
    }


def as_far_as_run(checked: CheckedSweep, *, is_here: bool) -> Progress:
    """Return a sweep with the cells that its tuning has led to.

    The stages of the tuning are gone through as the sweep does it, as long as their cells have ended.
    """
    if not checked.plan.tune:
        return Progress(checked)
    if not checked.plan.tune_seeds and checked.plan.carried is None:  # of a rung: the first has yet to find the values
        return Progress(checked, values_known=False)
    plan, chosen = checked.plan, checked.plan.carried
    ended = False
    for stage in stages(plan.until_first_look()):
        begins = stage.searches and stage.plan.grids == checked.plan.grids
        stage.cells = checked.tuning if begins else check_cells(stage.specs, device_is_here=is_here)
        plan, chosen = replace(plan, grids=stage.plan.grids), stage.chosen
        if stage.searches:
            checked = replace(checked, plan=plan, tuning=stage.cells)
        ended = all(cell.state in SETTLED for cell in stage.cells)
        if not ended:
            break
    if not chosen:
        return Progress(checked, values_known=False)
    specs = plan.cells_with(chosen) + plan.budget_cells(chosen)
    cells = check_cells(specs, device_is_here=is_here)
    return Progress(replace(checked, plan=plan, cells=cells), chosen=chosen if ended else None)


def _speeds(checked: CheckedSweep, left: Sequence[Cell], machine: Machine, forecast: Forecast) -> Speeds:
    """Return the speeds of the runs so far; if there are none, those of some steps, if they may be timed here."""
    speeds = speeds_of_runs([*checked.tuning, *checked.cells], checked.folder)
    by_steps = [cell for cell in left if cell.budget.steps is not None]
    if speeds.source or not by_steps or not forecast.timing or not machine.is_here:
        return speeds
    return timed_speeds(by_steps, machine.threads)


def _arm_document(arm: Arm, cells: Sequence[PlannedCell]) -> dict[str, Any]:
    own = [planned for planned in cells if planned.cell.spec.arm is arm]
    cell = next((planned.cell for planned in own if planned.cell.spec.phase != TUNING), None)
    cost = cell.budget.cost if cell else {}
    return {
        "name": arm.name,
        "overrides": dict(arm.overrides),
        "varying": dict(arm.varying),
        **_budget(cell),
        **{name: cost.get(name) for name in ("parameters", "parameters_non_embedding", "flops_per_token")},
        "match": cell.match.record() if cell and cell.match else None,
        "n_cells": len(own),
        "n_done": len([planned for planned in own if not planned.is_left]),
    }


def _cell_document(planned: PlannedCell) -> dict[str, Any]:
    spec = planned.cell.spec
    return {
        "label": spec.label,
        "arm": spec.arm.name,
        "seed": int(spec.seed or 0),
        "phase": spec.phase,
        "tuned": dict(spec.tuned) if planned.folder_known else {},
        "folder": str(planned.cell.folder) if planned.folder_known else None,
        **_budget(planned.cell),
        "state": str(planned.state),
    }


def _budget(cell: Cell | None) -> dict[str, float | None]:
    if cell is None:
        return dict.fromkeys(("steps", "tokens", "flops", "seconds"))
    budget = cell.budget
    tokens = None if budget.steps is None else budget.steps * budget.tokens_per_step
    flops = None if tokens is None else tokens * budget.cost["flops_per_token"]
    return {"steps": budget.steps, "tokens": tokens, "flops": flops, "seconds": budget.seconds}


def _total(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None
