"""The values that the overrides of a sweep give to their keys, and their combinations."""

import itertools
from collections.abc import Iterable

from hydra.core.override_parser.types import Glob, Override

from gptlab.config import GROUPS, SLOTS, ConfigError, registry
from gptlab.config.compose import files_in
from gptlab.config.overrides import typed, values_as_typed


def expand(overrides: Iterable[Override]) -> list[dict[str, str]]:
    """Return the overrides for each combination of values; the last key varies fastest.

    A later override of a key replaces an earlier one.
    """
    alternatives: dict[str, list[str]] = {}
    for override in overrides:
        alternatives.pop(key_of(override), None)
        alternatives[key_of(override)] = values_of(override)
    return [dict(zip(alternatives, values, strict=True)) for values in itertools.product(*alternatives.values())]


def key_of(override: Override) -> str:
    """Return the key as typed, so that `+key=value` is refused when the cell is composed."""
    return (override.input_line or "").partition("=")[0]


def values_of(override: Override) -> list[str]:
    """Return every value of an override as typed: one, or those of a list, a range() or a glob()."""
    key, glob = override.key_or_group, override.value()
    if not isinstance(glob, Glob):
        return values_as_typed(override)
    if key not in GROUPS:
        raise ConfigError(f"{override.input_line}: only options that are chosen by name have a glob(); list the values")
    options = registry.names(SLOTS[key]) if key in SLOTS else files_in(key)
    if not (matches := glob.filter(options)):
        raise ConfigError(f"{override.input_line}: matches no option; choose from {', '.join(options)}")
    return [typed(name) for name in matches]
