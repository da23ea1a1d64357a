"""The file that `--keep` writes: the runs of a comparison in one small JSON file that makes the same tables again.

It holds one JSON object with a run on each line: how the run ended, its final numbers, the part of its config that not
all runs share, and at most MOST_POINTS of its evaluations. What all runs share is stored once, at the top. Nothing in
the file tells whose machine the runs were made on: no host, no path outside of the checkout, no settings of W&B.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.analysis.samples import first_with_sample
from gptlab.compare.read.anonymise import shown_address, shown_command, shown_file, shown_folder
from gptlab.compare.read.rungs_file import RungsFile
from gptlab.compare.read.runs import AXES, BUDGET, TUNE, Run, read_points, read_sample
from gptlab.config import ConfigError
from gptlab.files import finite

ARCHIVE_FORMAT = "gptlab kept runs, 1"
RUNGS_FORMAT = "gptlab kept rungs, 1"
MOST_POINTS = 40  # evaluations kept of each run
NO_CURVES = (TUNE, BUDGET)  # phases of runs of which only the end is shown
ABOUT_ARMS = ("variants", "baseline", "arms", "against", "tune", "chosen", "judged_at", "matched", "budgets")
SWEEP_KEYS = ("question", "literature", "published", *ABOUT_ARMS, "planned")
MACHINE_KEYS = ("python", "packages", "cpu", "torch_threads", "gpus", "cuda", "device", "precision")
ENV_KEYS = (*MACHINE_KEYS, "data_hash", "tokenizer_hash", "components")
PRIVATE_KEYS = ("runs_dir", "wandb")  # keys of the config
RUN_PARTS = ("config", "summary", "env")
AXIS_KEYS = [axis.key for axis in AXES.values()]
MULTIPLE_OF = {"tokens": "step", "cost/flops": "tokens"}  # in older files a column can be a multiple of another


@dataclass(frozen=True)
class Archive:
    """The content of a file written by --keep."""

    runs: list[Run]
    sweep: dict[str, Any]  # the parts of sweep.yaml that a comparison needs
    repeats: int


def is_archive(path: str | Path) -> bool:
    """Return whether `path` is an existing file with the suffix .json."""
    return Path(path).suffix == ".json" and Path(path).is_file()


def archive_text(runs: Sequence[Run], sweep: Mapping[str, Any], comparison: Comparison) -> str:
    """Return the file's text for `runs` and the content of their sweep.yaml, enough to make `comparison` again."""
    parts = {part: [_part(run, part) for run in runs] for part in RUN_PARTS}
    common = {part: _common(values) for part, values in parts.items()}
    order = list(dict.fromkeys(key for config in parts["config"] for key in config))
    kept_sweep = {key: sweep[key] for key in SWEEP_KEYS if sweep.get(key)}
    if "variants" in kept_sweep:
        kept_sweep["variants"] = list(kept_sweep["variants"])
    if sweep.get("command"):
        kept_sweep["command"] = shown_command(sweep["command"])
    if sweep.get("experiment_file"):
        kept_sweep["experiment_file"] = shown_file(sweep["experiment_file"])
    first = {first_with_sample(result.arm.runs) for result in comparison.results}
    lines = [
        {
            "folder": shown_folder(run.folder),
            "state": run.state,
            "where": shown_address(run.status.get("wandb")),
            **{part: {k: v for k, v in parts[part][i].items() if k not in common[part]} for part in RUN_PARTS},
            "points": {} if run.phase in NO_CURVES else _points(run, comparison),
            **({"sample": read_sample(run)} if run in first else {}),
        }
        for i, run in enumerate(runs)
    ]
    tree = {
        "format": ARCHIVE_FORMAT,
        "repeats": comparison.repeats,
        "sweep": kept_sweep,
        "common": common | {"config_keys": order},  # arms are named in this order of their settings
        "runs": lines,
    }
    return "{\n" + ",\n".join(f" {_json(key)}: {_block(value)}" for key, value in tree.items()) + "\n}\n"


def rungs_text(file: RungsFile, texts: Mapping[str, str]) -> str:
    """Return the text of the file for an experiment with rungs, from that of the file for each rung."""
    tree = {"format": RUNGS_FORMAT, "rungs_file": asdict(file)}
    parts = [f" {_json(key)}: {_json(value)}" for key, value in tree.items()]
    kept = ",\n".join(f"{_json(name)}: {text.rstrip()}" for name, text in texts.items())
    return "{\n" + ",\n".join([*parts, f' "rungs": {{\n{kept}\n}}']) + "\n}\n"


def kept_rungs(path: Path) -> tuple[RungsFile, list[str]] | None:
    """Return the rungs of a file written by --keep, and the names of those with runs; None if it has no rungs."""
    if not is_archive(path):
        return None
    tree = _read(path)
    return (RungsFile.of(tree["rungs_file"]), list(tree["rungs"])) if tree["format"] == RUNGS_FORMAT else None


def read_archive(path: Path, rung: str | None = None) -> Archive:
    """Read a file written by --keep, or one of its rungs. Raises ConfigError for any other file."""
    tree = _read(path)
    if tree["format"] == RUNGS_FORMAT:
        if rung is None:
            raise ConfigError(f"compare {path}: has rungs, which are compared alone; name it alone")
        tree = tree["rungs"][rung]
    runs = []
    for line in tree["runs"]:
        unordered, summary, env = ({**tree["common"][part], **line[part]} for part in RUN_PARTS)
        keys = dict.fromkeys([*tree["common"].get("config_keys", []), *unordered])  # older files have no order
        config = {key: unordered[key] for key in keys if key in unordered}
        status = {"state": line["state"], "wandb": line["where"]}
        points, sample = _columns(line["points"]), line.get("sample", "")
        runs.append(Run(Path(line["folder"]), _nested(config), status, summary, env, points, sample))
    return Archive(runs, tree["sweep"], tree["repeats"])


def _read(path: Path) -> dict[str, Any]:
    try:
        tree: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ConfigError(f"compare {path}: not readable as JSON ({e}); write it again with --keep") from e
    if not isinstance(tree, dict) or tree.get("format") not in (ARCHIVE_FORMAT, RUNGS_FORMAT):
        raise ConfigError(f"compare {path}: is not a file that --keep wrote; name one, or folders of runs")
    return tree


def _part(run: Run, part: str) -> dict[str, Any]:
    """Return the config (flat), the summary or the environment of a run, without what must not be published."""
    if part == "config":
        return _flat({key: value for key, value in run.config.items() if key not in PRIVATE_KEYS})
    if part == "summary":
        return run.summary
    env = {key: run.env[key] for key in ENV_KEYS if key in run.env}
    git, start = run.env.get("git") or {}, run.env.get("init_from") or {}
    env |= {"init_from": {"sha256": start["sha256"]}} if "sha256" in start else {}
    return env | ({"git": {key: git[key] for key in ("commit", "dirty")}} if git else {})


def _common(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the items that all `parts` share."""
    first, *others = parts
    return {key: value for key, value in first.items() if all(key in o and o[key] == value for o in others)}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"norm": {"name": "rmsnorm"}} -> {"norm.name": "rmsnorm"}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"norm.name": "rmsnorm"} -> {"norm": {"name": "rmsnorm"}}."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *above, key = path.split(".")
        node = tree
        for name in above:
            node = node.setdefault(name, {})
        node[key] = value
    return tree


def _points(run: Run, comparison: Comparison) -> dict[str, Any]:
    """Return a selection of the run's evaluations, by column.

    A metric without a curve has its own rows too, since equal budgets are read there.
    """
    columns = _rows(run, comparison.curve_metric, comparison)
    if comparison.metric == comparison.curve_metric or not comparison.equal_budgets:
        return columns
    more = _rows(run, comparison.metric, comparison)
    length, n = len(columns.get("step", [])), len(more.get("step", []))
    keys = dict.fromkeys([*columns, *more])
    return {key: [*columns.get(key, [None] * length), *more.get(key, [None] * n)] for key in keys}


def _rows(run: Run, metric: str, comparison: Comparison) -> dict[str, Any]:
    """Return a selection of the points at which `metric` was logged, by column."""
    points = pd.DataFrame(read_points(run, metric))
    if metric not in points:
        return {}
    points = points[np.isfinite(points[metric].astype(float))].reset_index(drop=True)
    group = metric.partition("/")[0] + "/"
    repeated = points.notna().sum() >= min(2, len(points))  # the summary has what is measured only at the end
    metrics = [key for key in map(str, points) if key.startswith(group) and repeated[key] and len(points) > 1]
    rows = _selected_rows(points, comparison)
    columns = [*(key for key in AXIS_KEYS if key in points), *(metrics or [metric])]
    return {key: [_number(value) for value in points[key].iloc[rows]] for key in columns}


def _selected_rows(points: pd.DataFrame, comparison: Comparison) -> list[int]:
    """Return evenly spaced rows, with the first, the last, and those that an equal budget interpolates between."""
    if not len(points):
        return []
    last = len(points) - 1
    needed = {0, last}
    budgets = [(eq.axis, reading.budget) for eq in comparison.equal_budgets for reading in eq.readings.values()]
    for axis, budget in budgets:
        key = AXES[axis].key
        if key in points:
            after = int(np.searchsorted(points[key], budget))
            needed |= {min(max(row, 0), last) for row in (after - 1, after)}
    n = len(points) if len(points) <= MOST_POINTS else MOST_POINTS - 2 * len(AXES)  # leaves room for two per budget
    return sorted(needed.union(np.linspace(0, last, n).round().astype(int).tolist()))


def _columns(points: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the columns as lists. In older files, a number in place of a list is a multiple of another column."""
    columns: dict[str, list[Any]] = {}
    for key, values in points.items():
        is_list = isinstance(values, list)
        columns[key] = values if is_list else [values * other for other in columns[MULTIPLE_OF[key]]]
    return columns


def _number(value: Any) -> Any:
    """Return None for a number that is not finite, and an integer for one that is whole."""
    if value is None or not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(value)


def _block(value: Any) -> str:
    """Return JSON with each entry of the outermost dict or list on a line of its own."""
    if isinstance(value, dict):
        return "{\n" + ",\n".join(f"  {_json(key)}: {_json(item)}" for key, item in value.items()) + "\n }"
    if isinstance(value, list):
        return "[\n" + ",\n".join(f"  {_json(item)}" for item in value) + "\n ]"
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(finite(value), ensure_ascii=False)
