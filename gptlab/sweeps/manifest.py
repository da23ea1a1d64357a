"""sweep.yaml in the folder of a sweep: the question, the arms and the cells."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gptlab.compare.analysis.planned import DEFAULT_METRIC
from gptlab.compare.analysis.verdict import MIN_PAIRS
from gptlab.config import ConfigError
from gptlab.files import read_json, write_text
from gptlab.runs.lock import state_of
from gptlab.runs.states import OUTCOMES
from gptlab.sweeps.arms import BUDGET, Overrides, SweepPlan, as_texts
from gptlab.sweeps.cell import Cell, CheckedSweep
from gptlab.sweeps.look import ArmLook

NAME = "sweep.yaml"


@dataclass(frozen=True)
class CellEntry:
    """A cell as sweep.yaml lists it."""

    label: str
    folder: str | None  # None until the tuning has chosen the values on which the folder's name depends
    phase: str | None
    steps: int | None  # the budget in optimizer steps, if it is given so
    seconds: float | None  # the budget in seconds, if it is given so
    overrides: list[str]

    @classmethod
    def of(cls, cell: Cell) -> "CellEntry":
        """Return the entry of a checked cell."""
        spec, budget = cell.spec, cell.budget
        return cls(spec.label, cell.folder.name, spec.phase, budget.steps, budget.seconds, spec.overrides)


def write_manifest(
    checked: CheckedSweep, *, chosen: Mapping[str, Overrides] | None = None, looks: Sequence[ArmLook] | None = None
) -> None:
    """Write sweep.yaml; keep the cells of an earlier sweep of this name that this one lacks.

    Args:
        checked: the sweep; after the tuning, with the cells at the values chosen.
        chosen: the values that the tuning chose for each arm; None before it has.
        looks: what the last look of a sequential sweep says; None keeps what is written.

    Raises:
        ConfigError: the folder cannot be written.
    """
    plan, experiment, folder = checked.plan, checked.plan.experiment, checked.folder
    earlier = read_json(folder / NAME)
    entries = [asdict(CellEntry.of(cell)) for cell in (*checked.tuning, *checked.cells)]
    if checked.tuning and chosen is None:
        for entry in entries[len(checked.tuning) :]:
            entry["folder"] = None
    labelled = bool(plan.arms[0].variant)
    content: dict[str, Any] = {
        "question": experiment.question,
        "literature": experiment.literature,
        "published": experiment.published,
        "command": command_line(),
        "experiment_file": experiment.text,
        "variants": experiment.variants or ({arm.name: [] for arm in plan.arms} if labelled else {}),
        "baseline": plan.arms[0].name,
        "arms": _folders(checked, entries),
        "against": "previous" if experiment.ladder else "baseline",
        "tune": {"grid": _values_tried(plan), "seeds": plan.tune_seeds} if plan.tune else None,
        "chosen": None if chosen is None else {arm: as_texts(values) for arm, values in chosen.items()},
        "judged_at": None if chosen is None else _judged_at(plan, chosen),
        "matched": _matched(checked.cells),
        "planned": _planned(checked, earlier),
        "budgets": _budgets(checked) if not checked.tuning or chosen is not None else None,
        "looks": _looks(plan, earlier, looks),
        "cells": entries + _earlier_entries(folder, entries),
    }
    try:
        write_text(folder / NAME, json.dumps(content, indent=1) + "\n")  # JSON is YAML
    except OSError as e:
        raise ConfigError(f"runs_dir={folder.parent}: cannot be written ({e.strerror}); give another") from e


def refuse_other_looks(checked: CheckedSweep) -> None:
    """Refuse a sequential sweep of a name whose runs were planned otherwise: its looks would be those of that plan.

    Raises:
        ConfigError: the earlier plan stands, and has other seeds or another first look.
    """
    plan, folder = checked.plan, checked.folder
    kept = _planned(checked, read_json(folder / NAME))
    if plan.first_look and (kept.get("first_look"), kept["seeds"]) != (plan.first_look, [int(s) for s in plan.seeds]):
        wanted, first, n = f"{plan.first_look}..{len(plan.seeds)}", kept.get("first_look"), len(kept["seeds"])
        was = f"looks from {first} to {n} seeds" if first else f"{n} fixed seeds"
        raise ConfigError(f"seeds={wanted}: {folder} was planned with {was}; give another name=")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the content of sweep.yaml, with a CellEntry for each cell; {} if there is none."""
    content: dict[str, Any] = read_json(folder / NAME)
    if not content:
        return {}
    absent: dict[str, Any] = {"phase": None, "overrides": []}  # in a file that an earlier version wrote
    known = [field.name for field in fields(CellEntry)]
    entries = [{key: (absent | entry)[key] for key in known} for entry in content["cells"]]
    return content | {"cells": [CellEntry(**entry) for entry in entries]}


def _folders(checked: CheckedSweep, entries: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the folders of the compared runs by arm, the baseline's first: [] for an arm that is yet to be tuned."""
    compared = entries[len(checked.tuning) : len(checked.tuning) + len(checked.cells)]
    folders: dict[int, list[str]] = {id(arm): [] for arm in checked.plan.arms}  # two arms may have the same name
    for cell, entry in zip(checked.cells, compared, strict=True):
        if cell.spec.phase == BUDGET:
            continue
        folders[id(cell.spec.arm)] += [entry["folder"]] if entry["folder"] else []
    return list(folders.values())


def _looks(plan: SweepPlan, earlier: Mapping[str, Any], looks: Sequence[ArmLook] | None) -> list[dict[str, Any]] | None:
    """Return the last look of a sequential sweep: `looks`, or the one that is written; None if the seeds are fixed."""
    if plan.first_look is None:
        return None
    return earlier.get("looks") if looks is None else [asdict(look) for look in looks]


def _budgets(checked: CheckedSweep) -> dict[str, list[str]] | None:
    """Return the folders of the baseline's runs at other budgets, by their share of its own; None without any."""
    share_of = {arm.name: share for share, arm in checked.plan.budget_arms.items()}
    folders: dict[str, list[str]] = {share: [] for share in share_of.values()}
    for cell in checked.cells:
        if cell.spec.phase == BUDGET:
            folders[share_of[cell.spec.arm.name]].append(cell.folder.name)
    return folders or None


def command_line() -> str:
    """Return the command line as typed."""
    program = Path(sys.argv[0]).name
    return shlex.join(["gptlab" if program in ("gptlab", "__main__.py") else program, *sys.argv[1:]])


def _planned(checked: CheckedSweep, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the sweep plans to compare, or what it planned when it was started first.

    A plan stays as soon as a verdict could have been looked at: when a run of the comparison has ended, and the plan
    had enough seeds for a verdict. Until then it can be changed freely.
    """
    plan = checked.plan
    known: dict[str, Any] | None = earlier.get("planned")
    if known and len(known["seeds"]) >= MIN_PAIRS and has_ended(checked.folder):
        return known
    arms = {cell.spec.arm.name for cell in checked.cells if cell.spec.phase != BUDGET}
    return {
        "seeds": sorted({int(seed or 0) for seed in plan.seeds}),
        "first_look": plan.first_look,
        "arms": len(arms),
        "left_out": plan.left_out,
        "metric": plan.experiment.metric or DEFAULT_METRIC,
        "margin": plan.experiment.margin,
        "baseline": plan.arms[0].name,
    }


def has_ended(folder: Path) -> bool:
    """Return whether a run of the comparison in the folder of a sweep has an outcome."""
    cells = [
        entry for entry in read_json(folder / NAME).get("cells", []) if entry.get("folder") and not entry.get("phase")
    ]
    return any(state_of(folder / entry["folder"]) in OUTCOMES for entry in cells)


def _values_tried(plan: SweepPlan) -> dict[str, list[str]]:
    """Return the values of each tuned setting that some arm tries."""
    grids = plan.grids.values()
    return {key: list(dict.fromkeys(text for grid in grids for text in grid.values[key])) for key in plan.tune}


def _judged_at(plan: SweepPlan, chosen: Mapping[str, Overrides]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return for each arm the values of each tuned setting that every seed of the comparison runs."""
    return {arm: plan.grids[arm].neighbours(values) for arm, values in chosen.items()}


def _matched(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the change that `match=` made to each arm."""
    by_arm = {cell.spec.arm.name: cell.match for cell in cells if cell.match and cell.spec.phase != BUDGET}
    return [
        {
            "arm": arm,
            "to": match.to,
            "changed": match.changed,
            "reference": match.reference,
            "before": match.before,
            "reached": match.reached,
        }
        for arm, match in by_arm.items()
    ]


def _earlier_entries(folder: Path, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cells of an earlier sweep in this folder that this one lacks, such as cells with other seeds."""
    folders = {entry["folder"] for entry in entries}
    earlier = read_json(folder / NAME).get("cells", [])
    return [e for e in earlier if e["folder"] not in folders and e["folder"] and (folder / e["folder"]).is_dir()]
