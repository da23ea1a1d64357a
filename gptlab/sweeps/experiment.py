"""An experiment file: a question, what is known about it, and the arms and seeds that answer it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gptlab.config import ConfigError
from gptlab.config.compose import typed

FIRST_TUNING_SEED = 1000  # for files that name none: far from the seeds that people count up from 0
KEYS = (
    "name",
    "literature",
    "use",
    "base",
    "variants",
    "ladder",
    "knock_out",
    "seeds",
    "tune",
    "tune_seeds",
    "metric",
    "margin",
)
KINDS_OF_ARMS = ("variants", "ladder", "knock_out")


@dataclass(frozen=True)
class Experiment:
    """The content of an experiment file. Overrides are written as on the command line."""

    name: str = ""
    question: str | None = None  # the first line, a comment
    literature: str | None = None  # what others have found, with the source
    use: list[str] = field(default_factory=list)  # files with the user's components, relative to the working folder
    base: list[str] = field(default_factory=list)  # overrides of all arms
    variants: dict[str, list[str]] = field(default_factory=dict)  # name -> overrides; the first is the baseline
    ladder: list[str] = field(default_factory=list)  # two configs: the arms add the second's components one by one
    knock_out: list[str] = field(default_factory=list)  # two configs: the arms are the second without one component
    seeds: list[int] = field(default_factory=list)
    tune: dict[str, list[str]] = field(default_factory=dict)  # setting -> values, of which each arm gets its best
    tune_seeds: list[int] = field(default_factory=list)  # the seeds of the tuning, none of which is in `seeds`
    metric: str | None = None  # what `gptlab compare` judges; None for its default
    margin: str | None = None  # differences below it do not matter: 0.01, or a share of compute as 5%


def is_experiment(argument: str) -> bool:
    """Return whether an argument is the path of an experiment file, not an override."""
    return "=" not in argument and argument.endswith((".yaml", ".yml"))


def read_experiment(path: Path) -> Experiment:
    """Read an experiment file.

    Raises:
        ConfigError: there is no such file, it is not YAML, or a key has a value of the wrong form.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such experiment file")
    text = path.read_text(encoding="utf-8")
    tree = _parse(path, text)
    use = tree.get("use") or []
    first_line = text.split("\n", 1)[0]
    return Experiment(
        name=str(tree.get("name") or path.stem),
        question=first_line.lstrip("# ").strip() if first_line.startswith("#") else None,
        literature=" ".join(str(tree["literature"]).split()) if tree.get("literature") else None,
        use=[str(path.parent / file) for file in ([use] if isinstance(use, str) else use)],
        base=_overrides(path, "base", tree.get("base") or []),
        variants=_variants(path, tree.get("variants") or {}),
        ladder=_two_configs(path, "ladder", tree.get("ladder")),
        knock_out=_two_configs(path, "knock_out", tree.get("knock_out")),
        seeds=_seeds(path, "seeds", tree.get("seeds") or []),
        tune=_tune(path, tree.get("tune") or {}),
        tune_seeds=_seeds(path, "tune_seeds", tree.get("tune_seeds") or []),
        metric=_text(path, "metric", tree.get("metric")),
        margin=_margin(path, tree.get("margin")),
    )


def _parse(path: Path, text: str) -> dict[Any, Any]:
    try:
        tree = OmegaConf.to_container(OmegaConf.create(text))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as e:
        raise ConfigError(f"{path}: not readable as YAML ({' '.join(str(e).split())})") from e
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must be a mapping with keys among {', '.join(KEYS)}")
    if unknown := set(tree) - set(KEYS):
        raise ConfigError(f"{path}: no such key: {min(map(str, unknown))}; choose from {', '.join(KEYS)}")
    if len([key for key in KINDS_OF_ARMS if tree.get(key)]) > 1:
        raise ConfigError(f"{path}: has arms of several kinds; keep one of {', '.join(KINDS_OF_ARMS)}")
    return tree


def _overrides(path: Path, key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ConfigError(f"{path}: {key} is a list of overrides, such as [norm=rmsnorm, size=tiny]")
    if seed := next((v for v in value if v.startswith("seed=")), None):
        raise ConfigError(f"{path}: {key} has {seed}; all arms have the same seeds: write seeds: [0, 1, 2]")
    return value


def _variants(path: Path, value: Any) -> dict[str, list[str]]:
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: variants maps names to lists, such as {{rms: [norm=rmsnorm]}}")
    return {str(name): _overrides(path, f"variants.{name}", overrides or []) for name, overrides in value.items()}


def _tune(path: Path, value: Any) -> dict[str, list[str]]:
    """The values of each setting as typed after its `=`."""
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: tune maps names to lists, such as {{optimizer.lr: [3e-4, 1e-3]}}")
    for key, values in value.items():
        if not isinstance(values, list) or len(values) < 2 or any(isinstance(v, list | dict) for v in values):
            raise ConfigError(f"{path}: tune.{key} is a list of at least two values, such as [3e-4, 1e-3, 3e-3]")
    return {str(key): [typed(v) for v in values] for key, values in value.items()}


def _text(path: Path, key: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{path}: {key}={value}: must be a name, such as val/loss")
    return value


def _margin(path: Path, value: Any) -> str | None:
    """The margin as typed, checked as `gptlab compare` does; "5%" is a share of compute."""
    if value is None:
        return None
    text = str(value).strip()
    try:
        valid = not isinstance(value, bool) and 0 < float(text.removesuffix("%")) < float("inf")
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(
            f"{path}: margin={text}: must be a number above 0 in the metric's unit, or a share such as 5%"
        )
    return text


def _two_configs(path: Path, key: str, value: Any) -> list[str]:
    if value is not None and (not isinstance(value, list) or len(value) != 2):
        raise ConfigError(f"{path}: {key} is a list of two configs, such as [preset=gpt2, preset=llama]")
    return [str(config) for config in value or []]


def _seeds(path: Path, key: str, value: Any) -> list[int]:
    if not isinstance(value, list) or not all(isinstance(seed, int) for seed in value):
        raise ConfigError(f"{path}: {key}={value}: must be a list of whole numbers, such as [0, 1, 2]")
    return value
