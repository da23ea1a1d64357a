"""The cells of a sweep: every variant times every combination of the values given, seeds among them."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gptlab import registry
from gptlab.compose import files_in, quoted
from gptlab.config import SLOTS, ConfigError


@dataclass(frozen=True)
class Experiment:
    """What an experiment's file says. Overrides are written as on the command line."""

    name: str = ""
    question: str | None = None
    use: list[str] = field(default_factory=list)  # component files, as paths from here
    base: list[str] = field(default_factory=list)  # overrides of all variants
    variants: dict[str, list[str]] = field(default_factory=dict)  # name -> its own overrides; the first is the baseline
    seeds: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Sweep:
    name: str
    cells: list[list[str]]
    experiment: Experiment


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
    if not isinstance(tree, dict) or (unknown := set(tree) - {"name", "use", "base", "variants", "seeds"}):
        said = f"has {min(map(str, unknown))!r}" if isinstance(tree, dict) else "is no mapping"
        raise ConfigError(f"{path}: {said}; an experiment has name, use, base, variants, seeds")
    if not isinstance(tree.get("variants") or {}, dict):
        raise ConfigError(f"{path}: variants maps names to lists of overrides, such as {{rms: [norm=rmsnorm]}}")
    seeds = tree.get("seeds") or []
    if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds):
        raise ConfigError(f"{path}: seeds={seeds}: is a list of whole numbers, such as [0, 1, 2]")
    use = tree.get("use") or []
    first_line = text.split("\n", 1)[0]
    return Experiment(
        name=str(tree.get("name") or path.stem),
        question=first_line.lstrip("# ").strip() if first_line.startswith("#") else None,
        use=[str(path.parent / u) for u in ([use] if isinstance(use, str) else use)],
        base=_strings(path, "base", tree.get("base") or []),
        variants={str(k): _strings(path, f"variants.{k}", v or []) for k, v in (tree.get("variants") or {}).items()},
        seeds=seeds,
    )


def _strings(path: Path, place: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ConfigError(f"{path}: {place} is a list of overrides, such as [norm=rmsnorm, size=tiny]")
    return value


def plan_sweep(words: Sequence[str]) -> Sweep:
    """Cells of `[experiment.yaml] [key=value[,value...] ...]`; what stands on the command line has the last word."""
    files = [w for w in words if is_experiment(w)]
    overrides = [w for w in words if not is_experiment(w)]
    if len(files) > 1:
        raise ConfigError(f"{' '.join(files)}: one experiment at a time")
    experiment = read_experiment(Path(files[0])) if files else Experiment()
    given = {w.split("=", 1)[0] for w in overrides}
    shared = list(experiment.base)
    if experiment.use and "use" not in given:
        registry.load(experiment.use)
        shared.append(f"use=[{','.join(quoted(u) for u in experiment.use)}]")
    if any(key.startswith("budget.") for key in given):  # one budget: the command line's
        shared = [w for w in shared if not w.startswith("budget.")]
    seeds = [f"seed={','.join(map(str, experiment.seeds))}"] if experiment.seeds and "seed" not in given else []
    registry.load()
    name = _name(overrides, experiment)
    cells: list[list[str]] = []
    for variant, own in (experiment.variants or {"": []}).items():
        label = [f"variant={quoted(variant)}"] if variant else []
        for cell in expand([*shared, *own, *overrides, *seeds]):
            cells.append([*(w for w in cell if not w.startswith("name=")), f"name={quoted(name)}", *label])
    return Sweep(name, cells, experiment)


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """One list of overrides for each combination of values, in Hydra's grammar; the last key varies fastest."""
    parser = OverridesParser.create()
    alternatives: dict[str, list[str]] = {}  # a later override of a key replaces an earlier one
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:
            alternatives[text] = [text]  # load_config says what is wrong with it
            continue
        alternatives.pop(override.key_or_group, None)
        alternatives[override.key_or_group] = _values(override)
    return [list(combination) for combination in itertools.product(*alternatives.values())]


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line or ""]
    key = override.key_or_group
    glob = override.value()
    if isinstance(glob, Glob):
        return [f"{key}={n}" for n in glob.filter(registry.names(SLOTS[key]) if key in SLOTS else files_in(key))]
    if override.is_discrete_sweep():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    raise ConfigError(
        f"{override.input_line}: a grid takes lists, range() and glob(); an interval has no end of values"
    )


def _name(overrides: Sequence[str], experiment: Experiment) -> str:
    """As given, else the experiment's, else what varies and a hash of the command without its seeds."""
    given = [w.split("=", 1)[1].strip("'\"") for w in overrides if w.startswith("name=")]
    if given or experiment.name:
        return (given or [experiment.name])[-1]
    fixed = sorted(w for w in overrides if not w.startswith("seed="))
    keys = [w.split("=")[0].split(".")[-1] for w in overrides if len(expand([w])) > 1 and not w.startswith("seed=")]
    return f"{'-'.join(keys) or 'seeds'}-{hashlib.sha256(' '.join(fixed).encode()).hexdigest()[:6]}"
