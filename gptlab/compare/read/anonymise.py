"""Paths and addresses in a form that does not tell whose machine they are on.

Tables, reports and archives may be published.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath
from typing import Any

LOCAL_PATH = re.compile(r"(?:/|~|\.\.[/\\]|[A-Za-z]:[/\\])")  # the beginning of a path that only this machine has
PATH_IN_TEXT = re.compile(r"(^|[\s=\[,'\"])((?:/|~|\.\./)[^\s,'\"\]]*)")
# In a comment "/" alone is no path, and "~" may stand for "about"
PATH_IN_FILE = re.compile(r"(^|[\s=\[(,'\"])((?:/(?!\s)|~/|\.\./)[^\s,'\"\])}]+)", re.MULTILINE)


def shown_folder(folder: Path) -> str:
    """Return the path from the current folder: `runs/norms/norm-rmsnorm_seed-1-0c6e`.

    For a folder outside the current one, only the last two names are returned.
    """
    if not folder.is_absolute():
        return folder.as_posix()
    current = Path.cwd()
    return (folder.relative_to(current) if folder.is_relative_to(current) else _last(folder, 2)).as_posix()


def shown_address(tracker_hint: str | None) -> str:
    """Return W&B's address of a run or the command that uploads it; "" for anything else, such as an error."""
    if tracker_hint and tracker_hint.startswith("https://"):
        return tracker_hint
    command = re.fullmatch(r"`?(wandb sync (?:--include-online )?)([^`]+)`?", tracker_hint or "")
    if not command:
        return ""
    folder = command[2] if not LOCAL_PATH.match(command[2]) else _last(PurePath(command[2]), 2).as_posix()
    return command[1] + folder


def shown_file(text: str) -> str:
    """Replace each path of this machine in the text of an experiment file by its last name."""
    return PATH_IN_FILE.sub(lambda m: m[1] + PurePath(m[2]).name, text)


def shown_command(command: str) -> str:
    """Replace each path of this machine in a command line by its last name."""
    return PATH_IN_TEXT.sub(lambda m: m[1] + PurePath(m[2]).name, command)


def shorten(configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Replace each path of this machine in the configs by its last name.

    Different files with the same name stay different: the second one is called `text.txt (2)`.
    """
    sections = {id(section): section for config in configs for section in config.values()}  # most are shared
    paths = sorted({text for section in sections.values() for text in _texts(section) if LOCAL_PATH.match(text)})
    names = [PurePath(path).name for path in paths]
    short = {
        path: name + (f" ({names[:i].count(name) + 1})" if name in names[:i] else "")
        for i, (path, name) in enumerate(zip(paths, names, strict=True))
    }
    shown = {i: _replaced(section, lambda text: short.get(text, text)) for i, section in sections.items()}
    return [{key: shown[id(section)] for key, section in config.items()} for config in configs] if paths else configs


def _last(path: PurePath, n: int) -> PurePath:
    return PurePath(*[part for part in path.parts if part not in (path.anchor, "..", "~")][-n:])


def _texts(tree: Any) -> Iterable[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(value)


def _replaced(tree: Any, change: Callable[[str], str]) -> Any:
    if isinstance(tree, dict):
        return {key: _replaced(value, change) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_replaced(value, change) for value in tree]
    return change(tree) if isinstance(tree, str) else tree
