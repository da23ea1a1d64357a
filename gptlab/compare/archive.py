"""`--keep`: what a comparison was made from, in one small file that makes it again.

One JSON object, a run on each line: how it ended, its final numbers, what its config has of its own, and at most POINTS
of its evaluations. Those that a reading interpolates between are exact, so every table comes out the same; the others
are only drawn and have six digits. What all runs have in common stands once, at the top. Nothing says on whose machine
they ran: no host, no path outside of the checkout, nothing of W&B's settings.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.read.anonymise import shown_address, shown_command, shown_folder
from gptlab.compare.read.runs import AXES, Run, read_points
from gptlab.config import ConfigError

FORMAT = "gptlab kept runs, 1"
POINTS = 40
DIGITS = 6  # significant, of a point that is only drawn
OF_SWEEP = ("question", "literature", "variants", "baseline", "against", "tune", "matched")
OF_ENV = ("python", "packages", "cpu", "torch_threads", "gpus", "cuda", "device", "precision")
PRIVATE = ("runs_dir", "wandb")  # of the config
AXIS_KEYS = [axis.key for axis in AXES.values()]
PARTS = ("config", "summary", "env")
PER = {"tokens": "step", "cost/flops": "tokens"}  # columns that mostly are another times a number


@dataclass(frozen=True)
class Archive:
    runs: list[Run]
    sweep: dict[str, Any]  # as much of sweep.yaml as a comparison needs
    repeats: int


def is_archive(path: str | Path) -> bool:
    return Path(path).suffix == ".json" and Path(path).is_file()


def archive_text(runs: Sequence[Run], sweep: Mapping[str, Any], comparison: Comparison) -> str:
    """`runs` and what their sweep.yaml says, as far as it takes to make the `comparison` again."""
    parts = {part: [_part(run, part) for run in runs] for part in PARTS}
    common = {part: _common(own) for part, own in parts.items()}
    said = {key: sweep[key] for key in OF_SWEEP if sweep.get(key)}
    if "variants" in said:
        said["variants"] = list(said["variants"])
    if sweep.get("command"):
        said["command"] = shown_command(sweep["command"])
    lines = [
        {
            "folder": shown_folder(run.folder),
            "state": run.state,
            "where": shown_address(run.status.get("wandb")),
            **{part: {k: v for k, v in parts[part][i].items() if k not in common[part]} for part in PARTS},
            "points": _points(run, comparison),
        }
        for i, run in enumerate(runs)
    ]
    tree = {"format": FORMAT, "repeats": comparison.repeats, "sweep": said, "common": common, "runs": lines}
    return "{\n" + ",\n".join(f" {_json(key)}: {_block(value)}" for key, value in tree.items()) + "\n}\n"


def read_archive(path: Path) -> Archive:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ConfigError(f"compare {path}: not readable as JSON ({e}); write it again with --keep") from e
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise ConfigError(f"compare {path}: is not a file that --keep wrote; name one, or folders of runs")
    runs = []
    for line in tree["runs"]:
        config, summary, env = ({**tree["common"][part], **line[part]} for part in PARTS)
        status = {"state": line["state"], "wandb": line["where"]}
        runs.append(Run(Path(line["folder"]), _nested(config), status, summary, env, _unpacked(line["points"])))
    return Archive(runs, tree["sweep"], tree["repeats"])


def _part(run: Run, part: str) -> dict[str, Any]:
    if part == "config":
        return _flat({key: value for key, value in run.config.items() if key not in PRIVATE})
    if part == "summary":
        return run.summary
    env = {key: run.env[key] for key in OF_ENV if key in run.env}
    git = run.env.get("git") or {}
    return env | ({"git": {key: git[key] for key in ("commit", "dirty")}} if git else {})


def _common(own: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = own
    return {key: value for key, value in first.items() if all(key in o and o[key] == value for o in others)}


def _flat(tree: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """{"norm": {"name": "rmsnorm"}} -> {"norm.name": "rmsnorm"}"""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{at}{key}.")
        else:
            flat[f"{at}{key}"] = value
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for place, value in flat.items():
        *above, key = place.split(".")
        node = tree
        for name in above:
            node = node.setdefault(name, {})
        node[key] = value
    return tree


def _points(run: Run, comparison: Comparison) -> dict[str, Any]:
    """Its evaluations, thinned, by column."""
    metric = comparison.curve_metric
    points = pd.DataFrame(read_points(run, metric))
    if metric not in points:
        return {}
    points = points[np.isfinite(points[metric].astype(float))].reset_index(drop=True)
    group = metric.partition("/")[0] + "/"
    often = points.notna().sum() >= min(2, len(points))  # what is measured at the end alone is in the summary
    others = [key for key in map(str, points) if key.startswith(group) and often[key]]
    points = points[[*(axis.key for axis in AXES.values() if axis.key in points), *others]]
    rows, exact = _chosen(points, comparison)
    columns = {key: [_number(value) for value in points[key].iloc[rows]] for key in map(str, points)}
    packed: dict[str, Any] = {}
    for key, values in columns.items():
        if factor := _factor(values, columns.get(PER.get(key, ""))):
            packed[key] = factor
        elif key in AXIS_KEYS and key != "seconds":
            packed[key] = values
        else:
            packed[key] = [v if row in exact else _rounded(v) for row, v in zip(rows, values, strict=True)]
    return packed


def _chosen(points: pd.DataFrame, comparison: Comparison) -> tuple[list[int], set[int]]:
    """The rows to keep, and which of them to keep exactly: the first, the last, and those next to a reading."""
    last = len(points) - 1
    exact = {0, last} if len(points) else set()
    for reading in comparison.equal_budgets:
        axis = AXES[reading.axis].key
        if axis in points and len(points):
            after = int(np.searchsorted(points[axis], reading.budget))
            exact |= {min(max(row, 0), last) for row in (after - 1, after)}
    n = len(points) if len(points) <= POINTS else POINTS - 2 * len(AXES)  # room for two at each reading
    return sorted(exact.union(np.linspace(0, last, n).round().astype(int).tolist())), exact


def _unpacked(packed: Mapping[str, Any]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for key, values in packed.items():
        columns[key] = values if isinstance(values, list) else [values * other for other in columns[PER[key]]]
    return columns


def _factor(values: Sequence[Any], others: Sequence[Any] | None) -> Any:
    """The number that all `values` are so many times the others; None if there is none."""
    if not others or not others[0] or None in values or None in others:
        return None
    factor = _number(values[0] / others[0])
    return factor if all(factor * other == value for value, other in zip(values, others, strict=True)) else None


def _number(value: Any) -> Any:
    """As JSON has it: null for what is not finite, an integer where it is one."""
    if value is None or not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(value)


def _rounded(value: Any) -> Any:
    return value if value is None else _number(float(f"{value:.{DIGITS}g}"))


def _block(value: Any) -> str:
    """With each entry on a line of its own."""
    if isinstance(value, dict):
        return "{\n" + ",\n".join(f"  {_json(key)}: {_json(own)}" for key, own in value.items()) + "\n }"
    if isinstance(value, list):
        return "[\n" + ",\n".join(f"  {_json(own)}" for own in value) + "\n ]"
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(_finite(value), ensure_ascii=False)


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
