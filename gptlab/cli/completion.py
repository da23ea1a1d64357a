"""Completion of the command line. All names are cached in a file, so that a TAB imports neither torch nor Hydra."""

import dataclasses
import glob
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptlab.cli.new_component import COUNTERPARTS
from gptlab.cli.verb import Verb
from gptlab.config import COMMON, CONF, PACKAGE, SLOTS, Config

# "values": key -> possible values; "settings": slot -> option -> setting -> possible values
Names = dict[str, Any]
FILES = {
    "use": ".py",
    "data.path": "",
    "tokenizer.path": "",
    "train.init_from": "/",
}  # settings that are paths -> ending
TAKES_FOLDERS = ("status", "compare", "inspect", "sample", "convert")
TAKES_EXPERIMENTS = ("plan", "sweep", "probe")

# Bash splits words at `=`, so it is offered only the part after the last one.
BASH = r"""_gptlab() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$'\n'
    local word="${line##* }"
    COMPREPLY=($(gptlab completion bash "$line" 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*=}"}"}")
    [[ "${COMPREPLY[*]}" == *[=./] ]] && compopt -o nospace
}
complete -F _gptlab gptlab"""
ZSH = r"""_gptlab() {
    local -a found
    found=("${(@f)$(gptlab completion zsh "$LBUFFER" 2>/dev/null)}")
    compadd -Q -S '' -- $found
}
compdef _gptlab gptlab"""
FISH = "complete -c gptlab -f -a '(gptlab completion fish (commandline -cp | string collect) 2>/dev/null)'"
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def complete(line: str, names: Names, verbs: Mapping[str, Verb]) -> list[str]:
    """Return the words that can replace the last, unfinished word of `line`."""
    *before, word = line.split(" ")
    before = [w for w in before if w]
    if len(before) < 2:
        return [verb for verb in verbs if verb.startswith(word)]
    verb = before[1]
    if word.startswith("-"):
        return [flag for flag in verbs[verb].flags(verb) if flag.startswith(word)] if verb in verbs else []
    if verb == "new":
        return _paths(word, "/") if len(before) > 2 else [kind for kind in COUNTERPARTS if kind.startswith(word)]
    if verb in TAKES_FOLDERS:
        return _paths(word, "/")
    keys = _keys(names, before)
    if "=" in word:
        return _values(word, keys)
    matches = [key for key in keys if key.startswith(word)]
    if verb == "list":
        return sorted({key.partition(".")[0] for key in matches})
    # `train.` until the dot is typed, then `train.batch_size=`
    is_section = "." not in word
    offered = {f"{key.partition('.')[0]}." if "." in key and is_section else f"{key}=" for key in matches}
    return sorted(offered) + (_paths(word, ".yaml") if verb in TAKES_EXPERIMENTS else [])


def _keys(names: Names, before: list[str]) -> dict[str, list[str]]:
    """Return every setting and its possible values; for a slot chosen in `before`, only its component's settings."""
    chosen = dict(w.split("=", 1) for w in before if "=" in w)
    keys: dict[str, list[str]] = dict(names["values"])
    for slot, options in names["settings"].items():
        for option in [chosen[slot]] if chosen.get(slot) in options else options:
            keys |= {f"{slot}.{setting}": values for setting, values in options[option].items()}
    return keys


def _values(word: str, keys: dict[str, list[str]]) -> list[str]:
    key, _, value = word.partition("=")
    if key in FILES:
        return [f"{key}={path}" for path in _paths(value, FILES[key])]
    done, comma, last = value.rpartition(",")  # a sweep's list of values
    return [f"{key}={done}{comma}{v}" for v in keys.get(key, []) if v.startswith(last)]


def _paths(word: str, ending: str) -> list[str]:
    """Return folders, and files with this ending, whose path starts with `word`."""
    matches = (f"{p}/" if os.path.isdir(p) else p for p in sorted(glob.glob(f"{glob.escape(word)}*")))
    return [path for path in matches if path.endswith(("/", ending))]


def known_names() -> Names:
    """Return the names from the cache. Collect them again, in a few seconds, if gptlab's code or conf/ has changed."""
    sources = [
        *(p for room in ("config", "data", "model", "training") for p in PACKAGE.glob(f"{room}/*.py")),
        *CONF.rglob("*.yaml"),
    ]
    state = sorted([str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in sources)
    cache = Path(os.environ.get("GPTLAB_CACHE") or "~/.cache/gptlab").expanduser() / "completion.json"
    try:
        cached = json.loads(cache.read_bytes())
        if cached["state"] == state and "settings" in cached["names"]:
            names: Names = cached["names"]
            return names
    except (OSError, ValueError, KeyError):  # no cache yet, or one of another version
        pass
    from gptlab.files import write_json

    names = _collect()
    write_json(cache, {"state": state, "names": names})
    return names


def _collect() -> Names:
    from gptlab.config import registry
    from gptlab.config.compose import files_in

    registry.load()
    values = {"preset": files_in("preset"), "size": files_in("size")}
    for f in dataclasses.fields(Config):
        section = COMMON.get(SLOTS[f.name]) if f.name in SLOTS else f.type
        if f.name in SLOTS:
            values[f.name] = registry.names(SLOTS[f.name])
        if dataclasses.is_dataclass(section):
            values |= {f"{f.name}.{g.name}": _choices(g) for g in dataclasses.fields(section)}
        elif f.name not in SLOTS:
            values[f.name] = _choices(f)
    settings = {
        slot: {e.name: {f.name: list(e.choices.get(f.name, _choices(f))) for f in e.settings} for e in entries}
        for slot, entries in ((slot, registry.entries(kind)) for slot, kind in SLOTS.items())
    }
    return {"values": values, "settings": settings}


def _choices(f: dataclasses.Field[Any]) -> list[str]:
    return list(f.metadata.get("choices") or (["true", "false"] if f.type in (bool, bool | None) else []))
