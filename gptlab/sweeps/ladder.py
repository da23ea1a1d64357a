"""From one architecture to another, component by component.

What is not architecture (size, data, recipe, budget) is the first config's in all arms, or what is said for both: else
a step would change more than its component.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from gptlab.config import ARCHITECTURE, SLOTS, ConfigError, plain, registry
from gptlab.config import Settings as DictConfig
from gptlab.config.compose import load_config, typed
from gptlab.config.diff import short_diff

Arms = dict[str, list[str]]


def rungs(start: str, end: str, common: Sequence[str] = ()) -> Arms:
    """Each arm has one component of `end` more than the one before it (add one in); the last has all.

    A config is a string of overrides, "preset=gpt2 norm=rmsnorm". Arms by name, as overrides without `common`.
    """
    here, there = _ends(start, end, common)
    arms = {start: start.split()}
    for slot in _differing(here, there, start, end):
        changes = _changes(slot, here, there)
        previous = list(arms.values())[-1]
        arms[f"+ {_name(slot, here, there)}"] = [*previous, *changes]
    return arms


def knock_outs(start: str, end: str, common: Sequence[str] = ()) -> Arms:
    """`end` whole, then without each of the components in which it differs from `start` (leave one out)."""
    here, there = _ends(start, end, common)
    changes = {slot: _changes(slot, here, there) for slot in _differing(here, there, start, end)}
    arms = {end: [*start.split(), *itertools.chain(*changes.values())]}
    for slot in changes:
        others = itertools.chain(*(words for s, words in changes.items() if s != slot))
        arms[f"without {_name(slot, here, there)}"] = [*start.split(), *others]
    return arms


def _ends(start: str, end: str, common: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    first = load_config([*start.split(), *common])
    size = [] if any(w.startswith("size=") for w in common) else [f"size={_size(first)}"]
    here, there = plain(first), plain(load_config([*end.split(), *size, *common]))
    if len(models := {f"model={tree['model']['name']}" for tree in (here, there)}) > 1:
        raise ConfigError(f"{start} {end}: {' and '.join(sorted(models))} have no parts to exchange; sweep over model=")
    return here, there


def _size(cfg: DictConfig) -> str:
    """The name of its size; one that has none is the baseline's with other numbers, which architecture ignores."""
    return short_diff(cfg).get("size", "small")


def _differing(here: dict[str, Any], there: dict[str, Any], start: str, end: str) -> list[str]:
    found = [slot for slot in ARCHITECTURE if here[slot] != there[slot]]
    if not found:
        raise ConfigError(f"{start} {end}: have the same architecture, so that there is nothing between them")
    return found


def _changes(slot: str, here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """The overrides that put `there`'s component where `here`'s is."""
    if slot not in SLOTS:
        return [f"{slot}={typed(there[slot])}"]
    name = there[slot]["name"]
    usual = vars(registry.entry(slot, name).schema())
    if here[slot]["name"] == name:
        usual = here[slot]
    return [
        f"{slot}={name}",
        *(f"{slot}.{k}={typed(v)}" for k, v in there[slot].items() if k != "name" and v != usual[k]),
    ]


def _name(slot: str, here: dict[str, Any], there: dict[str, Any]) -> str:
    """`norm=rmsnorm`, or where the component is the same what it has otherwise: `head.tied=false`."""
    changes = _changes(slot, here, there)
    same = slot in SLOTS and here[slot]["name"] == there[slot]["name"]
    return " ".join(changes[1:]) if same else changes[0]
