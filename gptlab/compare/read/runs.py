"""Read runs from their folders. Curves are read only when they are needed, and only those of one metric."""

import functools
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from gptlab.config import ConfigError
from gptlab.files import FileError, decode_utf8, read_json
from gptlab.runs.record import SAMPLE, read_status

SECTION = re.compile(r"^(?=[A-Za-z_])", re.MULTILINE)  # where a top-level key begins
RUN_FILES = {"config.yaml", "status.json"}  # both, since a folder of W&B has a config.yaml too
TUNE = "tune"  # the phase of a run that only chooses a value
NEIGHBOUR = "neighbour"  # the phase of a run of a tuned arm beside the value that was chosen
BUDGET = "budget"  # the phase of a run of the baseline at another budget
MOST_LETTERS = 4000  # of a sample that are shown and kept


@dataclass(frozen=True)
class Axis:
    """A quantity that training spends, against which curves are drawn."""

    column: str  # its name in the curves of a Comparison
    key: str  # its key in metrics.jsonl
    word: str  # "at equal FLOPs"
    title: str  # title of a chart's axis


AXES = {
    "steps": Axis("step", "step", "steps", "optimizer steps"),
    "tokens": Axis("tokens", "tokens", "tokens", "training tokens"),
    "flops": Axis("flops", "cost/flops", "FLOPs", "training FLOPs"),
    "seconds": Axis("seconds", "seconds", "seconds", "seconds"),
}


@dataclass(frozen=True, eq=False)
class Run:
    """A run as its folder, or a file written by --keep, describes it."""

    folder: Path
    config: dict[str, Any]  # nested, as in config.yaml
    status: dict[str, Any]
    summary: dict[str, Any]  # empty until the run has ended
    env: dict[str, Any] = field(default_factory=dict)  # env.json
    points: dict[str, list[Any]] | None = None  # the evaluations by column, if the run comes from an archive
    sample: str = ""  # the text that the model wrote after training, if the run comes from an archive

    @property
    def state(self) -> str:
        """The run's state, a value of RunState."""
        return str(self.status.get("state", "waiting"))

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def phase(self) -> str:
        """`tune` for a run that was made only to choose a setting, "" for the others."""
        return self.config.get("phase") or ""

    @functools.cached_property
    def content(self) -> dict[str, str]:
        """The sha256 of what the run read from files, by setting; without those that an older version did not record.

        The settings are `data` (the text), `tokenizer` (its file), `train.init_from` (weights), and the slots with a
        component of the user's (its source).
        """
        env, tokenizer = self.env, self.config.get("tokenizer") or {}
        start = {"train.init_from": (env.get("init_from") or {}).get("sha256")}
        reads_file = any(isinstance(value, str) for key, value in tokenizer.items() if key != "name")
        files = {"data": env.get("data_hash"), "tokenizer": env.get("tokenizer_hash") if reads_file else None} | start
        sources = {component.partition(".")[0]: sha for component, sha in (env.get("components") or {}).items()}
        return sources | {key: sha for key, sha in files.items() if sha}

    def when(self, event: str) -> str:
        """Return the time at which the run was "started" or "updated", in a form that sorts."""
        return str(self.status.get(event, ""))

    def number(self, key: str) -> float:
        """Return a number of the summary, or NaN if it is absent."""
        value = self.summary.get(key)
        if value is None:
            return float("nan")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"metric={key}: is {value!r:.60} in {self.folder / 'summary.json'}; give a number")
        return float(value)


@dataclass(frozen=True)
class SweepFile:
    """The parts of a sweep.yaml that a comparison uses."""

    question: str | None = None
    literature: str | None = None
    published: dict[str, str] = field(default_factory=dict)  # arm -> its difference from the baseline, or a word
    command: str | None = None
    experiment_file: str | None = None  # its text
    labels: tuple[str, ...] = ()  # the names of the variants, in their order
    baseline: str | None = None  # a label
    arms: tuple[tuple[str, ...], ...] = ()  # the names of the folders of each arm's runs, the baseline's first
    against: str | None = None  # "baseline" or "previous"
    tune: dict[str, list[str]] = field(default_factory=dict)  # setting -> the values tried
    matched: list[dict[str, Any]] = field(default_factory=list)  # what match= changed in which arm

    @classmethod
    def of(cls, content: dict[str, Any]) -> "SweepFile":
        """Take the parts from the content of a sweep.yaml."""
        labels = tuple(content.get("variants") or ())
        return cls(
            question=content.get("question"),
            literature=content.get("literature"),
            published=content.get("published") or {},
            command=content.get("command"),
            experiment_file=content.get("experiment_file"),
            labels=labels,
            baseline=content.get("baseline") or next(iter(labels), None),
            arms=tuple(map(tuple, content.get("arms") or ())),
            against=content.get("against"),
            tune=(content.get("tune") or {}).get("grid") or {},
            matched=content.get("matched") or [],
        )


def load_runs(paths: Iterable[str | Path]) -> list[Run]:
    """Return the runs in `paths`, in the order in which they were started.

    A path is the folder of a run or a folder above it. Raises ConfigError for a path without runs.
    """
    folders = dict.fromkeys(folder.resolve() for path in paths for folder in _find(Path(path)))
    return sorted(map(_load, folders), key=lambda run: (run.when("started"), run.folder))


def has_runs(top: Path) -> bool:
    """Return whether there is a run in a folder or below it."""
    return next(_folders(top), None) is not None


def _find(top: Path) -> list[Path]:
    if not (run_folders := list(_folders(top))):
        raise ConfigError(f"compare {top}: no runs here; name a run's folder or one above it")
    return run_folders


def _folders(top: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(top):
        if RUN_FILES.issubset(files):
            yield Path(folder)
            below.clear()


def _load(folder: Path) -> Run:
    return Run(
        folder,
        config=_load_config(folder / "config.yaml"),
        status=read_status(folder),
        summary=read_json(folder / "summary.json"),
        env=read_json(folder / "env.json"),
    )


def _load_config(path: Path) -> dict[str, Any]:
    """Parse a config.yaml section by section, and return the same object for sections with the same text.

    Thousands of runs of a sweep have only a few different sections.
    """
    text = decode_utf8(path.read_bytes(), str(path))
    sections = [_load_section(section) for section in SECTION.split(text) if section]
    config: Any
    try:
        if all(isinstance(section, dict) and len(section) == 1 for section in sections):
            config = {key: value for section in sections for key, value in section.items()}
        else:
            config = _load_yaml(text)  # written by hand
    except yaml.YAMLError as e:
        raise FileError(f"{path}: not readable as YAML ({' '.join(str(e).split())}); delete the run's folder") from e
    if not isinstance(config, dict) or not {"seed", "name"} <= config.keys():
        raise FileError(f"{path}: is empty, cut off or no config; restore it, or delete the run's folder")
    return config


@functools.lru_cache(maxsize=2**15)
def _load_section(text: str) -> Any:
    try:
        return _load_yaml(text)
    except yaml.YAMLError:
        return None


def _load_yaml(text: str) -> Any:
    # 15 times as fast as OmegaConf.load, and gptlab writes no number that YAML 1.1 would read as a string
    return yaml.load(text, Loader=yaml.CSafeLoader)


def load_sweep(runs: list[Run]) -> dict[str, Any]:
    """Return the content of the sweep.yaml above all `runs`; {} if there is none or more than one."""
    above = {run.folder.parent for run in runs}
    path = above.pop() / "sweep.yaml"
    if above or not path.exists():
        return {}
    text = decode_utf8(path.read_bytes(), str(path))
    try:
        sweep = json.loads(text)  # gptlab writes JSON, which is valid YAML and 50 times as fast to parse
    except ValueError:
        try:
            sweep = _load_yaml(text)
        except yaml.YAMLError:
            sweep = None
    if not isinstance(sweep, dict):
        raise FileError(f"{path}: is empty, cut off or not readable; the same `gptlab sweep` writes it again")
    return sweep


def read_curves(runs: Iterable[Run], metric: str) -> pd.DataFrame:
    """Return the curves of `runs`, one below the other, where the metric is finite.

    The columns are seed, step, tokens, flops, seconds (NaN if unknown) and `metric`.
    """
    curves = [_read_columns(run, metric) for run in runs]
    return pd.DataFrame({name: np.concatenate([columns[name] for columns in curves]) for name in curves[0]})


def _read_columns(run: Run, metric: str) -> dict[str, np.ndarray]:
    points = read_points(run, metric)
    n = len(points.get(metric, []))
    keys = {**{axis.column: axis.key for axis in AXES.values()}, metric: metric}
    columns = {name: np.array(points.get(key) or [None] * n, dtype=float)[:n] for name, key in keys.items()}
    finite = np.isfinite(columns[metric])
    return {"seed": np.full(finite.sum(), run.seed), **{name: values[finite] for name, values in columns.items()}}


def read_points(run: Run, metric: str) -> dict[str, list[Any]]:
    """Return everything that was logged together with `metric`, by column, with None for absent values."""
    if run.points is not None:
        return run.points
    path = run.folder / "metrics.jsonl"
    if not path.exists():
        return {}
    lines = path.read_bytes().split(b"\n")[:-1]  # text after the last newline is empty, or cut off by a kill
    key = json.dumps(metric).encode()
    with_metric = [line for line in lines if key in line]  # most lines need not be parsed
    try:
        records = json.loads(b"[" + b",".join(with_metric) + b"]")
    except json.JSONDecodeError:
        raise _damaged_line(path, lines) from None
    return {name: [r.get(name) for r in records] for name in dict.fromkeys(name for r in records for name in r)}


def read_sample(run: Run) -> str:
    """Return the beginning of the text that a run's model wrote after training; "" if it wrote none.

    A model of bytes writes anything: what is not text, such as a control character, becomes a replacement character.
    """
    if run.points is not None:
        return run.sample
    path = run.folder / SAMPLE
    if not path.is_file():
        return ""
    text = path.read_bytes()[: 4 * MOST_LETTERS].decode("utf-8", errors="replace").replace("\r\n", "\n")[:MOST_LETTERS]
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text).strip("\n")


def _damaged_line(path: Path, lines: list[bytes]) -> ConfigError:
    """Return an error that names the first line that is not JSON."""
    for number, line in enumerate(lines, start=1):
        try:
            json.loads(line)
        except json.JSONDecodeError as e:
            return ConfigError(f"{path}:{number}: not JSON ({e.msg}); delete the line or run again")
    return ConfigError(f"{path}: not JSON; run again")  # each line alone is JSON, but not the list, such as `1, 2`
