"""The components and settings that the files of conf/preset and conf/size choose."""

import functools
import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError

from gptlab.config import flatten


@functools.cache
def _load(file: Path) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(file))  # type: ignore[return-value]


def choices(file: Path) -> dict[str, str]:
    """Return the components that a preset or a size chooses: `override /ffn: relu` is {"ffn": "relu"}."""
    return {k.removeprefix("override /"): v for entry in _load(file).get("defaults", []) for k, v in entry.items()}


@functools.cache
def values(file: Path) -> dict[str, Any]:
    """Return all settings of a size: {"size.dim": 64, ...}, and data.window and others for a published one."""
    tree = {k: v for k, v in _load(file).items() if k != "defaults"}
    return choices(file) | flatten(tree if "size" in tree else {"size": tree})


def given(file: Path, key: str) -> Any:
    """Return the value that a preset's file gives a setting, or None."""
    return flatten(_load(file)).get(key)


@functools.cache
def _numbers(file: Path) -> dict[str, Any]:
    return {k: v for k, v in values(file).items() if k.startswith("size.")}


@functools.cache
def preset_of(file: Path) -> str | None:
    """Return the preset that a published size belongs to; the second line of its file names it."""
    match = re.search(r"^# preset=(\S+)", file.read_text(), re.MULTILINE)
    return match[1] if match else None


def misfit(file: Path, error: BaseException | None) -> str | None:
    """Return the reason if composing failed because a size sets something that the chosen component does not have."""
    if not isinstance(error, ConfigKeyError) or error.full_key not in values(file):
        return None
    component = getattr(error.object_type, "__name__", "its component")  # position=learned
    return f"size={file.stem}: sets {error.full_key}, which {component} does not have; add preset={preset_of(file)}"


def best_fit(files: list[Path], flat: dict[str, Any], diff: dict[str, Any]) -> tuple[Path | None, dict[str, Any]]:
    """Return the size that a config has, if any, and the config's diff in terms of it.

    If several sizes have the same three numbers, the one that leaves the fewest other differences is taken.

    Args:
        files: the sizes.
        flat: the config, flattened.
        diff: its differences from the baseline.
    """
    fitting = []
    for file in files:
        if _numbers(file).items() <= flat.items():
            implied = {k: v for k, v in values(file).items() if k in flat and not _of_another_component(k, file, diff)}
            others = {k: v for k, v in diff.items() if k not in implied}
            others |= {k: flat[k] for k, v in implied.items() if flat[k] != v}
            fitting.append((len(others), -len(implied), file, others))
    if not fitting:
        return None, diff
    *_, file, others = min(fitting)
    return file, {"size": file.stem} | others


def _of_another_component(key: str, file: Path, diff: dict[str, Any]) -> bool:
    """Return whether a size of no preset gives this setting to a component in whose slot another one was chosen."""
    slot = key.partition(".")[0]
    return preset_of(file) is None and key != slot and slot in diff
