"""An experiment file: a question, what is known about it, and the arms and seeds that answer it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gptlab.config import ConfigError
from gptlab.config.overrides import expand_home
from gptlab.files import FileError, decode_utf8
from gptlab.sweeps.file_keys import as_typed, read_fraction, read_grid, read_published
from gptlab.sweeps.rungs import TUNE_AT, Rung, is_positive, read_isoflop, read_promoted, read_rungs
from gptlab.sweeps.seed_plan import SeedPlan, whole_numbers
from gptlab.sweeps.tuning_grid import AUTO

FIRST_TUNING_SEED = 1000  # for files that name none: far from the seeds that people count up from 0
KINDS_OF_ARMS = ("variants", "grid", "ladder", "knock_out")
ABOUT_RUNGS = ("tune_at", "promote", "target_flops")  # keys that need `rungs`
KEYS = (
    *("name", "literature", "published", "use", "base", *KINDS_OF_ARMS, "baseline", "fraction"),
    *("seeds", "tune", "tune_seeds", "metric", "margin", "multiplier"),
    *("rungs", "isoflop", *ABOUT_RUNGS),
)
MERGE = "tag:yaml.org,2002:merge"
IN_TEXT = 'in "<unicode string>", '  # how PyYAML calls the file, whose name the message begins with


@dataclass(frozen=True)
class Experiment:
    """The content of an experiment file. Overrides are written as on the command line."""

    name: str = ""
    text: str | None = None  # of the file, as written; None for arms that were given on the command line
    question: str | None = None  # the first line, a comment
    literature: str | None = None  # what others have found, with the source
    published: dict[str, str] = field(default_factory=dict)  # arm -> its difference from the baseline there, or a word
    use: list[str] = field(default_factory=list)  # files with the user's components, relative to the working folder
    base: list[str] = field(default_factory=list)  # overrides of all arms
    variants: dict[str, list[str]] = field(default_factory=dict)  # name -> overrides; the baseline comes first
    grid: list[str] = field(default_factory=list)  # overrides with several values: every combination is an arm
    fraction: float | None = None  # the share of the grid's arms to keep; None for all
    ladder: list[str] = field(default_factory=list)  # two configs: the arms add the second's components one by one
    knock_out: list[str] = field(default_factory=list)  # two configs: the arms are the second without one component
    seeds: SeedPlan = field(default_factory=SeedPlan)
    tune: dict[str, list[str]] = field(default_factory=dict)  # setting -> values to try, or AUTO alone
    tune_seeds: list[int] = field(default_factory=list)  # the seeds of the tuning, none of which is in `seeds`
    metric: str | None = None  # what `gptlab compare` judges; None for its default
    multiplier: bool = False  # whether the baseline also runs at half and twice its budget
    margin: str | None = None  # differences below it do not matter: 0.01, or a share of compute as 5%
    rungs: list[Rung] = field(default_factory=list)  # sizes with their budgets, from the smallest on
    tune_at: str = TUNE_AT[0]  # "each" rung, or the "first", whose values the others start from
    promote: list[str] = field(default_factory=list)  # words with which an arm goes on to the next rung; [] for all
    target_flops: float | None = None  # the compute to which `gptlab compare` projects the multipliers

    @property
    def notes(self) -> str | None:
        """The question and what others have found, as the notes of its runs; None without any."""
        return "\n\n".join(filter(None, [self.question, self.literature])) or None


class _TextLoader(yaml.SafeLoader):
    """YAML in which every value but null is text as written: names such as `on` or 010 and values such as 1e-3."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the name is PyYAML's
        first: [(tag, pattern) for tag, pattern in resolvers if tag in ("tag:yaml.org,2002:null", MERGE)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != MERGE]
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key.start_mark)
            if keys.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            if key.tag != MERGE:
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


def is_experiment(argument: str) -> bool:
    """Return whether an argument is the path of an experiment file, not an override."""
    return argument.endswith((".yaml", ".yml")) and ("=" not in argument or Path(argument).is_file())


def read_experiment(path: Path) -> Experiment:
    """Read an experiment file.

    Raises:
        ConfigError: there is no such file, it is not YAML, or a key has a value of the wrong form.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such experiment file")
    try:
        text = decode_utf8(path.read_bytes(), str(path))
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror}); give a file that can be read") from e
    except FileError as e:
        raise ConfigError(str(e)) from e
    tree = _parse(path, text)
    first_line = text.split("\n", 1)[0]
    variants = _baseline_first(path, tree.get("baseline"), tree)
    base = _overrides(path, "base", tree.get("base") or [])
    kind = next((key for key in KINDS_OF_ARMS if tree.get(key)), KINDS_OF_ARMS[0])
    return Experiment(
        name=_text(path, "name", tree.get("name")) or path.stem,
        text=text,
        question=first_line.lstrip("# ").strip() if first_line.startswith("#") else None,
        literature=_text(path, "literature", tree.get("literature")) or None,
        published=read_published(tree.get("published") or {}, str(path), list(variants)[1:], kind=kind),
        use=_use(path, tree.get("use") or []),
        base=base,
        variants=variants,
        grid=read_grid(tree.get("grid"), _place(path, "grid", tree.get("grid")), base),
        fraction=read_fraction(
            tree.get("fraction"), _place(path, "fraction", tree.get("fraction")), has_grid=kind == "grid"
        ),
        ladder=_two_configs(path, "ladder", tree.get("ladder")),
        knock_out=_two_configs(path, "knock_out", tree.get("knock_out")),
        seeds=SeedPlan.read(tree.get("seeds") or [], _place(path, "seeds", tree.get("seeds"))),
        tune=_tune(path, tree.get("tune") or {}),
        tune_seeds=whole_numbers(tree.get("tune_seeds") or [], _place(path, "tune_seeds", tree.get("tune_seeds"))),
        metric=_metric(path, tree.get("metric")),
        multiplier=_flag(path, "multiplier", tree.get("multiplier")),
        margin=_margin(path, tree.get("margin")),
        **_rungs(path, tree),
    )


def _parse(path: Path, text: str) -> dict[Any, Any]:
    try:
        tree = yaml.load(text, _TextLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise ConfigError(f"{path}: not readable as YAML ({' '.join(str(e).split()).replace(IN_TEXT, '')})") from e
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must be a mapping with keys among {', '.join(KEYS)}")
    if unknown := set(tree) - set(KEYS):
        raise ConfigError(f"{path}: no such key: {min(map(str, unknown))}; choose from {', '.join(KEYS)}")
    if len([key for key in KINDS_OF_ARMS if tree.get(key)]) > 1:
        raise ConfigError(f"{path}: has arms of several kinds; keep one of {', '.join(KINDS_OF_ARMS)}")
    if empty := next((key for key in KINDS_OF_ARMS if key in tree and not tree[key]), None):
        raise ConfigError(f"{_place(path, empty, tree[empty] or '')}: is empty; write the arms, or leave it out")
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
    return {name: _overrides(path, f"variants.{name}", overrides or []) for name, overrides in value.items()}


def _baseline_first(path: Path, baseline: Any, tree: dict[Any, Any]) -> dict[str, list[str]]:
    """Return the variants, the one that `baseline` names first: all that follows takes the first arm for it."""
    variants = _variants(path, tree.get("variants") or {})
    if baseline is None:
        return variants
    _text(path, "baseline", baseline)
    named = f"{path}: baseline={baseline}"
    if tree.get("ladder"):
        raise ConfigError(f"{named}: each arm of a ladder is compared with the one before it; leave baseline out")
    if tree.get("knock_out"):
        raise ConfigError(f"{named}: the baseline of a knock_out is its second config; leave baseline out")
    if tree.get("grid"):
        raise ConfigError(f"{named}: the baseline of a grid has the first of all values; write its values first")
    if not variants:
        raise ConfigError(f"{named}: names a variant, and there are none; write the baseline's values first in base")
    if baseline not in variants:
        raise ConfigError(f"{named}: no such variant; choose from {', '.join(variants)}")
    return {baseline: variants[baseline]} | variants


def _tune(path: Path, value: Any) -> dict[str, list[str]]:
    """The values of each setting as typed after its `=`."""
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: tune maps settings to values, such as {{optimizer.lr: {AUTO}}}")
    for key, values in value.items():
        if values == AUTO:
            continue
        if not isinstance(values, list) or len(values) < 2 or any(isinstance(v, list | dict) for v in values):
            raise ConfigError(f"{path}: tune.{key} is {AUTO}, or a list of values, such as [3e-4, 1e-3, 3e-3]")
    return {key: [AUTO] if values == AUTO else [as_typed(v) for v in values] for key, values in value.items()}


def _rungs(path: Path, tree: dict[Any, Any]) -> dict[str, Any]:
    """Return the rungs and the settings about them, as fields of an Experiment."""
    if tree.get("rungs") and tree.get("isoflop"):
        raise ConfigError(f"{path}: has rungs and isoflop, which are rungs too; keep one of them")
    rungs: list[Rung] = []
    for key, read in (("rungs", read_rungs), ("isoflop", read_isoflop)):
        if key in tree:
            rungs += read(tree[key], _place(path, key, tree[key]))
    if not rungs and (alone := next((key for key in ABOUT_RUNGS if tree.get(key)), None)):
        raise ConfigError(f"{path}: {alone} is about rungs, and there are none; add rungs or leave it out")
    if tree.get("isoflop") and tree.get("target_flops"):
        rule = "is for rungs that grow in compute, and isoflop compares sizes at one compute"
        raise ConfigError(f"{_place(path, 'target_flops', tree['target_flops'])}: {rule}; leave it out")
    tune_at = tree.get("tune_at") or TUNE_AT[0]
    if tune_at not in TUNE_AT:
        raise ConfigError(f"{_place(path, 'tune_at', tune_at)}: must be {' or '.join(TUNE_AT)}")
    if tree.get("promote") and tree.get("ladder"):
        rule = "an arm of a ladder is compared with the one before it, which could be left out"
        raise ConfigError(f"{_place(path, 'promote', tree['promote'])}: {rule}; leave promote or ladder out")
    promoted = read_promoted(tree.get("promote") or [], _place(path, "promote", tree.get("promote")))
    return {
        "rungs": rungs,
        "tune_at": tune_at,
        "promote": promoted,
        "target_flops": _target_flops(path, tree.get("target_flops")),
    }


def _target_flops(path: Path, value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, str) or not is_positive(value):
        raise ConfigError(f"{_place(path, 'target_flops', value)}: must be a number above 0")
    return float(value)


def _metric(path: Path, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{path}: metric={value}: must be a name, such as val/loss")
    return value


def _flag(path: Path, key: str, value: Any) -> bool:
    if value not in (None, "true", "false"):
        raise ConfigError(f"{path}: {key}={_shown(value)}: must be true or false")
    return bool(value == "true")


def _margin(path: Path, value: Any) -> str | None:
    """The margin as typed, checked as `gptlab compare` does; "5%" is a share of compute."""
    if value is None:
        return None
    text = str(value).strip()
    if not is_positive(text.removesuffix("%")):
        raise ConfigError(
            f"{path}: margin={text}: must be a number above 0 in the metric's unit, or a share such as 5%"
        )
    return text


def _two_configs(path: Path, key: str, value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(config, str) for config in value):
        raise ConfigError(f"{path}: {key} is a list of two configs, such as [preset=gpt2, preset=llama]")
    return value


def _place(path: Path, key: str, value: Any) -> str:
    return f"{path}: {key}={_shown(value)}"


def _text(path: Path, key: str, value: Any) -> str:
    if isinstance(value, list | dict):
        raise ConfigError(f"{path}: {key}={_shown(value)}: must be text")
    return " ".join(str(value or "").split())


def _use(path: Path, value: Any) -> list[str]:
    files = [value] if isinstance(value, str) else value
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise ConfigError(f"{path}: use={_shown(value)}: must be a file or a list of files, such as [a.py, b.py]")
    return [str(path.parent / expand_home(file)) for file in files]


def _shown(value: Any) -> str:
    """Return a value of a file as text: [0, a]."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_shown(item)}' for key, item in value.items())}}}"
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, list) else str(value)
