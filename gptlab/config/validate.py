"""What typed composing lets through is refused here: values out of range, two budgets, unknown keys of files."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from gptlab.config import SLOTS, AnyConfig, Config, ConfigError, did_you_mean, plain, registry


def check(cfg: AnyConfig) -> None:
    """Raises ConfigError at the first setting of a composed config that breaks a rule."""
    tree = plain(cfg)
    for slot_name in SLOTS:
        entry = registry.entry(slot_name, tree[slot_name]["name"])
        for knob, allowed in entry.choices.items():
            if tree[slot_name][knob] not in allowed:
                raise ConfigError(
                    f"{slot_name}.{knob}={tree[slot_name][knob]}: choose from {', '.join(map(str, allowed))}"
                )
    for place, value, rules in _ruled_values(tree, Config):
        _check_value(place, value, **rules)
    init, optimizer = (registry.entry(slot_name, tree[slot_name]["name"]) for slot_name in ("init", "optimizer"))
    if hasattr(init.cls, "lr_scale") and not getattr(optimizer.cls, "elementwise", False):
        able = ", ".join(e.name for e in registry.entries("optimizer") if getattr(e.cls, "elementwise", False))
        raise ConfigError(f"init={init.name}: its learning rates are not for optimizer={optimizer.name}; choose {able}")
    _check_budget({f"budget.{k}": v for k, v in tree["budget"].items()})
    if not (name := tree["name"]) or "/" in name or name.startswith("."):
        raise ConfigError(f"name={name}: must be a folder's name; leave out / and a leading dot")
    if not (lengths := tree["eval"]["lengths"]) or min(lengths) < 1:
        raise ConfigError(f"eval.lengths={lengths}: multiples of data.window, such as [1,2,4]")
    micro, whole = (tree["train"][k] for k in ("micro_batch_size", "batch_size"))
    if micro is not None and whole % micro:
        raise ConfigError(f"train.micro_batch_size={micro}: must divide train.batch_size={whole}")


def _check_budget(budget: dict[str, Any]) -> None:
    given = {k: v for k, v in budget.items() if v is not None}
    if not given:
        raise ConfigError(f"budget=null: must be set; give one of {', '.join(budget)}")
    if len(given) > 1:
        said = " ".join(f"{k}={v:g}" for k, v in given.items())
        raise ConfigError(f"{said}: a run has one budget; leave out all but one")


def _ruled_values(tree: Mapping[str, Any], schema: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(place, value, rules) of every setting; raises at a key that no dataclass has."""
    known = {f.name: f for f in fields(schema)}
    if not known.keys() <= tree.keys():
        raise ConfigError(f"{at.rstrip('.')}: choose a component by name")
    for name, value in tree.items():
        if name not in known:
            raise ConfigError(f"{at}{name}: no such setting{did_you_mean(name, [f'{at}{k}' for k in known])}")
        if isinstance(value, dict):
            own = registry.entry(name, value["name"]).schema if not at and name in SLOTS else known[name].type
            if not is_dataclass(own):
                raise ConfigError(f"{at}{name}: choose a component by name")
            yield from _ruled_values(value, own, f"{at}{name}.")
        else:
            yield f"{at}{name}", value, known[name].metadata


def _check_value(
    place: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | None = None,
    **_: Any,
) -> None:
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{place}={value}: must be finite; null, where it is allowed, is for none")
    if choices is not None and value not in choices:
        raise ConfigError(f"{place}={value}: choose from {', '.join(choices)}")
    if at_least is not None and not value >= at_least:
        raise ConfigError(f"{place}={value}: must be at least {at_least}")
    if above is not None and not value > above:
        raise ConfigError(f"{place}={value}: must be above {above}")
    if below is not None and not value < below:
        raise ConfigError(f"{place}={value}: must be below {below}")
