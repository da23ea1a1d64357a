"""Atomic file writes, and JSON read and written one way."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and move it to `path` if the block succeeds.

    A reader finds the old content or the new one, never a part. After an error or a kill the old one stays. With
    `sync` the new content is on the disk before it takes the old one's place, so a power cut loses neither.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        if sync:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a whole file, or leave the old one."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a whole file in UTF-8, or leave the old one."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, or {} if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def decode_utf8(content: bytes, place: str) -> str:
    """Return the text of a user's file without a byte-order mark.

    Args:
        content: the file's bytes.
        place: names the file in the error.

    Raises:
        ValueError: one line with the place, the position of the first byte that is not UTF-8, and the mend.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{place}: is UTF-16, not UTF-8; convert it to UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise ValueError(f"{place}: byte {e.start}, in line {line}, is not UTF-8; convert the file to UTF-8") from e


def whole_lines(path: Path) -> list[str]:
    """Return the complete lines of a text file, without a last one that was cut off; [] if there is no file."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file, one per whole line."""
    return [json.loads(line) for line in whole_lines(path)]


def finite(tree: Any) -> Any:
    """Replace every NaN and infinity in nested dicts and lists by None, which JSON can hold."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
