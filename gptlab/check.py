"""What typed composing lets through is refused here: values out of range, two budgets, unknown keys of files."""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gptlab import registry
from gptlab.config import SLOTS, ConfigError, did_you_mean


def check(cfg: DictConfig) -> None:
    """Raises ConfigError at the first setting of a composed config that breaks a rule."""
    for slot_name in SLOTS:
        entry = registry.entry(slot_name, cfg[slot_name].name)
        for knob, allowed in entry.choices.items():
            if cfg[slot_name][knob] not in allowed:
                raise ConfigError(
                    f"{slot_name}.{knob}={cfg[slot_name][knob]}: choose from {', '.join(map(str, allowed))}"
                )
    for place, value, rules in _ruled_values(cfg):
        _check_value(place, value, **rules)
    _check_budget({f"budget.{k}": v for k, v in cfg.budget.items()})
    if not cfg.name or "/" in cfg.name or cfg.name.startswith("."):
        raise ConfigError(f"name={cfg.name}: must be a folder's name; leave out / and a leading dot")
    if not cfg.eval.lengths or min(cfg.eval.lengths) < 1:
        raise ConfigError(f"eval.lengths={list(cfg.eval.lengths)}: multiples of data.window, such as [1,2,4]")
    t = cfg.train
    if t.micro_batch_size is not None and t.batch_size % t.micro_batch_size:
        raise ConfigError(f"train.micro_batch_size={t.micro_batch_size}: must divide train.batch_size={t.batch_size}")


def _check_budget(budget: dict[str, Any]) -> None:
    given = {k: v for k, v in budget.items() if v is not None}
    if not given:
        raise ConfigError(f"budget=null: must be set; give one of {', '.join(budget)}")
    if len(given) > 1:
        said = " ".join(f"{k}={v:g}" for k, v in given.items())
        raise ConfigError(f"{said}: a run has one budget; leave out all but one")


def _ruled_values(cfg: DictConfig, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(place, value, rules) of every setting; raises at a key that no dataclass has."""
    schema = OmegaConf.get_type(cfg)
    if not is_dataclass(schema):
        raise ConfigError(f"{at.rstrip('.')}: choose a component by name")
    known = {f.name: f.metadata for f in fields(schema)}
    for key in cfg:
        name = str(key)
        if name not in known:
            raise ConfigError(f"{at}{name}: no such setting{did_you_mean(name, [f'{at}{k}' for k in known])}")
        value = cfg[name]
        if isinstance(value, DictConfig):
            yield from _ruled_values(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", value, known[name]


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
