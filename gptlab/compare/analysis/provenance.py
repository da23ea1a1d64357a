"""The origin of the numbers: a table of the runs, the machines that they ran on, and the pairs that are not alike."""

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

BY_SETTING = ("precision", "device")  # facts that a setting of the same name may ask for
SAME_TEXT = 0.001  # share of the bytes by which two evaluations of one text may differ: tokenizers cut it elsewhere


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
        rows.append(_row(run, label, run.phase if run.phase in ("tune", "budget") else "neighbour", metric))
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


def unlike_pairs(arms: Mapping[str, Arm], references: Mapping[str, str]) -> dict[str, dict[int, str]]:
    """Return, for each arm and seed, why its run cannot be judged against that of the arm's reference."""
    by_seed = {label: {run.seed: run for run in arm.runs} for label, arm in arms.items()}
    reasons = {
        label: {
            seed: unlike(run, by_seed[reference][seed])
            for seed, run in by_seed[label].items()
            if seed in by_seed[reference]
        }
        for label, reference in references.items()
    }
    return {label: {seed: reason for seed, reason in of.items() if reason} for label, of in reasons.items()}


def unlike(run: Run, reference: Run) -> str:
    """Return why two runs cannot be judged as a pair: `other text`, `bf16 against float32`; "" if they can.

    What their configs set differently, such as precision=float32 and precision=bf16, is the question that is asked, not
    a fault; but losses on different texts, or on different parts of one, can never be compared. What an older version
    did not record is taken to be equal.
    """
    if found := _other_text(run, reference) or _other_evaluation(run, reference):
        return found
    others = _facts(reference)
    for name, fact in _facts(run).items():
        asked = name in BY_SETTING and run.config.get(name) != reference.config.get(name)
        if fact and others[name] and fact != others[name] and not asked:
            return f"{fact} against {others[name]}"
    return ""


def _other_text(run: Run, reference: Run) -> str:
    own, other = run.env.get("data_hash"), reference.env.get("data_hash")
    return "other text" if own and other and own != other else ""


def _other_evaluation(run: Run, reference: Run) -> str:
    """Return how much of the text the last evaluations read, if that differs; "" if it does not."""
    fractions = [(r.config.get("data") or {}).get("val_fraction") for r in (run, reference)]
    if fractions[0] != fractions[1] and None not in fractions:
        return f"val_fraction {fractions[0]} against {fractions[1]}"
    read = [sum(r.summary.get("val/block_bytes") or ()) for r in (run, reference)]
    if all(read):
        far = abs(read[0] - read[1]) > SAME_TEXT * max(read)
        if not far:
            return ""
        return f"evaluated on {read[0]:,.0f} bytes of text against {read[1]:,.0f}; set eval.final_tokens=null"
    sections = [r.config.get("eval") or {} for r in (run, reference)]
    tokens = [section.get("final_tokens", section.get("tokens")) for section in sections]
    if tokens[0] != tokens[1] and all(sections):
        return f"evaluated on {_count(tokens[0])} tokens against {_count(tokens[1])}"
    return ""


def _count(tokens: float | None) -> str:
    return "all" if tokens is None else f"{tokens:,.0f}"


def _facts(run: Run) -> dict[str, str]:
    """Return what the machine gave the run, by the setting that asks for it, or by the name of a package."""
    packages = run.env.get("packages") or {}
    return {
        "precision": run.env.get("precision") or "",
        "device": str(run.env.get("device") or "").partition(":")[0],
        **{
            name: f"{name} {'.'.join(packages[name].split('.')[:2])}" if name in packages else ""
            for name in ("torch", "gptlab")
        },
    }
