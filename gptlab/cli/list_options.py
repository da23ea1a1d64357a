"""`gptlab list`: slots, their options, and the settings of each, as data and as one line each."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from gptlab.config import COMMON, CONF, SLOTS, Config, ConfigError, did_you_mean, plain, registry
from gptlab.config.compose import files_in, load_config
from gptlab.config.presets import preset_of

FIELDS = {f.name: f for f in dataclasses.fields(Config)}
Described = dict[str, Any]


def describe_options(only: Sequence[str] = ()) -> dict[str, Described]:
    """Return the slots, sections and settings of a config by name, or those in `only`.

    A slot has `options`, each with its own `settings`; a section has `settings`; a setting has `type` and `default`.
    Raises ConfigError for a name that does not exist.
    """
    known = ("preset", *FIELDS)
    for name in only:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(f"{name}: no such slot or section{hint}; choose from {', '.join(known)}")
    baseline = plain(load_config())
    return {name: _describe(name, baseline) for name in only or known}


def _describe(name: str, baseline: dict[str, Any]) -> Described:
    if name == "preset":
        presets = {preset: _first_comment(preset) for preset in files_in("preset")}
        return {"help": "published models, as differences from the baseline", "presets": presets}
    field = FIELDS[name]
    if name in SLOTS:
        return _describe_slot(name, baseline[name]["name"])
    if not dataclasses.is_dataclass(field.type):
        return _describe_setting("", field)
    described = {"help": field.metadata["help"], "settings": _describe_settings(name, dataclasses.fields(field.type))}
    return described | ({"sizes": _sizes()} if name == "size" else {})


def _describe_slot(name: str, baseline: str) -> Described:
    kind = SLOTS[name]
    common = dataclasses.fields(COMMON[kind]) if kind in COMMON else ()
    options = [
        {
            "name": entry.name,
            "summary": entry.summary,
            "source": entry.source,
            "settings": _describe_settings(name, entry.settings, entry.choices),
        }
        for entry in registry.entries(kind)
    ]
    return {
        "help": FIELDS[name].metadata["help"],
        "baseline": baseline,
        "settings": _describe_settings(name, common),
        "options": options,
    }


def _describe_settings(
    prefix: str, fields: Iterable[dataclasses.Field[Any]], choices: dict[str, tuple[Any, ...]] | None = None
) -> list[Described]:
    return [_describe_setting(f"{prefix}.", field, (choices or {}).get(field.name)) for field in fields]


def _describe_setting(prefix: str, field: dataclasses.Field[Any], choices: tuple[Any, ...] | None = None) -> Described:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return {
        "key": f"{prefix}{field.name}",
        "type": _type(field.type),
        "default": default,
        "choices": list(field.metadata.get("choices") or choices or []),
        "help": field.metadata.get("help", ""),
    }


def _type(kind: Any) -> str:
    name = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
    return name.replace(" | None", "|null").replace("Any", "path")


def _first_comment(preset: str) -> str:
    """Return the first sentence of a preset's file: the model, its authors and its source."""
    lines = (CONF / "preset" / f"{preset}.yaml").read_text().splitlines()[1:]
    comment = " ".join(line[2:] for line in itertools.takewhile(lambda line: line.startswith("# "), lines))
    return re.split(r"(?<!et al)\. |;", comment)[0].rstrip(".")


def _sizes() -> list[Described]:
    """Return the sizes that go with any preset, then those of each published one."""
    by_preset: dict[str | None, list[str]] = {None: []}
    for name in files_in("size"):
        by_preset.setdefault(preset_of(CONF / "size" / f"{name}.yaml"), []).append(name)
    return [{"preset": preset, "names": names} for preset, names in by_preset.items()]


def print_options(described: dict[str, Described], console: Console) -> None:
    """Print what `describe_options` returned."""
    was_single = False
    for i, (name, item) in enumerate(described.items()):
        single = "type" in item
        if i and not (single and was_single):
            console.print()
        for line in _lines(name, item):
            console.print(line, soft_wrap=True)
        was_single = single


def _lines(name: str, item: Described) -> Iterable[Text]:
    if "type" in item:
        yield _setting_line(item, "")
        return
    yield Text.assemble((name, "bold"), f"  {item['help']}")
    for preset, comment in item.get("presets", {}).items():
        width = max(map(len, item["presets"]))
        yield Text.assemble("  ", (f"preset={preset:<{width}}", "bold green"), f"  {comment}")
    for size in item.get("sizes", []):
        with_preset = f"  with preset={size['preset']}" if size["preset"] else ""
        yield Text.assemble(f"  size={'|'.join(size['names'])}", (with_preset, "dim"))
    yield from (_setting_line(setting, "  ") for setting in item.get("settings", []))
    if "options" in item:
        yield from _option_lines(name, item)


def _option_lines(name: str, item: Described) -> Iterable[Text]:
    """Yield a line for each option, with its settings below it, or once for all options if they are the same."""
    options = item["options"]
    width = len(name) + max(len(option["name"]) for option in options) + 3
    same_settings = len(options) > 1 and all(option["settings"] == options[0]["settings"] for option in options)
    if same_settings:
        yield from (_setting_line(setting, "  ") for setting in options[0]["settings"])
    for option in options:
        yield Text.assemble(
            f" {'*' if option['name'] == item['baseline'] else ' '}",
            (f"{name}={option['name']}".ljust(width), "bold green"),
            option["summary"],
            (f"  {option['source']}" if option["source"] else "", "dim"),
        )
        if not same_settings:
            yield from (_setting_line(setting, "      ") for setting in option["settings"])


def _setting_line(setting: Described, indent: str) -> Text:
    kind = "|".join(map(str, setting["choices"])) or setting["type"]
    start = f"{indent}{setting['key']}: {kind} = {_default(setting['default'])}"
    return Text(f"{start:<44}  {setting['help']}".rstrip())


def _default(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
