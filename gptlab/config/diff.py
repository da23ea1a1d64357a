"""The differences of a config from the baseline, by which runs and arms are named."""

import functools
from dataclasses import fields
from typing import Any

from gptlab.config import SLOTS, Config, Settings, flatten, is_bookkeeping, presets, registry
from gptlab.config.compose import files_of, fixed_vocab_size, load_config

BASELINES_SIZE = "small"  # in conf/config.yaml
ORDER = {f.name: i for i, f in enumerate(fields(Config))}


@functools.cache
def _baseline() -> dict[str, Any]:
    return flatten(load_config())


@functools.cache
def _defaults(schema: type) -> dict[str, Any]:
    return vars(schema())


def diff_from_baseline(cfg: Settings) -> dict[str, Any]:
    """Return the settings that differ from the baseline: {"norm": "rmsnorm", "size.dim": 64}.

    The settings of a component that the baseline does not have are compared with the component's own defaults.
    """
    return _diff(flatten(cfg), cfg)


def _diff(flat: dict[str, Any], cfg: Settings) -> dict[str, Any]:
    diff: dict[str, Any] = {}
    baseline = _baseline()
    for key, value in flat.items():
        slot_name, _, name = key.partition(".")
        if is_bookkeeping(key) or (key == "model.vocab_size" and value in (None, _default_vocab_size(cfg))):
            continue
        expected = baseline.get(key)
        if name and slot_name in SLOTS and flat[slot_name] != baseline[slot_name]:
            expected = _defaults(registry.entry(slot_name, flat[slot_name]).schema)[name]
        if value != expected:
            diff[key] = value
    return {k: diff[k] for k in sorted(diff, key=_importance)}


def _default_vocab_size(cfg: Settings) -> int | None:
    """Return the tokenizer's vocabulary size, or the config's own where the tokenizer learns it from the text."""
    return fixed_vocab_size(cfg) or cfg.model.vocab_size


def short_diff(cfg: Settings) -> dict[str, Any]:
    """Return `diff_from_baseline` with the settings of a size replaced by its name: {"size": "tiny"}.

    If several sizes have the same three numbers, the one that leaves the fewest differences is named.
    A published size is listed first; any other size takes the place of its numbers.
    """
    flat = flatten(cfg)
    diff = _diff(flat, cfg)
    file = None
    if any(k.startswith("size.") for k in diff):
        file, named = presets.best_fit(list(files_of("size").values()), flat, _without_baselines_size(diff, flat))
        diff = named if file else diff
    first = "size" if file and presets.preset_of(file) else None
    return {k: diff[k] for k in sorted(diff, key=lambda k: (k != first, _importance(k)))}


def _without_baselines_size(diff: dict[str, Any], flat: dict[str, Any]) -> dict[str, Any]:
    """Return the differences from a baseline whose size gives no settings of components, such as a learning rate."""
    changed = dict(diff)
    for key in presets.values(files_of("size")[BASELINES_SIZE]):
        slot, _, name = key.partition(".")
        if slot in SLOTS and flat[slot] == _baseline()[slot]:
            usual = _defaults(registry.entry(slot, flat[slot]).schema)[name]
            changed = {k: v for k, v in changed.items() if k != key} | ({} if flat[key] == usual else {key: flat[key]})
    return changed


def _importance(key: str) -> float:
    """Return a sort key: architecture first, in the order of Config; budget, data and seed last."""
    if key == "model.vocab_size":  # next to the sizes
        return ORDER["size"] + 0.5
    return ORDER[key.split(".")[0]]
