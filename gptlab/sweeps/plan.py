"""`gptlab plan`: what a sweep would run and what it would cost, as plain data.

Fields of the document (a number that is not known, such as the steps of a budget in seconds, is None):
    name (str): the sweep's name.
    folder (str): the folder of its runs.
    question, literature (str | None): those of the experiment file.
    baseline (str): the arm that the others are compared with.
    against (str): "baseline", or "previous" for a ladder, whose arms are compared with the one before.
    arms (list): for each arm (an arm whose cells are the same runs as another's has no budget and no cost)
        name (str)
        overrides (dict[str, str]): its overrides, as typed on the command line, without the seed.
        varying (dict[str, str]): those that not all arms have.
        steps (int | None), tokens (int | None), flops (float | None): the training budget of one cell.
        seconds (float | None): the budget of one cell in seconds of training, if it is given so.
        parameters, parameters_non_embedding (int), flops_per_token (float): the cost of its model.
        match (dict | None): the change that `match=` makes: to, reference, before, width_before, reached, width
            and off, the share by which the cost still differs.
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
    estimate (dict | None): the time that they take, if runs in the folder have measured a speed or the budget
        is in seconds
        seconds (float): of training, one cell after another; evaluation and start-up come on top.
        n_measured (int): the runs whose speed was taken.
        flops_per_s (float | None): the median speed of these.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any

from gptlab.runs.record import read_summary
from gptlab.runs.states import OUTCOMES
from gptlab.sweeps.arms import TUNING, Arm
from gptlab.sweeps.cell import Cell, CheckedSweep, check_sweep
from gptlab.sweeps.grid import plan_sweep, split_arguments
from gptlab.sweeps.launcher import on_slurm


def plan_document(arguments: Sequence[str], **options: Any) -> dict[str, Any]:
    """Return what `gptlab sweep` would do with these arguments, as plain data; nothing is run or written.

    `arguments` and `options` (ladder, knock_out, fraction, tune) are those of gptlab.sweeps.run_sweep.sweep. Every
    cell is checked as by `gptlab sweep`; a corpus that was not read before is tokenised into the cache.

    The fields are documented at the top of this module.

    Raises:
        ConfigError: with a line for each problem of any cell.
    """
    split = split_arguments(arguments)
    checked = check_sweep(plan_sweep(split.cells, **options), device_is_here=not on_slurm(split.launcher))
    plan = checked.plan
    cells = [
        *(_cell_document(cell, folder_known=True) for cell in checked.tuning),
        *(_cell_document(cell, folder_known=not checked.tuning) for cell in checked.cells),
    ]
    left = [cell for cell in cells if cell["state"] not in OUTCOMES]
    tuning = {"grid": plan.tune, "seeds": list(map(int, plan.tune_seeds)), "n_cells": len(checked.tuning)}
    return {
        "name": plan.name,
        "folder": str(checked.folder),
        "question": plan.experiment.question,
        "literature": plan.experiment.literature,
        "baseline": plan.arms[0].name,
        "against": "previous" if plan.experiment.ladder else "baseline",
        "arms": [_arm_document(arm, checked.cells) for arm in plan.arms],
        "seeds": sorted({cell["seed"] for cell in cells if not cell["phase"]}),
        "first_look": plan.first_look,
        "tuning": tuning if checked.tuning else None,
        "cells": cells,
        "n_cells": len(cells),
        "n_left": len(left),
        "tokens": _total([cell["tokens"] for cell in left]),
        "flops": _total([cell["flops"] for cell in left]),
        "estimate": _estimate(left, checked),
    }


def _arm_document(arm: Arm, cells: Sequence[Cell]) -> dict[str, Any]:
    cell = next((cell for cell in cells if cell.spec.arm is arm), None)
    cost = cell.budget.cost if cell else {}
    return {
        "name": arm.name,
        "overrides": dict(arm.overrides),
        "varying": dict(arm.varying),
        **_budget(cell),
        **{name: cost.get(name) for name in ("parameters", "parameters_non_embedding", "flops_per_token")},
        "match": cell.match.record() if cell and cell.match else None,
    }


def _cell_document(cell: Cell, *, folder_known: bool) -> dict[str, Any]:
    return {
        "label": cell.spec.label,
        "arm": cell.spec.arm.name,
        "seed": int(cell.spec.seed or 0),
        "phase": cell.spec.phase,
        "tuned": dict(cell.spec.tuned) if cell.spec.phase == TUNING else {},
        "folder": str(cell.folder) if folder_known else None,
        **_budget(cell),
        "state": str(cell.state) if folder_known else "waiting",
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


def _estimate(left: Sequence[dict[str, Any]], checked: CheckedSweep) -> dict[str, Any] | None:
    """Return the seconds of training that are left, at the median speed of the runs in the sweep's folder."""
    summaries = [read_summary(path.parent) for path in checked.folder.glob("*/summary.json")]
    speeds = [s["speed/tokens_per_s"] * s["flops_per_token"] for s in summaries if s.get("speed/tokens_per_s")]
    flops_per_s = median(speeds) if speeds else None
    seconds = _total([_seconds(cell, flops_per_s) for cell in left])
    if seconds is None:
        return None
    return {"seconds": seconds, "n_measured": len(speeds), "flops_per_s": flops_per_s}


def _seconds(cell: dict[str, Any], flops_per_s: float | None) -> float | None:
    if cell["seconds"] is not None or not flops_per_s:
        seconds: float | None = cell["seconds"]
        return seconds
    return float(cell["flops"] / flops_per_s)
