"""sweep.yaml, beside the runs of a sweep: what was asked, of which arms, and which cells there are."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptlab.config import ConfigError
from gptlab.files import read_json, write_text
from gptlab.sweeps.cell import Cell
from gptlab.sweeps.grid import Sweep

NAME = "sweep.yaml"


def write_sweep(
    planned: Sweep,
    tuning: Sequence[Cell],
    cells: Sequence[Cell],
    folder: Path,
    *,
    chosen: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """`chosen`: of each arm what the tuning chose; without it, and with a tuning, the cells' folders are not known."""
    experiment, known = planned.experiment, chosen is not None or not tuning
    names = list(dict.fromkeys(arm.name for arm in planned.arms))
    labelled = any(w.startswith("variant=") for w in planned.arms[0].overrides)
    content: dict[str, Any] = {
        "question": experiment.question,
        "literature": experiment.literature,
        "command": _command(),
        "variants": experiment.variants or ({name: [] for name in names} if labelled else {}),
        "baseline": planned.arms[0].name if labelled else None,
        "against": "previous" if experiment.ladder else "baseline",
        "tune": {"grid": planned.tune, "seeds": planned.tune_seeds} if planned.tune else None,
        "chosen": chosen,
        "matched": _matched(cells),
        "cells": [_line(c, "tune", True) for c in tuning] + [_line(c, None, known) for c in cells],
    }
    content["cells"] += _earlier(folder, content["cells"])
    try:
        write_text(folder / NAME, json.dumps(content, indent=1) + "\n")  # JSON is YAML
    except OSError as e:
        raise ConfigError(f"runs_dir={folder.parent}: cannot be written ({e.strerror}); give another") from e


def _command() -> str:
    """As it was typed."""
    program = Path(sys.argv[0]).name
    return shlex.join(["gptlab" if program in ("gptlab", "__main__.py") else program, *sys.argv[1:]])


def _line(cell: Cell, phase: str | None, known: bool) -> dict[str, Any]:
    return {
        "label": cell.label,
        "folder": cell.folder.name if known else None,
        "phase": phase,
        "steps": cell.plan.steps,
        "seconds": cell.plan.seconds,
        "overrides": cell.overrides,
    }


def _matched(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """What matching made of each arm."""
    by_arm = {cell.arm: cell.match for cell in cells if cell.match}
    return [
        {
            "arm": arm,
            "to": m.to,
            "changed": {} if m.width == m.width_before else {"ffn.hidden": [m.width_before, m.width]},
            "reference": m.reference,
            "before": m.before,
            "reached": m.reached,
        }
        for arm, m in by_arm.items()
    ]


def _earlier(folder: Path, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cells that an earlier sweep of this name ran here and this one does not have, such as those of other seeds."""
    known = {line["folder"] for line in lines}
    before = read_json(folder / NAME).get("cells", [])
    return [c for c in before if c["folder"] not in known and c["folder"] and (folder / c["folder"]).is_dir()]
