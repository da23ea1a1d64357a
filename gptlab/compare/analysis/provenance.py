"""The origin of the numbers: a table of the runs, and the machines that they ran on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gptlab.compare.analysis.arms import Arm
from gptlab.compare.analysis.tuning_curves import arm_of
from gptlab.compare.read.anonymise import shown_address, shown_folder
from gptlab.compare.read.runs import Run
from gptlab.runs.states import RunState


def list_runs(arms: Mapping[str, Arm], runs: Sequence[Run], settings: Sequence[str], metric: str) -> pd.DataFrame:
    """Return Comparison.runs: first the runs that count, then the others of `runs`, which belong to tuned arms.

    `settings` are those that are tuned.
    """
    labels = list(arms)
    counted = {run.folder for arm in arms.values() for run in arm.runs}
    rows = [_row(run, label, "", metric) for label, arm in arms.items() for run in arm.runs]
    for run in (run for run in runs if run.folder not in counted):
        index = arm_of(run, list(arms.values()), settings)
        label = labels[index] if index is not None else run.config.get("variant") or ""
        rows.append(_row(run, label, "tune" if run.phase == "tune" else "neighbour", metric))
    return pd.DataFrame(rows)


def _row(run: Run, label: str, phase: str, metric: str) -> dict[str, Any]:
    return {
        "arm": label,
        "seed": run.seed,
        "phase": phase,
        "state": run.state,
        "tokens": run.number("tokens"),
        "seconds": run.number("seconds"),
        "folder": shown_folder(run.folder),
        "path": _path(run.folder),
        "where": shown_address(run.status.get("wandb")),
        metric: run.number(metric) if run.state == RunState.FINISHED else float("nan"),
    }


def _path(folder: Path) -> str:
    """Return a path that opens from the current folder; unlike shown_folder it may name folders of this machine."""
    return (folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder).as_posix()


def hardware(runs: Sequence[Run]) -> list[str]:
    """Return a line for each combination of machine and versions, with its number of runs."""
    counts = Counter(_machine(run.env) for run in runs if run.env)
    return [f"{line} ({n} run{'s' * (n > 1)})" for line, n in counts.most_common()]


def _machine(env: Mapping[str, Any]) -> str:
    """`AMD EPYC, 2 threads, cpu, float32, Python 3.11.7, torch 2.13.0, gptlab 0.1.0, commit 0c6ef3a2b1`."""
    threads, packages, git = env.get("torch_threads"), env.get("packages") or {}, env.get("git") or {}
    gpus = Counter(env.get("gpus") or []) if env.get("device") != "cpu" else Counter()
    parts = [
        *(f"{n} x {gpu}" for gpu, n in gpus.items()),
        env.get("cpu"),
        f"{threads} thread{'s' * (threads > 1)}" if threads else None,
        env.get("device"),
        env.get("precision"),
        f"Python {env['python']}" if "python" in env else None,
        *(f"{name} {packages[name]}" for name in ("torch", "gptlab") if name in packages),
        f"commit {git['commit'][:10]}{' with changes' * bool(git.get('dirty'))}" if git else None,
    ]
    return ", ".join(filter(None, parts))
