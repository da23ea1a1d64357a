"""Overrides as text, such as `norm=rmsnorm`: read with Hydra's grammar, split into values, and written.

A text setting keeps its value as typed. Hydra reads numbers, booleans and null where it can (`name=2024_01` as 202401),
before the type of the setting is known; `text_of` undoes that.
"""

import dataclasses
import functools
import os
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString
from hydra.errors import HydraException

from gptlab.config import ConfigError

PLAIN = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)  # needs no quotes in Hydra's grammar, and is no number
GRAMMAR = set("'\"[]{}()\\")  # the characters that have a meaning in Hydra's grammar, besides the comma
UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, bytes that are not UTF-8, ends of lines
PATHS = ("runs_dir", "use", "train.init_from", "data.path", "tokenizer.path")  # settings whose ~ is the home folder


def parse(overrides: Iterable[str]) -> list[Override]:
    """Parse overrides with Hydra's grammar. Raises ConfigError at the first that is not key=value."""
    return [_parse_one(text) for text in overrides]


@functools.lru_cache(maxsize=2**16)  # the cells of a sweep have most overrides in common
def _parse_one(text: str) -> Override:
    if odd := next((c for c in text if unicodedata.category(c) in UNPRINTABLE), None):
        raise ConfigError(f"{text!a}: has the character {odd!a}; leave out what is not text on one line")
    key, equals, value = text.partition("=")
    if key.startswith("~"):
        raise ConfigError(f"{text}: nothing can be deleted; switch a component off with none, a value with null")
    if key.split(".")[0].split("/")[0] in ("hydra", "sweep"):
        raise ConfigError(f"{text}: is an option of `gptlab sweep`, not a setting of a run")
    if not equals or not key or "@" in key:
        mend = f"use={text}" if text.endswith(".py") else "key=value, such as norm=rmsnorm"
        raise ConfigError(f"{text}: not a setting; write {mend}")
    try:
        return _read(key, value, text)
    except HydraException as e:
        is_list = value.startswith("[") and value.endswith("]")
        inner = value[1:-1] if is_list else value
        if not GRAMMAR & set(inner):  # a letter with an accent, ~, & and others, which need quotes in Hydra's grammar
            parts = ",".join(quoted(part.strip()) for part in inner.split(","))
            return _read(key, f"[{parts}]" if is_list else parts, text)
        reason = str(e).splitlines()[0]
        mend = _in_shell_quotes(f"{key}={quoted(value)}")
        raise ConfigError(f"{text}: not readable ({reason}); quote the value twice: {mend}") from e


def _read(key: str, value: str, text: str) -> Override:
    return dataclasses.replace(OverridesParser.create().parse_override(f"{key}={value}"), input_line=text)


def _in_shell_quotes(text: str) -> str:
    """Return an override with single quotes in it as a shell takes it."""
    if set(text) & set('"$`\\!'):
        return "'" + text.replace("'", "'\\''") + "'"
    return f'"{text}"'


def text_of(override: Override) -> Any:
    """Return an override's value for a text setting: text as typed, None for null, or a list."""
    value = override.value()
    if isinstance(value, bool | int | float):
        return value_as_typed(override)
    return value


def value_as_typed(override: Override) -> str:
    """Return what an override has after its `=`."""
    return (override.input_line or "").partition("=")[2].strip()


def values_as_typed(override: Override) -> list[str]:
    """Return every value of a list or a range as typed; a single value is a list of one.

    Raises:
        ConfigError: the values cannot be listed, there is none, or their order is random.
    """
    text = value_as_typed(override)
    if not override.is_sweep_override():
        return [typed(override._value.text) if isinstance(override._value, QuotedString) else text]
    sweep = override._value
    if not override.is_discrete_sweep():
        raise ConfigError(f"{override.input_line}: has infinitely many values; a grid takes lists, range() and glob()")
    if getattr(sweep, "shuffle", False):
        raise ConfigError(f"{override.input_line}: has no fixed order, and the first arm is the baseline; list values")
    if isinstance(sweep, ChoiceSweep):
        listed = re.fullmatch(r"choice\((.*)\)", text, re.DOTALL)
        parts = split_at_commas(listed[1] if listed else text)
        if len(parts) == len(sweep.list):  # else a function, such as sort(b,a), has made the values
            pairs = zip(parts, sweep.list, strict=True)
            return [typed(value.text) if isinstance(value, QuotedString) else part for part, value in pairs]
    values = list(override.sweep_string_iterator())
    if not values:
        raise ConfigError(f"{override.input_line}: has no values; give at least one")
    return values


def split_at_commas(text: str) -> list[str]:
    """Split a text at the commas that are in no quotes and no brackets."""
    parts = [""]
    depth, quote, escaped = 0, "", False
    for character in text:
        if character == "," and not (depth or quote or escaped):
            parts.append("")
            continue
        parts[-1] += character
        if escaped or character == "\\":
            escaped = not escaped
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "[{(") - (character in "]})")
    return [part.strip() for part in parts]


def expand_home(path: str) -> str:
    """Return a path with the home folder in place of a leading ~. Raises ConfigError if no such user is known."""
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        user = path.partition("/")[0]
        raise ConfigError(f"{path}: {user} has no home folder here; write ./{path} for a file of that name")
    return expanded


def typed(value: Any) -> str:
    """Return a value as typed after key=: null, true, 3e-4, text, quoted where Hydra's grammar needs it."""
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    return quoted(text) if isinstance(value, str) and not _is_plain(text) else text


def _is_plain(text: str) -> bool:
    return bool(PLAIN.fullmatch(text)) and text.lower() not in ("null", "true", "false", "nan", "inf")


def quoted(text: str) -> str:
    """Return a text in the quotes of Hydra's grammar, which reads back exactly this text."""
    return QuotedString(text, Quote.single).with_quotes()
