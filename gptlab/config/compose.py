"""Overrides -> one complete, validated config. Hydra and OmegaConf are used here and nowhere after this."""

import copy
import functools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import (
    MISSING,
    AnyNode,
    BooleanNode,
    DictConfig,
    FloatNode,
    IntegerNode,
    ListConfig,
    OmegaConf,
    StringNode,
)
from omegaconf.errors import OmegaConfBaseException

from gptlab.config import (
    COMMON,
    CONF,
    GROUPS,
    SLOTS,
    BudgetSection,
    Config,
    ConfigError,
    Settings,
    as_settings,
    did_you_mean,
    flatten,
    plain,
    presets,
    registry,
)
from gptlab.config.foreign_names import options_for, setting_for
from gptlab.config.overrides import PATHS, expand_home, parse, text_of, value_as_typed
from gptlab.config.validate import validate

LARGEST_INT = 2**63 - 1  # in torch and in numpy
KINDS_OF_VALUE = {IntegerNode: "an int", FloatNode: "a number", BooleanNode: "true or false", StringNode: "text"}

ConfigStore.instance().store(name="schema", node=Config)


def load_config(overrides: Iterable[str] = ()) -> Settings:
    """Return the baseline with `overrides` (`norm=rmsnorm`, `train.batch_size=8`) as a complete config.

    Overrides that choose by name (a component, a preset, a size) come first; the others are applied in their order.

    Raises:
        ConfigError: one line about the first override that does not exist, has the wrong type or is out of range.
    """
    parsed = parse(overrides)
    registry.load(find_use(parsed))
    chosen = {o.key_or_group: text_of(o) for o in parsed if _is_choice(o)}  # the last one for a slot counts
    preset, size = (str(chosen[k]) if chosen.get(k) else None for k in ("preset", "size"))
    slots = [(slot, str(chosen[slot])) for slot in SLOTS if slot in chosen]
    template = _template(preset, size, tuple((slot, name, registry.entry(slot, name).schema) for slot, name in slots))
    values = [o for o in parsed if o.key_or_group not in GROUPS]
    cfg = template.settings
    for slot in SLOTS:
        registry.check_protocol(registry.entry(slot, cfg[slot].name))
    if any(
        o.key_or_group.startswith("budget.") for o in values
    ):  # it replaces the budget of the preset or the baseline
        cfg = cfg.edited("budget", Settings(vars(BudgetSection())))
    for override in values:
        cfg = cfg.edited(*template.read(override))
    validate(cfg)
    if cfg.model.vocab_size is None:
        cfg = cfg.edited("model.vocab_size", fixed_vocab_size(cfg))
    return cfg


class _Template:
    """A config with its components chosen, which gives overrides their types. It is never changed."""

    def __init__(self, cfg: DictConfig):
        self._cfg = cfg
        self.settings = as_settings(cfg)
        self._read: dict[str, tuple[str, Any]] = {}

    def read(self, override: Override) -> tuple[str, Any]:
        """Return the key that an override sets and its value in the type of that setting."""
        text = override.input_line or ""
        if text not in self._read:  # the cells of a sweep have most overrides in common
            self._read[text] = _read_value(self._cfg, override)
        key, value = self._read[text]
        return key, list(value) if isinstance(value, list) else value


@functools.lru_cache(maxsize=512)  # each takes 0.2 MB
def _template(preset: str | None, size: str | None, components: tuple[tuple[str, str, type], ...]) -> _Template:
    """Compose the config of some components, given as (slot, name, schema).

    The schema is part of the key, since a name may mean a different component after a different `use`.
    """
    cfg = _compose_files(preset, size).copy()
    for slot_name, name, schema in components:
        _choose(cfg, slot_name, name, schema)
    return _Template(cfg)


def fixed_vocab_size(cfg: Settings) -> int | None:
    """Return the vocabulary's size if the task or the tokenizer's settings fix it, else None."""
    if getattr(registry.entry("data", cfg.data.name).cls, "makes_tokens", False):
        return registry.build("data", cfg.data).vocab_size
    return registry.build("tokenizer", cfg.tokenizer).fixed_vocab_size


def find_use(parsed: Sequence[Override]) -> list[str]:
    """Return the files named by use=...; they must be imported before anything is composed."""
    given = [o for o in parsed if o.key_or_group == "use"]
    use = text_of(given[-1]) if given else None
    files = [] if use is None else [use] if isinstance(use, str) else use
    if not isinstance(files, list) or not all(isinstance(f, str) for f in files):
        raise ConfigError(f"{given[-1].input_line}: must be a file or a list of files, such as use=[a.py,b.py]")
    return [expand_home(file) for file in files]


def _is_choice(override: Override) -> bool:
    """Return whether an override chooses by name (norm=rmsnorm). Raises ConfigError if there is no such option."""
    group, value = override.key_or_group, text_of(override)
    if group not in GROUPS:
        return False
    _refuse_extras(override)
    options = registry.names(SLOTS[group]) if group in SLOTS else files_in(group)
    if value not in options and not (group == "preset" and value is None):
        matches = options_for(group, str(value), options)
        hint = f" (in gptlab: {', '.join(f'{group}={m}' for m in matches)})" if matches else ""
        hint = hint or did_you_mean(str(value), options)
        raise ConfigError(f"{override.input_line}: no such option{hint}; choose from {', '.join(options)}")
    return True


def _refuse_extras(override: Override) -> None:
    """Reject what Hydra's grammar allows besides key=value."""
    text = override.input_line or ""
    if override.is_sweep_override():
        raise ConfigError(f"{text}: several values; `gptlab sweep` runs them all")
    if text.startswith("+"):
        raise ConfigError(f"{text}: nothing can be added; write {text.lstrip('+')}")


def files_in(group: str) -> list[str]:
    """Return the names of the presets, or of the sizes."""
    return list(files_of(group))


def files_of(group: str) -> dict[str, Path]:
    """Return the files of the presets, or of the sizes, by name."""
    return _files(CONF / group)


@functools.cache
def _files(folder: Path) -> dict[str, Path]:
    return {p.stem: p for p in sorted(folder.glob("*.yaml"), key=lambda p: p.stem)}


@functools.cache
def _compose_files(preset: str | None, size: str | None) -> DictConfig:
    """Compose the baseline, a preset over it and a size over both, with Hydra's own rules of precedence.

    A preset's own size is passed to Hydra by name: Hydra rejects `override` of a group that comes after the preset.
    """
    if preset:
        size = size or presets.choices(files_of("preset")[preset]).get("size")
    GlobalHydra.instance().clear()  # in a launcher's job it is set, but no longer needed
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", [f"{k}={v}" for k, v in (("preset", preset), ("size", size)) if v])
    except (HydraException, OmegaConfBaseException) as e:
        reason = presets.misfit(files_of("size")[size], e.__context__) if size else None
        raise ConfigError(reason or " ".join(f"{e}: {e.__cause__ or ''}".split())) from e
    if preset and size and presets.preset_of(files_of("size")[size]) is None:
        _keep_learning_rate(cfg, files_of("preset")[preset])
    return cfg


def _keep_learning_rate(cfg: DictConfig, preset: Path) -> None:
    """Restore the preset's learning rate; that of a size was measured with AdamW, for presets that have none."""
    own = presets.given(preset, "optimizer.lr")
    if own is None and "optimizer" in presets.choices(preset):
        own = registry.entry("optimizer", cfg.optimizer.name).schema().lr
    if own is not None:
        cfg.optimizer.lr = own


def _choose(cfg: DictConfig, slot_name: str, name: str, schema: type) -> None:
    """Replace the preset's component in a slot by a different one, with its own defaults.

    The preset's values were meant for the preset's component. Settings that all components of
    the slot have, such as data.window, stay.
    """
    if cfg[slot_name].name == name:
        return
    common = COMMON.get(SLOTS[slot_name])
    shared = {f.name: cfg[slot_name][f.name] for f in fields(common)} if common else {}
    cfg[slot_name] = OmegaConf.structured(schema(**shared))


def _read_value(cfg: DictConfig, override: Override) -> tuple[str, Any]:
    """Return the key that an override sets in `cfg` and its value, converted to the type of that setting."""
    key, value, text = override.key_or_group, override.value(), override.input_line or ""
    *path, last = key.split(".")
    parent, node = _find(cfg, override)
    _refuse_extras(override)
    if last == "name" and path and path[0] in SLOTS:
        alias = getattr(registry.entry(path[0], parent.name).cls, "name_means", None)
        if alias is None:
            raise ConfigError(f"{text}: a component is chosen by its slot; write {text.replace('.name', '', 1)}")
        last, node = alias, parent._get_node(alias)
    if isinstance(node, DictConfig):
        raise ConfigError(f"{text}: is a section; set one of {', '.join(f'{key}.{k!s}' for k in node)}")
    if isinstance(node, IntegerNode) and isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e4
    if isinstance(node, StringNode | AnyNode):
        value = text_of(override)
    for part in value if isinstance(value, list) else [value]:
        _check_value(node, part, text)
    try:
        value = _convert(node, value)
    except OmegaConfBaseException as e:
        raise ConfigError(f"{text}: {_expected(node) or str(e).splitlines()[0]}") from e
    if key in PATHS:
        value = [expand_home(file) for file in value] if isinstance(value, list) else value and expand_home(value)
    return ".".join([*path, last]), value


def _check_value(node: Any, value: Any, text: str) -> None:
    """Reject numbers and texts that no setting can hold; `text` is the override."""
    largest = sys.float_info.max if isinstance(node, FloatNode) else LARGEST_INT
    if isinstance(value, int) and abs(value) > largest:
        raise ConfigError(f"{text}: must be at most {largest:.4g}; a number of 64 bits holds no more")
    if isinstance(value, str) and ("${" in value or value == MISSING):
        raise ConfigError(f"{text}: stands for another value; write the value itself")
    if value == "":
        raise ConfigError(f"{text}: must not be empty; null means none where a setting allows it")


def _find(cfg: DictConfig, override: Override) -> tuple[Any, Any]:
    """Return the node that an override names, after its parent."""
    parts = override.key_or_group.split(".")
    parent: Any = cfg
    node: Any = cfg
    for i, part in enumerate(parts):
        if not isinstance(node, DictConfig) or part not in node:
            raise ConfigError(f"{override.input_line}: {_no_such(cfg, node, parts[:i], part, override)}")
        parent, node = node, node._get_node(part)
    return parent, node


def _convert(node: Any, value: Any) -> Any:
    """Return `value` in the type of a node. Raises an error of OmegaConf if it does not fit."""
    if isinstance(node, AnyNode):
        return value
    scratch = copy.deepcopy(node)
    scratch._set_value(value)
    return OmegaConf.to_container(scratch) if isinstance(scratch, ListConfig) else scratch._value()


def _expected(node: Any) -> str:
    """Return `must be an int or null` for the type of a node; empty for a list."""
    kind = KINDS_OF_VALUE.get(type(node))
    return f"must be {kind}{' or null' if node._is_optional() else ''}" if kind else ""


def _no_such(cfg: DictConfig, node: Any, path: list[str], part: str, override: Override) -> str:
    """Say that `node`, at `path`, has no setting `part`, and which setting may be meant."""
    at = ".".join(path)
    if not isinstance(node, DictConfig):
        return f"{at} is a value and has no settings of its own; write {at}=VALUE"
    foreign = setting_for(part, value_as_typed(override))
    known = [str(k) for k in node if k != "name" or not path]
    hint = f" (in gptlab: {foreign})" if foreign and not foreign.startswith(f"{override.key_or_group}=") else ""
    hint = hint or did_you_mean(part, [".".join([*path, k]) for k in known]) or did_you_mean(part, flatten(plain(cfg)))
    if not path:
        return f"no such setting{hint}; `gptlab list` shows them all"
    if at not in SLOTS:
        return f"{at} has no setting {part!r}{hint}; it has {', '.join(known)}"
    owners = [f"{at}={e.name}" for e in registry.entries(SLOTS[at]) if part in {f.name for f in e.settings}]
    if owners:
        return f"{at}={node.name} has no setting {part!r}; it is one of {', '.join(owners)}"
    has = f"it has {', '.join(known)}" if known else "it has none"
    return f"{at}={node.name} has no setting {part!r}{hint}; {has}"


def edit(cfg: Settings, **values: Any) -> Settings:
    """Return a copy of `cfg` with other values, whose dotted keys are written a__b: `edit(cfg, ffn__hidden=8)`."""
    for name, value in values.items():
        cfg = cfg.edited(name.replace("__", "."), value)
    return cfg
