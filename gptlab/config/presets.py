"""What the files of conf/size say: the three numbers, or all in which a published model differs from its preset."""

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
    """What a preset or a size chooses: `override /ffn: relu` is {"ffn": "relu"}."""
    return {k.removeprefix("override /"): v for entry in _load(file).get("defaults", []) for k, v in entry.items()}


@functools.cache
def values(file: Path) -> dict[str, Any]:
    """All that a size sets: {"size.dim": 64, ...}, and a published one {"data.window": 2048, ...} besides."""
    tree = {k: v for k, v in _load(file).items() if k != "defaults"}
    return choices(file) | flatten(tree if "size" in tree else {"size": tree})


@functools.cache
def _numbers(file: Path) -> dict[str, Any]:
    return {k: v for k, v in values(file).items() if k.startswith("size.")}


@functools.cache
def preset_of(file: Path) -> str | None:
    """The preset that a published size belongs to, which its second line names."""
    found = re.search(r"^# preset=(\S+)", file.read_text(), re.MULTILINE)
    return found[1] if found else None


def misfit(file: Path, error: BaseException | None) -> str | None:
    """What is wrong if composing ended in `error` because the size sets a knob that the component has not."""
    if not isinstance(error, ConfigKeyError) or error.full_key not in values(file):
        return None
    component = getattr(error.object_type, "__name__", "its component")  # position=learned
    return f"size={file.stem}: sets {error.full_key}, which {component} has not; add preset={preset_of(file)}"


def best_fit(files: list[Path], here: dict[str, Any], found: dict[str, Any]) -> tuple[Path | None, dict[str, Any]]:
    """The size that a config, `here`, has, and its differences, `found`, with those of the size under its name.

    Of sizes with the same three numbers, the one that leaves the fewest other differences.
    """
    fitting = []
    for file in files:
        if _numbers(file).items() <= here.items():
            said = {k: v for k, v in values(file).items() if k in here}
            others = {k: v for k, v in found.items() if k not in said}
            others |= {k: here[k] for k, v in said.items() if here[k] != v}
            fitting.append((len(others), -len(said), file, others))
    if not fitting:
        return None, found
    *_, file, others = min(fitting)
    return file, {"size": file.stem} | others
