"""Places on a machine, without what says whose: a table, a report and a kept file may be published."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath
from typing import Any

HERE_ONLY = re.compile(r"(?:/|~|\.\.[/\\]|[A-Za-z]:[/\\])")  # how a path begins that is one of this machine
IN_TEXT = re.compile(r"(^|[\s=\[,'\"])((?:/|~|\.\./)[^\s,'\"\]]*)")


def shown_folder(folder: Path) -> str:
    """From here, or where it is not below, its last two names: `runs/norms/norm-rmsnorm_seed-1-0c6e`."""
    if not folder.is_absolute():
        return folder.as_posix()
    here = Path.cwd()
    return (folder.relative_to(here) if folder.is_relative_to(here) else _last(folder, 2)).as_posix()


def shown_address(said: str | None) -> str:
    """W&B's address of a run, or the command that uploads it; "" for anything else, such as an error."""
    if said and said.startswith("https://"):
        return said
    command = re.fullmatch(r"`?(wandb sync (?:--include-online )?)([^`]+)`?", said or "")
    if not command:
        return ""
    folder = command[2] if not HERE_ONLY.match(command[2]) else _last(PurePath(command[2]), 2).as_posix()
    return command[1] + folder


def shown_command(command: str) -> str:
    """A command line with the names of files and folders in place of their paths on this machine."""
    return IN_TEXT.sub(lambda m: m[1] + PurePath(m[2]).name, command)


def shorten(configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The configs with the file's name in place of every path of this machine; `text.txt (2)` is another text.txt."""
    sections = {id(section): section for config in configs for section in config.values()}  # most are shared
    found = sorted({text for section in sections.values() for text in _texts(section) if HERE_ONLY.match(text)})
    names = [PurePath(path).name for path in found]
    short = {
        path: name + (f" ({names[:i].count(name) + 1})" if name in names[:i] else "")
        for i, (path, name) in enumerate(zip(found, names, strict=True))
    }
    shown = {i: _replaced(section, lambda text: short.get(text, text)) for i, section in sections.items()}
    return [{key: shown[id(section)] for key, section in config.items()} for config in configs] if found else configs


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
