"""Run folders -> runs. Curves are read only when asked for: a table of hundreds of runs needs none."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gptlab.config import ConfigError

MARKS = {"config.yaml", "status.json"}  # W&B's folders hold a config.yaml too


@dataclass(frozen=True, eq=False)
class Run:
    folder: Path
    config: dict[str, Any]  # nested, as config.yaml has it
    status: dict[str, Any]
    summary: dict[str, Any]  # empty until the run has ended

    @property
    def state(self) -> str:
        return self.status["state"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    def when(self, event: str) -> str:
        """The time "started" or "updated", to sort by."""
        return str(self.status.get(event, ""))


@dataclass(frozen=True)
class Sweep:
    """What sweep.yaml says of the runs below it."""

    question: str | None = None
    labels: tuple[str, ...] = ()  # of the variants, in their order
    baseline: str | None = None  # a label


def load_runs(paths: Iterable[str | Path]) -> list[Run]:
    """The runs in `paths`, each a run's folder or one above it, in the order in which they were started."""
    folders = dict.fromkeys(folder.resolve() for path in paths for folder in _find(Path(path)))
    return sorted(map(_load, folders), key=lambda run: (run.when("started"), run.folder))


def _find(top: Path) -> list[Path]:
    found = []
    for folder, below, files in os.walk(top):
        if MARKS.issubset(files):
            found.append(Path(folder))
            below.clear()
    if not found:
        raise ConfigError(f"compare {top}: no runs here; name a run's folder or one above it")
    return found


def _load(folder: Path) -> Run:
    summary = folder / "summary.json"
    return Run(
        folder,
        config=_load_yaml(folder / "config.yaml"),
        status=json.loads((folder / "status.json").read_text()),
        summary=json.loads(summary.read_text()) if summary.exists() else {},
    )


def _load_yaml(path: Path) -> dict[str, Any]:
    # OmegaConf.load takes 15 times as long, and what gptlab wrote has no number that YAML 1.1 reads as a string
    return yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)


def load_sweep(runs: list[Run]) -> Sweep:
    """The sweep that all `runs` belong to; an empty one if there is none or more than one."""
    above = {run.folder.parent for run in runs}
    path = above.pop() / "sweep.yaml"
    if above or not path.exists():
        return Sweep()
    said = _load_yaml(path)
    labels = tuple(said.get("variants") or ())
    return Sweep(said.get("question"), labels, said.get("baseline") or next(iter(labels), None))


def read_curve(run: Run, metric: str) -> pd.Series:
    """`metric` by training tokens seen, from metrics.jsonl."""
    path = run.folder / "metrics.jsonl"
    if not path.exists():
        return pd.Series(dtype=float)
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is nothing, or torn by a kill
    key = json.dumps(metric).encode()
    points = {}
    for number, line in enumerate(lines, start=1):
        if key not in line:  # spares most lines the parser
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as e:
            raise ConfigError(f"{path}:{number}: not JSON ({e.msg}); delete the line or run again") from e
        points[record["tokens"]] = record[metric]
    return pd.Series(points, dtype=float)
