"""Overrides -> one complete, checked config."""

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, OmegaConf, StringNode, open_dict
from omegaconf.errors import OmegaConfBaseException

from gptlab import registry, sizes
from gptlab.check import check
from gptlab.config import BOOKKEEPING, COMMON, CONF, GROUPS, SLOTS, Budget, Config, ConfigError, did_you_mean, flatten

KINDS_OF_VALUE = {IntegerNode: "an int", FloatNode: "a number", BooleanNode: "true or false", StringNode: "text"}

ConfigStore.instance().store(name="schema", node=Config)


def load_config(overrides: Iterable[str] = ()) -> DictConfig:
    """The baseline with `overrides` (`norm=rmsnorm`, `train.batch_size=8`) as a complete config.

    Raises ConfigError, one line, for whatever does not exist, does not fit its type or is out of range.
    """
    parsed = parse(overrides)
    registry.load(find_use(parsed))
    chosen = {o.key_or_group: o.value() for o in parsed if _is_group(o)}  # the last choice for a slot holds
    preset, size = (str(chosen[k]) if chosen.get(k) else None for k in ("preset", "size"))
    cfg = _compose_files(preset, size).copy()
    for slot_name in chosen.keys() & SLOTS.keys():
        _choose(cfg, slot_name, str(chosen[slot_name]))
    values = [o for o in parsed if not _is_group(o)]  # applied in order, after all choices
    if any(o.key_or_group.startswith("budget.") for o in values):  # replaces the budget of a preset or the baseline
        cfg.budget = Budget()
    for override in values:
        _set(cfg, override)
    check(cfg)
    if cfg.model.vocab_size is None:
        cfg.model.vocab_size = fixed_vocab_size(cfg)
    return cfg


def fixed_vocab_size(cfg: DictConfig) -> int | None:
    """Tokens in the vocabulary where the tokenizer alone fixes it, without a look at the text."""
    tokenizer = registry.build("tokenizer", cfg.tokenizer)
    return tokenizer.fixed_vocab_size


def parse(overrides: Iterable[str]) -> list[Override]:
    parser = OverridesParser.create()
    return [_parse_one(parser, text) for text in overrides]


def _parse_one(parser: OverridesParser, text: str) -> Override:
    key, equals, value = text.partition("=")
    if key.startswith("~"):
        raise ConfigError(f"{text}: nothing can be deleted; a component is switched off by none, a value by null")
    if key.split(".")[0].split("/")[0] in ("hydra", "sweep"):
        raise ConfigError(f"{text}: is said to `gptlab sweep` on its command line; it is no setting of a run")
    if not equals or not key or "@" in key:
        raise ConfigError(f"{text}: not a setting; write key=value, such as norm=rmsnorm")
    try:
        return parser.parse_override(text)
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
    options = registry.names(SLOTS[key]) if key in SLOTS else files_in(key)
    if value not in options and not (key == "preset" and value is None):
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
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


@functools.cache
def _compose_files(preset: str | None, size: str | None) -> DictConfig:
    """The baseline, a preset over it and a size over both, with Hydra's own rules of precedence.

    A preset's own size is named to Hydra: it would refuse `override` of a group that is composed after the preset.
    """
    if preset:
        size = size or sizes.choices(_file("preset", preset)).get("size")
    GlobalHydra.instance().clear()  # inside a launcher's job there is one, which has done its part
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", [f"{k}={v}" for k, v in (("preset", preset), ("size", size)) if v])
    except (HydraException, OmegaConfBaseException) as e:
        why = sizes.misfit(_file("size", size), e.__context__) if size else None
        raise ConfigError(why or " ".join(f"{e}: {e.__cause__ or ''}".split())) from e


def _file(group: str, name: str) -> Path:
    return CONF / group / f"{name}.yaml"


def _choose(cfg: DictConfig, slot_name: str, name: str) -> None:
    """Another component than the preset's comes with its own defaults: the preset's values were for its own choice.

    Settings that the slot has whatever is chosen stay, such as data.window.
    """
    if cfg[slot_name].name == name:
        return
    common = COMMON.get(SLOTS[slot_name])
    kept = {f.name: cfg[slot_name][f.name] for f in fields(common)} if common else {}
    cfg[slot_name] = OmegaConf.structured(registry.entry(slot_name, name).schema(**kept))


def _set(cfg: DictConfig, override: Override) -> None:
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
    if isinstance(value, str) and "${" in value:
        raise ConfigError(f"{text}: not interpolated; write the value itself")
    try:
        parent[last] = value
    except OmegaConfBaseException as e:
        raise ConfigError(f"{text}: {_expected(node) or str(e).splitlines()[0]}") from e


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


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as nested dicts and lists."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


@functools.cache
def _baseline() -> dict[str, Any]:
    return flatten(plain(load_config()))


def differences(cfg: DictConfig) -> dict[str, Any]:
    """What `cfg` has otherwise than the baseline: {"norm": "rmsnorm", "size.dim": 64}.

    Where another component is chosen, only those of its knobs count that are not at its own defaults.
    """
    found: dict[str, Any] = {}
    baseline = _baseline()
    for key, value in flatten(plain(cfg)).items():
        slot_name, _, knob = key.partition(".")
        if slot_name in BOOKKEEPING or (key == "model.vocab_size" and value in (None, _default_vocab_size(cfg))):
            continue
        expected = baseline.get(key)
        if knob and slot_name in SLOTS and cfg[slot_name].name != baseline[slot_name]:
            expected = getattr(registry.entry(slot_name, cfg[slot_name].name).schema(), knob)
        if value != expected:
            found[key] = value
    return {k: found[k] for k in sorted(found, key=_importance)}


def _default_vocab_size(cfg: DictConfig) -> int | None:
    """The tokenizer's; where it takes a text to know it, whatever there is."""
    return fixed_vocab_size(cfg) or cfg.model.vocab_size


def named_differences(cfg: DictConfig) -> dict[str, Any]:
    """`differences` with what a size sets under its name, where it has one: {"size": "tiny"}.

    Of sizes with the same three numbers, the one that leaves the fewest other differences. A published one comes first.
    """
    found = differences(cfg)
    files = [_file("size", name) for name in files_in("size")] if any(k.startswith("size.") for k in found) else []
    file, named = sizes.best_fit(files, flatten(plain(cfg)), found)
    first = "size" if file and sizes.preset_of(file) else None
    return {k: named[k] for k in sorted(named, key=lambda k: (k != first, _importance(k)))}


def _importance(key: str) -> int:
    """Architecture first, as Config lists it; the run's length, data and seed last."""
    order = [f.name for f in fields(Config)]
    return order.index(key.split(".")[0])


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


def edit(cfg: DictConfig, **values: Any) -> DictConfig:
    """A copy of `cfg` with top-level or dotted `values` (written a__b) replaced."""
    copy = cfg.copy()
    with open_dict(copy):
        for key, value in values.items():
            OmegaConf.update(copy, key.replace("__", "."), value)
    return copy
