"""Keys of an experiment file whose value has a form of its own: `grid`, `fraction` and `published`."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gptlab.compare.analysis.published import WORDS
from gptlab.config import ConfigError
from gptlab.config.overrides import typed

NEEDS_NO_QUOTES = re.compile(r"[\w.+-]+", re.ASCII)
NOT_OF_GRID = ("name", "variant", "phase", "rung", "runs_dir", "use")  # of the whole experiment, or set by the sweep
EXAMPLE = "{norm: [layernorm, rmsnorm], placement: [pre, post]}"


def as_typed(value: Any) -> str:
    """Return a value of a file, whose numbers are text, as typed on the command line after key=."""
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    return value if value and NEEDS_NO_QUOTES.fullmatch(value) else typed(value)


def read_grid(value: Any, place: str, base: Sequence[str]) -> list[str]:
    """Return the overrides of a `grid:`, each with all its values, as on the command line: norm=layernorm,rmsnorm.

    Args:
        value: settings, presets or sizes, each with a list of values.
        place: its place in the file, for messages.
        base: the overrides of all arms.

    Raises:
        ConfigError: it is of another form, or a key cannot vary over the arms.
    """
    if value is None:
        return []
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place}: must be settings with lists of values, such as {EXAMPLE}")
    given = {text.partition("=")[0] for text in base}
    for key, values in value.items():
        if not isinstance(values, list) or not values or any(map(_is_mapping, values)):
            raise ConfigError(f"{place}: {key} must have a list of values, such as {EXAMPLE}")
        if len(values) < 2:
            raise ConfigError(f"{place}: {key} has one value, which all arms would share; write it in base")
        texts = list(map(as_typed, values))
        if twice := next((text for text in texts if texts.count(text) > 1), None):
            raise ConfigError(f"{place}: {key} has {twice} twice, which would be one arm; leave one out")
        if key == "seed":
            raise ConfigError(f"{place}: has seed; all arms have the same seeds: write seeds: [0, 1, 2]")
        if key in NOT_OF_GRID or not key or "=" in key:
            raise ConfigError(f"{place}: has {key or 'an empty key'}, which is no setting of an arm; leave it out")
        if key in given:
            raise ConfigError(f"{place}: {key} is in base too, which all arms share; leave one out")
    return [f"{key}={','.join(map(as_typed, values))}" for key, values in value.items()]


def read_fraction(value: Any, place: str, *, has_grid: bool) -> float | None:
    """Return the share of a grid's arms to keep; None for all of them.

    Raises:
        ConfigError: it is no number between 0 and 1, or there is no grid.
    """
    if value is None:
        return None
    if not has_grid:
        raise ConfigError(f"{place}: is the share of a grid's arms to keep, and there is no grid; leave it out")
    if not isinstance(value, str) or not is_number(value) or not 0 < float(value) < 1:
        raise ConfigError(f"{place}: must be between 0 and 1, such as 0.5")
    return float(value)


def read_published(value: Any, path: str, others: Sequence[str], *, kind: str) -> dict[str, str]:
    """Return what others found for the variants: a difference from the baseline, or a word.

    Args:
        value: of `published:` in an experiment file.
        path: of the file, for messages.
        others: the names of the variants beside the baseline.
        kind: the key that has the arms; only `variants` gives them names.

    Raises:
        ConfigError: it names something else than a variant, or says something else.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: published maps variants to what others found, such as {{swiglu: -0.053}}")
    if value and kind != "variants":
        raise ConfigError(f"{path}: published names variants, and a {kind} has none; write its arms as variants")
    for name, found in value.items():
        place = f"{path}: published.{name}={found}"
        if name not in others:
            choice = ", ".join(others) or "none"
            raise ConfigError(f"{place}: is not a variant beside the baseline; choose from {choice}")
        if not isinstance(found, str) or (found not in WORDS and not is_number(found)):
            raise ConfigError(f"{place}: must be a difference from the baseline, such as -0.053, or {', '.join(WORDS)}")
    return value


def is_number(text: str) -> bool:
    """Return whether a text is a finite number."""
    try:
        return math.isfinite(float(text)) and "_" not in text  # Python reads 1_0 as 10
    except ValueError:
        return False


def _is_mapping(value: Any) -> bool:
    """Return whether a value is a mapping, or a list with one somewhere inside."""
    if isinstance(value, list):
        return any(map(_is_mapping, value))
    return isinstance(value, Mapping)
