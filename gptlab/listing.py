"""`gptlab list`: slots, their options, and the settings of each."""

import dataclasses
import typing
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gptlab import registry
from gptlab.compose import files_in, load_config, plain
from gptlab.config import COMMON, SLOTS, Config, ConfigError

FIELDS = {f.name: f for f in dataclasses.fields(Config)}


def list_slots(console: Console, slot: str | None = None) -> None:
    """One slot or section, or all of them: a line for each option and each setting."""
    if slot is not None and slot not in (*FIELDS, "preset"):
        raise ConfigError(f"list {slot}: no such slot; choose from {', '.join([*FIELDS, 'preset'])}")
    baseline = plain(load_config())
    for name in [slot] if slot else [*FIELDS, "preset"]:
        if name in SLOTS:
            _print_slot(console, name, baseline[name]["name"])
        elif name == "preset":
            console.print(Text.assemble(("preset", "bold"), "  published models, as differences from the baseline"))
            console.print(f"  {', '.join(files_in('preset'))}", highlight=False)
        else:
            _print_section(console, name)
        console.print()


def _print_slot(console: Console, name: str, default: str) -> None:
    kind = SLOTS[name]
    console.print(Text.assemble((name, "bold"), f"  {FIELDS[name].metadata['help']}"))
    if kind in COMMON:
        _print_fields(console, dataclasses.fields(COMMON[kind]), f"{name}.", "  ")
    for entry in registry.entries(kind):
        mark = " (baseline)" if entry.name == default else ""
        console.print(Text.assemble("  ", (f"{name}={entry.name}", "green"), mark, f"  {entry.summary}", (f"  {entry.source}", "dim")))
        _print_fields(console, entry.knobs, f"{name}.", "      ", entry.choices)


def _print_section(console: Console, name: str) -> None:
    field = FIELDS[name]
    if not dataclasses.is_dataclass(field.type):
        console.print(Text.assemble((f"{name}: {_type(field.type)} = {_value(field.default)}", "bold"), f"  {field.metadata['help']}"))
        return
    console.print(Text.assemble((name, "bold"), f"  {' '.join(files_in(name))}"))
    _print_fields(console, dataclasses.fields(field.type), f"{name}.", "  ")


def _print_fields(
    console: Console, fields: typing.Iterable[dataclasses.Field], prefix: str, indent: str, choices: dict | None = None
) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for f in fields:
        allowed = f.metadata.get("choices") or (choices or {}).get(f.name)
        kind = "|".join(map(str, allowed)) if allowed else _type(f.type)
        table.add_row(Text(f"{indent}{prefix}{f.name}: {kind} = {_value(f.default)}"), Text(f.metadata.get("help", "")))
    if table.row_count:
        console.print(table)


def _type(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "").replace("None", "null")


def _value(default: Any) -> str:
    return {True: "true", False: "false", None: "null"}.get(default, str(default)) if not isinstance(default, int | float) or isinstance(default, bool) else f"{default:g}"
