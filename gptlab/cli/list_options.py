"""`gptlab list`: slots, their options, and the settings of each, one line each."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from gptlab.config import COMMON, CONF, GROUPS, SLOTS, Config, ConfigError, did_you_mean, plain, registry
from gptlab.config.compose import files_in, load_config
from gptlab.config.presets import preset_of

FIELDS = {f.name: f for f in dataclasses.fields(Config)}


def list_settings(console: Console, only: Sequence[str] = ()) -> None:
    """Some slots or sections, or all of them."""
    known = ("preset", *FIELDS)
    for name in only:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(f"{name}: no such slot or section{hint}; choose from {', '.join(known)}")
    chosen = plain(load_config())
    single = True
    for i, name in enumerate(only or known):
        was_single, single = single, not (name in GROUPS or dataclasses.is_dataclass(FIELDS[name].type))
        if i and not (single and was_single):
            console.print()
        for line in _lines(name, chosen):
            console.print(line, soft_wrap=True)


def _lines(name: str, chosen: dict[str, Any]) -> Iterable[Text]:
    if name == "preset":
        yield _heading("preset", "published models, as differences from the baseline")
        width = max(map(len, files_in("preset")))
        for preset in files_in("preset"):
            yield Text.assemble("  ", (f"preset={preset:<{width}}", "bold green"), f"  {_first_comment(preset)}")
    elif name in SLOTS:
        yield from _slot(name, chosen[name]["name"])
    elif dataclasses.is_dataclass(section := FIELDS[name].type):
        yield _heading(name, FIELDS[name].metadata["help"])
        if name == "size":
            yield from _sizes()
        yield from _settings(dataclasses.fields(section), f"  {name}.")
    else:
        yield from _settings([FIELDS[name]], "")


def _first_comment(preset: str) -> str:
    """The first sentence: the model, its authors and its source."""
    lines = (CONF / "preset" / f"{preset}.yaml").read_text().splitlines()[1:]
    comment = " ".join(line[2:] for line in itertools.takewhile(lambda line: line.startswith("# "), lines))
    return re.split(r"(?<!et al)\. |;", comment)[0].rstrip(".")


def _sizes() -> Iterable[Text]:
    """The plain ones, then each preset's published ones."""
    of: dict[str | None, list[str]] = {None: []}
    for name in files_in("size"):
        of.setdefault(preset_of(CONF / "size" / f"{name}.yaml"), []).append(name)
    for preset, names in of.items():
        yield Text.assemble(f"  size={'|'.join(names)}", (f"  with preset={preset}" if preset else "", "dim"))


def _slot(name: str, baseline: str) -> Iterable[Text]:
    kind = SLOTS[name]
    yield _heading(name, FIELDS[name].metadata["help"])
    if kind in COMMON:
        yield from _settings(dataclasses.fields(COMMON[kind]), f"  {name}.")
    entries = registry.entries(kind)
    knobs = [[(f.name, f.type, f.default) for f in e.settings] for e in entries]
    width = len(name) + max(len(e.name) for e in entries) + 3
    alike = len(entries) > 1 and all(k == knobs[0] for k in knobs)
    if alike:
        yield from _settings(entries[0].settings, f"  {name}.", entries[0].choices)
    for entry in entries:
        mark = "*" if entry.name == baseline else " "
        yield Text.assemble(
            f" {mark}",
            (f"{name}={entry.name}".ljust(width), "bold green"),
            entry.summary,
            (f"  {entry.source}" if entry.source else "", "dim"),
        )
        if not alike:
            yield from _settings(entry.settings, f"      {name}.", entry.choices)


def _heading(name: str, text: str) -> Text:
    return Text.assemble((name, "bold"), f"  {text}")


def _settings(
    fields: Iterable[dataclasses.Field], prefix: str, choices: dict[str, tuple] | None = None
) -> Iterable[Text]:
    for f in fields:
        allowed = f.metadata.get("choices") or (choices or {}).get(f.name)
        kind = "|".join(map(str, allowed)) if allowed else _type(f.type)
        start = f"{prefix}{f.name}: {kind} = {_default(f)}"
        yield Text(f"{start:<44}  {f.metadata.get('help', '')}".rstrip())


def _type(kind: Any) -> str:
    name = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
    return name.replace(" | None", "|null").replace("Any", "path")


def _default(f: dataclasses.Field) -> str:
    if f.default_factory is not dataclasses.MISSING:
        return str(f.default_factory())
    if f.default is None or isinstance(f.default, bool):
        return {None: "null", True: "true", False: "false"}[f.default]
    return f"{f.default:g}" if isinstance(f.default, float) else str(f.default)
