"""The speeds of the arms of a planned sweep, and the time that its cells take at these.

If runs in the sweep's folder have ended, their speeds are taken. Otherwise a few training steps of each distinct model
are timed, the baseline's first, for TIMING_SECONDS in all. An arm without a speed of its own gets the median of the
others in FLOPs per second. Timing writes nothing, and what it has trained is thrown away.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from gptlab.config import ConfigError, plain
from gptlab.config.compose import load_config
from gptlab.config.user_files import blaming
from gptlab.model.cost import architecture
from gptlab.runs.record import read_summary
from gptlab.sweeps.cell import Cell
from gptlab.training.prepare import Memo, PreparedRun, prepare
from gptlab.training.step_timing import seconds_of, step_of
from gptlab.training.trainer import Trainer

TIMING_SECONDS = 10.0  # for all models; the first one is timed however long its steps take
SECONDS_PER_MODEL = 0.4
STEPS = 3  # that are timed at least, after one that is not
LONG_STEP = 3.0  # seconds of a first step that counts itself: what only the first step does is small beside it
FORWARD_SHARE = 1 / 3  # of the FLOPs of a training token that an evaluated one takes, which has no backward pass
EVALUATION_SHARE = 0.25  # of its time; on a CPU 0.26 at size=tiny, 0.23 at size=small
ALIKE_IN_SPEED = ("optimizer", "train", "device", "precision", "compile", "diagnostics", "diagnostics_every")
RUNS, TIMING = "runs", "timing"


@dataclass(frozen=True)
class Speeds:
    """Tokens per second of training by arm, and what they were measured on."""

    source: str = ""  # RUNS, TIMING, or "" if nothing was measured
    tokens_per_s: Mapping[str, float] = field(default_factory=dict)  # by the arm's name
    flops_per_s: float | None = None  # the median of what was measured
    n_measured: int = 0  # runs or models
    n_steps: int = 0  # that were timed

    def of(self, cell: Cell) -> float | None:
        """Return the tokens per second of a cell; None if they are not known."""
        if cell.spec.arm.name in self.tokens_per_s:
            return self.tokens_per_s[cell.spec.arm.name]
        flops = cell.budget.cost["flops_per_token"]
        return self.flops_per_s / flops if self.flops_per_s and flops else None


def speeds_of_runs(cells: Sequence[Cell], folder: Path) -> Speeds:
    """Return the speeds of the runs in a sweep's folder that have ended; `cells` says whose they are."""
    arms = {cell.folder: cell.spec.arm.name for cell in cells}
    by_arm: dict[str, list[float]] = {}
    in_flops = []
    for path in folder.glob("*/summary.json"):
        summary = read_summary(path.parent)
        if speed := summary.get("speed/tokens_per_s"):
            in_flops.append(speed * summary["flops_per_token"])
            if arm := arms.get(path.parent):
                by_arm.setdefault(arm, []).append(speed)
    if not in_flops:
        return Speeds()
    medians = {arm: median(found) for arm, found in by_arm.items()}
    return Speeds(RUNS, medians, median(in_flops), n_measured=len(in_flops))


def timed_speeds(cells: Sequence[Cell], threads: int | None) -> Speeds:
    """Time some steps of each distinct model among the cells, in their order, until TIMING_SECONDS have passed.

    Args:
        cells: one or more, checked for this machine.
        threads: of torch, as a worker of the sweep has them; None for as many as this process has.
    """
    memo, deadline = Memo(), time.perf_counter() + TIMING_SECONDS
    by_model: dict[str, list[float]] = {}
    by_arm, in_flops = {}, []
    first = {cell.spec.arm.name: cell for cell in reversed(cells)}
    with _threads(threads):
        for cell in cells:
            if first[cell.spec.arm.name] is not cell:
                continue
            if by_model and time.perf_counter() > deadline:
                break
            run = prepare(load_config(cell.spec.overrides), memo=memo)
            model = _what_decides_speed(run)
            if model not in by_model:
                if by_model and run.device.compile:  # the compiler takes a minute for each
                    continue
                by_model[model] = _time(run, deadline)
                in_flops.append(run.budget.cost["flops_per_token"] * _speed(run, by_model[model]))
            by_arm[cell.spec.arm.name] = _speed(run, by_model[model])
    n_steps = sum(map(len, by_model.values()))
    return Speeds(TIMING, by_arm, median(in_flops), len(by_model), n_steps)


def _time(run: PreparedRun, deadline: float) -> list[float]:
    """Return the seconds of each step that was timed."""
    device = run.device.device
    try:
        with blaming():
            step = step_of(Trainer(run))
            first = seconds_of(step, 1, device)
            if first > LONG_STEP and not run.device.compile:
                return [first]
            seconds: list[float] = []
            while len(seconds) < STEPS or (sum(seconds) < SECONDS_PER_MODEL and time.perf_counter() < deadline):
                seconds += [seconds_of(step, STEPS, device) / STEPS] * STEPS  # a GPU is not waited for at each step
    except torch.OutOfMemoryError as e:
        rule = f"a training step needs more memory than {device} has free; set a smaller one, or plan with --no-timing"
        raise ConfigError(f"train.micro_batch_size={run.micro_batch_size}: {rule}") from e
    return seconds


def _speed(run: PreparedRun, seconds: Sequence[float]) -> float:
    return run.budget.tokens_per_step / median(seconds)


def _what_decides_speed(run: PreparedRun) -> str:
    """Return a text that is the same for runs whose steps are the same work."""
    tree = plain(run.cfg)
    settings = {key: tree[key] for key in ALIKE_IN_SPEED} | {"window": tree["data"]["window"]}
    settings["optimizer"] = {key: value for key, value in tree["optimizer"].items() if not isinstance(value, float)}
    return f"{id(architecture(run.cfg))} {settings}"  # counted once, and kept, for all configs of one model


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    """Let torch use `n` threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def time_document(cells: Sequence[Cell], speeds: Speeds, workers: int | None) -> dict[str, Any] | None:
    """Return the time that cells take, as plan.py documents it; None if it is not known.

    Args:
        cells: those that are left.
        speeds: of their arms.
        workers: cells that run at once; None if that is not known.
    """
    training = [_training_seconds(cell, speeds) for cell in cells]
    known = [seconds for seconds in training if seconds is not None]
    if len(known) < len(cells):
        return None
    evaluation = [EVALUATION_SHARE * cell.evaluated_tokens / (speeds.of(cell) or float("inf")) for cell in cells]
    each = [sum(pair) for pair in zip(known, evaluation, strict=True)]
    total = float(sum(each))
    side_by_side = min(workers, len(cells)) if workers and cells else workers
    return {
        "seconds": total,
        "evaluation_seconds": float(sum(evaluation)),
        "workers": side_by_side,
        "wall_seconds": max(total / side_by_side, max(each, default=0.0)) if side_by_side else None,
        "device": " ".join(sorted({cell.device.partition(":")[0] for cell in cells})),
        "source": speeds.source or ("budget" if cells else ""),
        "n_measured": speeds.n_measured,
        "n_steps": speeds.n_steps,
        "flops_per_s": speeds.flops_per_s,
    }


def _training_seconds(cell: Cell, speeds: Speeds) -> float | None:
    budget, speed = cell.budget, speeds.of(cell)
    if budget.seconds is not None or budget.steps is None or not speed:
        return budget.seconds
    return budget.steps * budget.tokens_per_step / speed


def time_at_rate(cells: Sequence[Cell], flops_per_s: float) -> dict[str, float] | None:
    """Return the time that cells take at an assumed rate; None for budgets in seconds."""
    total = 0.0
    for cell in cells:
        if cell.budget.steps is None:
            return None
        tokens = cell.budget.steps * cell.budget.tokens_per_step + FORWARD_SHARE * cell.evaluated_tokens
        total += tokens * cell.budget.cost["flops_per_token"] / flops_per_s
    return {"flops_per_s": flops_per_s, "seconds": total}
