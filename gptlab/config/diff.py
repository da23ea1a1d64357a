"""What a config has otherwise than the baseline, which is what a run and an arm are called by."""

import functools
from dataclasses import fields
from typing import Any

from gptlab.config import BOOKKEEPING, SLOTS, AnyConfig, Config, flatten, plain, presets, registry
from gptlab.config.compose import files_of, fixed_vocab_size, load_settings

ORDER = {f.name: i for i, f in enumerate(fields(Config))}


@functools.cache
def _baseline() -> dict[str, Any]:
    return flatten(load_settings())


@functools.cache
def _defaults(schema: type) -> dict[str, Any]:
    return vars(schema())


def differences(cfg: AnyConfig) -> dict[str, Any]:
    """What `cfg` has otherwise than the baseline: {"norm": "rmsnorm", "size.dim": 64}.

    Where another component is chosen, only those of its knobs count that are not at its own defaults.
    """
    return _differences(flatten(plain(cfg)), cfg)


def _differences(flat: dict[str, Any], cfg: AnyConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    baseline = _baseline()
    for key, value in flat.items():
        slot_name, _, knob = key.partition(".")
        if slot_name in BOOKKEEPING or (key == "model.vocab_size" and value in (None, _default_vocab_size(cfg))):
            continue
        expected = baseline.get(key)
        if knob and slot_name in SLOTS and flat[slot_name] != baseline[slot_name]:
            expected = _defaults(registry.entry(slot_name, flat[slot_name]).schema)[knob]
        if value != expected:
            found[key] = value
    return {k: found[k] for k in sorted(found, key=_importance)}


def _default_vocab_size(cfg: AnyConfig) -> int | None:
    """The tokenizer's; where it takes a text to know it, whatever there is."""
    return fixed_vocab_size(cfg) or cfg.model.vocab_size


def named_differences(cfg: AnyConfig) -> dict[str, Any]:
    """`differences` with what a size sets under its name, where it has one: {"size": "tiny"}.

    Of sizes with the same three numbers, the one that leaves the fewest other differences. A published one comes first.
    """
    flat = flatten(plain(cfg))
    found = _differences(flat, cfg)
    files = list(files_of("size").values()) if any(k.startswith("size.") for k in found) else []
    file, named = presets.best_fit(files, flat, found)
    first = "size" if file and presets.preset_of(file) else None
    return {k: named[k] for k in sorted(named, key=lambda k: (k != first, _importance(k)))}


def _importance(key: str) -> float:
    """Architecture first, as Config lists it; the run's length, data and seed last."""
    if key == "model.vocab_size":  # beside the sizes
        return ORDER["size"] + 0.5
    return ORDER[key.split(".")[0]]
