"""The arms between two architectures, made by exchanging one component at a time.

All other settings (size, data, recipe, budget) are those of the first config in all arms, or those given for both.
Otherwise an arm would differ in more than its component.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from gptlab.config import ARCHITECTURE, SLOTS, ConfigError, Settings, plain, registry
from gptlab.config.compose import load_config
from gptlab.config.diff import short_diff
from gptlab.config.overrides import typed

Variants = dict[str, list[str]]  # name -> overrides, as in an experiment file
Tree = dict[str, Any]  # a config as nested dicts


def ladder_arms(start: str, end: str, common: Sequence[str] = ()) -> Variants:
    """Return a ladder: each arm takes one more component from `end`, until the last one has all.

    A config is a string of overrides, such as "preset=gpt2 norm=rmsnorm". The overrides returned lack `common`.

    Raises:
        ConfigError: the two configs have the same architecture, or are models without exchangeable components.
    """
    first, last = _load_ends(start, end, common)
    variants = {start: start.split()}
    overrides = start.split()
    for slot in _differing_slots(first, last, start, end):
        overrides = [*overrides, *_changes(slot, first, last)]
        variants[f"+ {_change_name(slot, first, last)}"] = overrides
    return variants


def knock_outs(start: str, end: str, common: Sequence[str] = ()) -> Variants:
    """Return `end`, and then `end` without each of the components in which it differs from `start`.

    Arguments, result and errors are those of `ladder_arms`.
    """
    first, last = _load_ends(start, end, common)
    changes = {slot: _changes(slot, first, last) for slot in _differing_slots(first, last, start, end)}
    variants = {end: [*start.split(), *itertools.chain(*changes.values())]}
    for slot in changes:
        others = itertools.chain(*(overrides for other, overrides in changes.items() if other != slot))
        variants[f"without {_change_name(slot, first, last)}"] = [*start.split(), *others]
    return variants


def _load_ends(start: str, end: str, common: Sequence[str]) -> tuple[Tree, Tree]:
    """Return both configs in full, the second at the first one's size."""
    first = load_config([*start.split(), *common])
    sized = any(override.partition("=")[0] == "size" for override in common)
    size = [] if sized else [f"size={_size(first)}"]
    trees = plain(first), plain(load_config([*end.split(), *size, *common]))
    if len(models := {f"model={tree['model']['name']}" for tree in trees}) > 1:
        raise ConfigError(f"{start} {end}: {' and '.join(sorted(models))} have no parts to exchange; sweep over model=")
    return trees


def _size(cfg: Settings) -> str:
    """Return the name of the config's size, or `small` if it has none; any size will do to compare architectures."""
    return str(short_diff(cfg).get("size", "small"))


def _differing_slots(first: Tree, last: Tree, start: str, end: str) -> list[str]:
    slots = [slot for slot in ARCHITECTURE if first[slot] != last[slot]]
    if not slots:
        raise ConfigError(f"{start} {end}: have the same architecture, so there are no arms between them")
    return slots


def _changes(slot: str, first: Tree, last: Tree) -> list[str]:
    """Return the overrides that replace the first config's component in a slot by the last config's."""
    if slot not in SLOTS:
        return [f"{slot}={typed(last[slot])}"]
    name = last[slot]["name"]
    same = first[slot]["name"] == name
    before = first[slot] if same else vars(registry.entry(slot, name).schema())
    settings = [f"{slot}.{k}={typed(v)}" for k, v in last[slot].items() if k != "name" and v != before[k]]
    return [f"{slot}={name}", *settings]


def _change_name(slot: str, first: Tree, last: Tree) -> str:
    """Return `norm=rmsnorm`, or if the component is the same, the settings that differ: `head.tied=false`."""
    changes = _changes(slot, first, last)
    same = slot in SLOTS and first[slot]["name"] == last[slot]["name"]
    return " ".join(changes[1:]) if same else changes[0]
