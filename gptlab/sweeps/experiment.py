"""An experiment's file: a question, what is known, and the arms and seeds that are to answer it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gptlab.config import ConfigError
from gptlab.config.compose import typed

FIRST_TUNING_SEED = 1000  # where a file names none: far from those that people count up from 0


@dataclass(frozen=True)
class Experiment:
    """What an experiment's file says. Overrides are written as on the command line."""

    name: str = ""
    question: str | None = None  # its first line
    literature: str | None = None  # what was found elsewhere, with its source
    use: list[str] = field(default_factory=list)  # component files, as paths from here
    base: list[str] = field(default_factory=list)  # overrides of all variants
    variants: dict[str, list[str]] = field(default_factory=dict)  # name -> its own overrides; the first is the baseline
    ladder: list[str] = field(default_factory=list)  # two configs, in place of variants: the rungs between them
    knock_out: list[str] = field(default_factory=list)  # likewise: the second without each of its components
    seeds: list[int] = field(default_factory=list)
    tune: dict[str, list[str]] = field(default_factory=dict)  # setting -> values of which each arm gets its best
    tune_seeds: list[int] = field(default_factory=list)  # on which it is chosen; none of them among `seeds`


KEYS = ("name", "literature", "use", "base", "variants", "ladder", "knock_out", "seeds", "tune", "tune_seeds")


def is_experiment(word: str) -> bool:
    return "=" not in word and word.endswith((".yaml", ".yml"))


def read_experiment(path: Path) -> Experiment:
    if not path.is_file():
        raise ConfigError(f"{path}: no such experiment file")
    text = path.read_text(encoding="utf-8")
    try:
        tree: Any = OmegaConf.to_container(OmegaConf.create(text))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as e:
        raise ConfigError(f"{path}: not readable as YAML ({' '.join(str(e).split())})") from e
    if not isinstance(tree, dict) or (unknown := set(tree) - set(KEYS)):
        said = f"has {min(map(str, unknown))!r}" if isinstance(tree, dict) else "is no mapping"
        raise ConfigError(f"{path}: {said}; an experiment has {', '.join(KEYS)}")
    if len([k for k in ("variants", "ladder", "knock_out") if tree.get(k)]) > 1:
        raise ConfigError(f"{path}: has arms of several kinds; keep one of variants, ladder, knock_out")
    use = tree.get("use") or []
    first_line = text.split("\n", 1)[0]
    return Experiment(
        name=str(tree.get("name") or path.stem),
        question=first_line.lstrip("# ").strip() if first_line.startswith("#") else None,
        literature=" ".join(str(tree["literature"]).split()) if tree.get("literature") else None,
        use=[str(path.parent / u) for u in ([use] if isinstance(use, str) else use)],
        base=_overrides(path, "base", tree.get("base") or []),
        variants=_mapping(path, "variants", "{rms: [norm=rmsnorm]}", tree, _overrides),
        ladder=_ends(path, "ladder", tree.get("ladder")),
        knock_out=_ends(path, "knock_out", tree.get("knock_out")),
        seeds=_seeds(path, "seeds", tree),
        tune=_mapping(path, "tune", "{optimizer.lr: [3e-4, 1e-3]}", tree, _values),
        tune_seeds=_seeds(path, "tune_seeds", tree),
    )


def _overrides(path: Path, place: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ConfigError(f"{path}: {place} is a list of overrides, such as [norm=rmsnorm, size=tiny]")
    if seed := next((v for v in value if v.startswith("seed=")), None):
        raise ConfigError(f"{path}: {place} has {seed}; all arms have the same seeds: write seeds: [0, 1, 2]")
    return value


def _mapping(
    path: Path, place: str, example: str, tree: dict[str, Any], read: Callable[[Path, str, Any], list[str]]
) -> dict[str, list[str]]:
    found = tree.get(place) or {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: {place} maps names to lists, such as {example}")
    return {str(k): read(path, f"{place}.{k}", v or []) for k, v in found.items()}


def _values(path: Path, place: str, value: Any) -> list[str]:
    """As they are typed after the setting's `=`."""
    if not isinstance(value, list) or len(value) < 2 or any(isinstance(v, list | dict) for v in value):
        raise ConfigError(f"{path}: {place} is a list of at least two values, such as [3e-4, 1e-3, 3e-3]")
    return [typed(v) for v in value]


def _ends(path: Path, place: str, value: Any) -> list[str]:
    if value is not None and (not isinstance(value, list) or len(value) != 2):
        raise ConfigError(f"{path}: {place} is a list of two configs, such as [preset=gpt2, preset=llama]")
    return [str(v) for v in value or []]


def _seeds(path: Path, place: str, tree: dict[str, Any]) -> list[int]:
    seeds = tree.get(place) or []
    if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds):
        raise ConfigError(f"{path}: {place}={seeds}: is a list of whole numbers, such as [0, 1, 2]")
    return seeds
