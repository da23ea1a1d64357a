"""Run folders -> runs. Curves are read only when asked for, and then of one metric."""

import functools
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from gptlab.config import ConfigError

SECTION = re.compile(r"^(?=[A-Za-z_])", re.MULTILINE)  # where a top-level key begins
MARKS = {"config.yaml", "status.json"}  # W&B's folders hold a config.yaml too
AXIS_COLUMNS = {"step": "step", "tokens": "tokens", "flops": "cost/flops", "seconds": "seconds"}  # here; in a record


@dataclass(frozen=True, eq=False)
class Run:
    folder: Path
    config: dict[str, Any]  # nested, as config.yaml has it
    status: dict[str, Any]
    summary: dict[str, Any]  # empty until the run has ended
    env: dict[str, Any] = field(default_factory=dict)  # env.json
    points: dict[str, list[Any]] | None = None  # of a kept run: what its records say, by column

    @property
    def state(self) -> str:
        return self.status["state"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def phase(self) -> str:
        """`tune` for a run that only chooses a setting."""
        return self.config.get("phase") or ""

    def when(self, event: str) -> str:
        """The time "started" or "updated", to sort by."""
        return str(self.status.get(event, ""))

    def number(self, key: str) -> float:
        """Of the summary; NaN where it has none."""
        value = self.summary.get(key)
        return float("nan") if value is None else float(value)


@dataclass(frozen=True)
class Sweep:
    """What sweep.yaml says of the runs below it."""

    question: str | None = None
    literature: str | None = None
    command: str | None = None
    labels: tuple[str, ...] = ()  # of the variants, in their order
    baseline: str | None = None  # a label
    against: str | None = None  # baseline or previous
    tune: dict[str, list[str]] = field(default_factory=dict)  # setting -> the values tried
    matched: list[dict[str, Any]] = field(default_factory=list)  # what match= changed in which arm

    @classmethod
    def of(cls, said: dict[str, Any]) -> "Sweep":
        """From the content of a sweep.yaml."""
        labels = tuple(said.get("variants") or ())
        return cls(
            question=said.get("question"),
            literature=said.get("literature"),
            command=said.get("command"),
            labels=labels,
            baseline=said.get("baseline") or next(iter(labels), None),
            against=said.get("against"),
            tune=(said.get("tune") or {}).get("grid") or {},
            matched=said.get("matched") or [],
        )


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
    return Run(
        folder,
        config=_load_config(folder / "config.yaml"),
        status=json.loads((folder / "status.json").read_text(encoding="utf-8")),
        summary=_load_json(folder / "summary.json"),
        env=_load_json(folder / "env.json"),
    )


def _load_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _load_config(path: Path) -> dict[str, Any]:
    """A config.yaml, a section at a time: thousands of runs have few different ones, and then the same object."""
    text = path.read_text(encoding="utf-8")
    sections = [_load_section(section) for section in SECTION.split(text) if section]
    if all(isinstance(section, dict) and len(section) == 1 for section in sections):
        return {key: value for section in sections for key, value in section.items()}
    return _load_yaml(text)  # written by hand


@functools.lru_cache(maxsize=2**15)
def _load_section(text: str) -> Any:
    try:
        return _load_yaml(text)
    except yaml.YAMLError:
        return None


def _load_yaml(text: str) -> Any:
    # OmegaConf.load takes 15 times as long, and what gptlab wrote has no number that YAML 1.1 reads as a string
    return yaml.load(text, Loader=yaml.CSafeLoader)


def load_sweep(runs: list[Run]) -> dict[str, Any]:
    """The sweep.yaml that all `runs` belong to; {} if there is none or more than one."""
    above = {run.folder.parent for run in runs}
    path = above.pop() / "sweep.yaml"
    if above or not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)  # as gptlab writes it, in a fiftieth of the time
    except ValueError:
        return _load_yaml(text)


def read_curves(runs: Iterable[Run], metric: str) -> pd.DataFrame:
    """Columns seed, step, tokens, flops, seconds (NaN if unknown) and `metric`, where that was finite; run by run."""
    found = [_read_columns(run, metric) for run in runs]
    return pd.DataFrame({name: np.concatenate([columns[name] for columns in found]) for name in found[0]})


def _read_columns(run: Run, metric: str) -> dict[str, np.ndarray]:
    points = read_points(run, metric)
    n = len(points.get(metric, []))
    keys = {**AXIS_COLUMNS, metric: metric}
    columns = {name: np.array(points.get(key) or [None] * n, dtype=float)[:n] for name, key in keys.items()}
    finite = np.isfinite(columns[metric])
    return {"seed": np.full(finite.sum(), run.seed), **{name: values[finite] for name, values in columns.items()}}


def read_points(run: Run, metric: str) -> dict[str, list[Any]]:
    """All that was logged together with `metric`, by column; None where something was not."""
    if run.points is not None:
        return run.points
    path = run.folder / "metrics.jsonl"
    if not path.exists():
        return {}
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is nothing, or torn by a kill
    key = json.dumps(metric).encode()
    found = [line for line in lines if key in line]  # spares most lines the parser
    try:
        records = json.loads(b"[" + b",".join(found) + b"]")
    except json.JSONDecodeError:
        raise _torn(path, lines) from None
    return {name: [r.get(name) for r in records] for name in dict.fromkeys(name for r in records for name in r)}


def _torn(path: Path, lines: list[bytes]) -> ConfigError:
    """Which of the lines is not JSON."""
    for number, line in enumerate(lines, start=1):
        try:
            json.loads(line)
        except json.JSONDecodeError as e:
            return ConfigError(f"{path}:{number}: not JSON ({e.msg}); delete the line or run again")
    return ConfigError(f"{path}: not JSON; run again")  # lines that only together are not, such as `1, 2`
