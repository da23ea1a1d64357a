"""Completion of the command line. The names are kept in a file, so that a TAB imports neither torch nor Hydra."""

import dataclasses
import glob
import json
import os
from pathlib import Path
from typing import Any

from gptlab.config import COMMON, CONF, PACKAGE, SLOTS, Config

Names = dict[str, Any]  # "values": key -> what it can be; "knobs": slot -> option -> knob -> what that can be
FILES = {"use": ".py", "data.path": "", "tokenizer.path": "", "train.init_from": "/"}  # paths, with the ending

# Bash ends a word at each `=`, so only what follows the last one is offered to it.
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


def complete(line: str, names: Names, verbs: list[str]) -> list[str]:
    """The words that can stand at the end of `line` instead of its last, unfinished one."""
    *before, word = line.split(" ")
    before = [w for w in before if w]
    if len(before) < 2:
        return [v for v in verbs if v.startswith(word)]
    verb = before[1]
    if verb in ("compare", "inspect", "sample", "convert"):
        return _paths(word, "/")
    keys = _keys(names, before)
    if "=" in word:
        return _values(word, keys)
    if verb == "list":
        return sorted({k.partition(".")[0] for k in keys if k.startswith(word)})
    # `train.` until the dot is typed, then `train.batch_size=`
    found = {k.partition(".")[0] + "." if "." in k and "." not in word else f"{k}=" for k in keys if k.startswith(word)}
    return sorted(found) + (_paths(word, ".yaml") if verb in ("sweep", "probe") else [])


def _keys(names: Names, before: list[str]) -> dict[str, list[str]]:
    """Every setting and what it can be; of a slot chosen in `before`, only the knobs of its component."""
    chosen = dict(w.split("=", 1) for w in before if "=" in w)
    keys: dict[str, list[str]] = dict(names["values"])
    for slot, options in names["knobs"].items():
        for option in [chosen[slot]] if chosen.get(slot) in options else options:
            keys |= {f"{slot}.{knob}": values for knob, values in options[option].items()}
    return keys


def _values(word: str, keys: dict[str, list[str]]) -> list[str]:
    key, _, value = word.partition("=")
    if key in FILES:
        return [f"{key}={path}" for path in _paths(value, FILES[key])]
    done, comma, last = value.rpartition(",")  # a sweep's list of values
    return [f"{key}={done}{comma}{v}" for v in keys.get(key, []) if v.startswith(last)]


def _paths(word: str, ending: str) -> list[str]:
    """Folders, and files with that ending."""
    found = (f"{p}/" if os.path.isdir(p) else p for p in sorted(glob.glob(f"{glob.escape(word)}*")))
    return [p for p in found if p.endswith(("/", ending))]


def known_names() -> Names:
    """From the cache; made anew, in a few seconds, when the components or conf/ are not what they were."""
    sources = [
        *(p for room in ("config", "data", "model", "training") for p in PACKAGE.glob(f"{room}/*.py")),
        *CONF.rglob("*.yaml"),
    ]
    state = sorted([str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in sources)
    cache = Path(os.environ.get("GPTLAB_CACHE") or "~/.cache/gptlab").expanduser() / "completion.json"
    try:
        kept = json.loads(cache.read_bytes())
        if kept["state"] == state:
            return kept["names"]
    except (OSError, ValueError, KeyError):  # not there yet, or another version's
        pass
    from gptlab.data.cache import write_cached

    names = _collect()
    write_cached(cache, json.dumps({"state": state, "names": names}).encode())
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
    knobs = {
        slot: {e.name: {f.name: list(e.choices.get(f.name, _choices(f))) for f in e.settings} for e in entries}
        for slot, entries in ((slot, registry.entries(kind)) for slot, kind in SLOTS.items())
    }
    return {"values": values, "knobs": knobs}


def _choices(f: dataclasses.Field) -> list[str]:
    return list(f.metadata.get("choices") or (["true", "false"] if f.type in (bool, bool | None) else []))
