"""Overrides -> one complete, checked config."""

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, BooleanNode, DictConfig, FloatNode, IntegerNode, OmegaConf, StringNode, open_dict
from omegaconf.errors import OmegaConfBaseException

from gptlab.config import (
    COMMON,
    CONF,
    GROUPS,
    SLOTS,
    AnyConfig,
    Budget,
    Config,
    ConfigError,
    Settings,
    did_you_mean,
    flatten,
    plain,
    presets,
    registry,
)
from gptlab.config.validate import check

C = TypeVar("C", DictConfig, Settings)
KINDS_OF_VALUE = {IntegerNode: "an int", FloatNode: "a number", BooleanNode: "true or false", StringNode: "text"}

ConfigStore.instance().store(name="schema", node=Config)


def load_config(overrides: Iterable[str] = ()) -> DictConfig:
    """The baseline with `overrides` (`norm=rmsnorm`, `train.batch_size=8`) as a complete config.

    Raises ConfigError, one line, for whatever does not exist, does not fit its type or is out of range.
    """
    start, values = _begin(overrides)
    cfg = start.cfg.copy()
    if _sets_budget(values):
        cfg.budget = Budget()
    for override in values:
        _set(cfg, override)
    check(cfg)
    if cfg.model.vocab_size is None:
        cfg.model.vocab_size = fixed_vocab_size(cfg)
    return cfg


def load_settings(overrides: Iterable[str] = ()) -> Settings:
    """load_config as plain data. Of thousands that set the same keys, each takes a tenth of a millisecond or two."""
    start, values = _begin(overrides)
    cfg = start.settings
    if _sets_budget(values):
        cfg = cfg.edited("budget", Settings(vars(Budget())))
    for override in values:
        cfg = cfg.edited(*start.read(override))
    check(cfg)
    if cfg.model.vocab_size is None:
        cfg = cfg.edited("model.vocab_size", fixed_vocab_size(cfg))
    return cfg


def _begin(overrides: Iterable[str]) -> tuple["_Start", list[Override]]:
    """What the overrides that choose by name come to, and the others: these are applied in order, after all choices."""
    parsed = parse(overrides)
    registry.load(find_use(parsed))
    chosen = {o.key_or_group: o.value() for o in parsed if _is_group(o)}  # the last choice for a slot holds
    preset, size = (str(chosen[k]) if chosen.get(k) else None for k in ("preset", "size"))
    slots = [(slot, str(chosen[slot])) for slot in SLOTS if slot in chosen]
    start = _start(preset, size, tuple((slot, name, registry.entry(slot, name).schema) for slot, name in slots))
    return start, [o for o in parsed if o.key_or_group not in GROUPS]


def _sets_budget(values: Sequence[Override]) -> bool:
    """Whether the budget of the preset or the baseline is replaced."""
    return any(o.key_or_group.startswith("budget.") for o in values)


class _Start:
    """A config with its components chosen: what many have in common. Nobody changes it."""

    def __init__(self, cfg: DictConfig):
        self.cfg, self.settings = cfg, Settings.of(plain(cfg))
        self._scratch = cfg.copy()
        self._read: dict[str, tuple[str, Any]] = {}

    def read(self, override: Override) -> tuple[str, Any]:
        """Where an override leads, and its value in the type that this place has."""
        text = override.input_line or ""
        if text not in self._read:
            place = _set(self._scratch, override)
            value = OmegaConf.select(self._scratch, place)
            if OmegaConf.is_config(value):  # unlike a value, a list has its part in what can be set there next
                value, self._scratch = OmegaConf.to_container(value), self.cfg.copy()
            self._read[text] = place, value
        return self._read[text]


@functools.lru_cache(maxsize=512)  # a fifth of a MB each
def _start(preset: str | None, size: str | None, components: tuple[tuple[str, str, type], ...]) -> _Start:
    """`components` are slots, names and schemas; a name alone may mean another component after another `use`."""
    cfg = _compose_files(preset, size).copy()
    for slot_name, name, schema in components:
        _choose(cfg, slot_name, name, schema)
    return _Start(cfg)


def fixed_vocab_size(cfg: AnyConfig) -> int | None:
    """Tokens in the vocabulary where a task, or else the tokenizer alone fixes it, without a look at the text."""
    if getattr(registry.entry("data", cfg.data.name).cls, "makes_tokens", False):
        return registry.build("data", cfg.data).vocab_size
    tokenizer = registry.build("tokenizer", cfg.tokenizer)
    return tokenizer.fixed_vocab_size


def parse(overrides: Iterable[str]) -> list[Override]:
    return [_parse_one(text) for text in overrides]


@functools.lru_cache(maxsize=2**16)  # the cells of a sweep have most of their words in common
def _parse_one(text: str) -> Override:
    key, equals, value = text.partition("=")
    if key.startswith("~"):
        raise ConfigError(f"{text}: nothing can be deleted; a component is switched off by none, a value by null")
    if key.split(".")[0].split("/")[0] in ("hydra", "sweep"):
        raise ConfigError(f"{text}: is said to `gptlab sweep` on its command line; it is no setting of a run")
    if not equals or not key or "@" in key:
        raise ConfigError(f"{text}: not a setting; write key=value, such as norm=rmsnorm")
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as e:
        reason = str(e).splitlines()[0]
        raise ConfigError(f"{text}: not readable ({reason}); quote the value twice: \"{key}='{value}'\"") from e


def find_use(parsed: Sequence[Override]) -> list[str]:
    """The user's files named by use=..., which must be imported before anything is composed."""
    given = [o for o in parsed if o.key_or_group == "use"]
    use = given[-1].value() if given else None
    files = [] if use is None else [use] if isinstance(use, str) else use
    if not isinstance(files, list) or not all(isinstance(f, str) for f in files):
        raise ConfigError(f"{given[-1].input_line}: must be a file or a list of files, such as use=[a.py,b.py]")
    return files


def _is_group(override: Override) -> bool:
    """Whether it chooses by name (norm=rmsnorm); checks the choice."""
    key, value = override.key_or_group, override.value()
    if key not in GROUPS:
        return False
    _refuse_extras(override)
    if key in SLOTS:
        there = registry.has(key, value)
    else:
        there = value in files_in(key) or (key == "preset" and value is None)
    if not there:
        options = registry.names(SLOTS[key]) if key in SLOTS else files_in(key)
        hint = did_you_mean(str(value), options)
        raise ConfigError(f"{override.input_line}: no such option{hint}; choose from {', '.join(options)}")
    return True


def _refuse_extras(override: Override) -> None:
    """What Hydra's grammar has beside key=value."""
    text = override.input_line or ""
    if override.is_sweep_override():
        raise ConfigError(f"{text}: several values; `gptlab sweep` runs them all")
    if text.startswith("+"):
        raise ConfigError(f"{text}: nothing can be added; write {text.lstrip('+')}")


def files_in(group: str) -> list[str]:
    return list(files_of(group))


def files_of(group: str) -> dict[str, Path]:
    """The presets, or the sizes, by name."""
    return _files(CONF / group)


@functools.cache
def _files(folder: Path) -> dict[str, Path]:
    return {p.stem: p for p in sorted(folder.glob("*.yaml"), key=lambda p: p.stem)}


@functools.cache
def _compose_files(preset: str | None, size: str | None) -> DictConfig:
    """The baseline, a preset over it and a size over both, with Hydra's own rules of precedence.

    A preset's own size is named to Hydra: it would refuse `override` of a group that is composed after the preset.
    """
    if preset:
        size = size or presets.choices(_file("preset", preset)).get("size")
    GlobalHydra.instance().clear()  # inside a launcher's job there is one, which has done its part
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", [f"{k}={v}" for k, v in (("preset", preset), ("size", size)) if v])
    except (HydraException, OmegaConfBaseException) as e:
        why = presets.misfit(_file("size", size), e.__context__) if size else None
        raise ConfigError(why or " ".join(f"{e}: {e.__cause__ or ''}".split())) from e


def _file(group: str, name: str) -> Path:
    return CONF / group / f"{name}.yaml"


def _choose(cfg: DictConfig, slot_name: str, name: str, schema: type) -> None:
    """Another component than the preset's comes with its own defaults: the preset's values were for its own choice.

    Settings that the slot has whatever is chosen stay, such as data.window.
    """
    if cfg[slot_name].name == name:
        return
    common = COMMON.get(SLOTS[slot_name])
    kept = {f.name: cfg[slot_name][f.name] for f in fields(common)} if common else {}
    cfg[slot_name] = OmegaConf.structured(schema(**kept))


def _set(cfg: DictConfig, override: Override) -> str:
    """Returns where, which for a component's own `name` is not what was written."""
    key, value, text = override.key_or_group, override.value(), override.input_line or ""
    *path, last = key.split(".")
    parent: Any = cfg
    node: Any = cfg
    for i, part in enumerate([*path, last]):
        if not isinstance(node, DictConfig) or part not in node:
            raise ConfigError(f"{text}: {_no_such(cfg, node, path[:i], part)}")
        parent, node = node, node._get_node(part)
    _refuse_extras(override)
    if last == "name" and path and path[0] in SLOTS:
        alias = getattr(registry.entry(path[0], parent.name).cls, "name_means", None)
        if alias is None:
            raise ConfigError(f"{text}: a component is chosen by its slot; write {text.replace('.name', '', 1)}")
        last = alias
    if isinstance(node, DictConfig):
        raise ConfigError(f"{text}: is a section; set one of {', '.join(f'{key}.{k!s}' for k in node)}")
    if isinstance(node, IntegerNode) and isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e4
    if isinstance(value, str) and ("${" in value or value == MISSING):
        raise ConfigError(f"{text}: stands for another value; write the value itself")
    try:
        parent[last] = value
    except OmegaConfBaseException as e:
        raise ConfigError(f"{text}: {_expected(node) or str(e).splitlines()[0]}") from e
    return ".".join([*path, last])


def _expected(node: Any) -> str:
    """`must be an int or null`; empty for a list."""
    kind = KINDS_OF_VALUE.get(type(node))
    return f"must be {kind}{' or null' if node._is_optional() else ''}" if kind else ""


def _no_such(cfg: DictConfig, node: Any, path: list[str], part: str) -> str:
    """Why `part` is not in `node`, and where it may be meant to be."""
    at = ".".join(path)
    if not isinstance(node, DictConfig):
        return f"{at} is a value and has no settings of its own; write {at}=VALUE"
    known = [str(k) for k in node if k != "name" or not path]
    hint = did_you_mean(part, [".".join([*path, k]) for k in known]) or did_you_mean(part, flatten(plain(cfg)))
    if not path:
        return f"no such setting{hint}; `gptlab list` has them all"
    if at not in SLOTS:
        return f"{at} has no setting {part!r}{hint}; it has {', '.join(known)}"
    owners = [f"{at}={e.name}" for e in registry.entries(SLOTS[at]) if part in {f.name for f in e.knobs}]
    if owners:
        return f"{at}={node.name} has no setting {part!r}; it is one of {', '.join(owners)}"
    has = f"it has {', '.join(known)}" if known else "it has none"
    return f"{at}={node.name} has no setting {part!r}{hint}; {has}"


def typed(value: Any) -> str:
    """A value as it is typed after key=: null, true, 3e-4, text, quoted where Hydra's grammar needs it."""
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    return text if not isinstance(value, str) or re.fullmatch(r"[A-Za-z_][\w./-]*", text) else quoted(text)


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def edit(cfg: C, **values: Any) -> C:
    """A copy of `cfg` with top-level or dotted `values` (written a__b) replaced."""
    places = {key.replace("__", "."): value for key, value in values.items()}
    if isinstance(cfg, Settings):
        for place, value in places.items():
            cfg = cfg.edited(place, value)
        return cfg
    copy = cfg.copy()
    with open_dict(copy):
        for place, value in places.items():
            OmegaConf.update(copy, place, value)
    return copy
