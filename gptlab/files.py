"""Atomic file writes, and JSON read and written one way."""

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class FileError(ValueError):
    """A file that cannot be read: one line that names it. The command line exits 2 on it."""


def require_writable(path: Path, place: str) -> None:
    """Refuse a file for output that cannot be written, before any work is done.

    Args:
        path: the file.
        place: names the file in the error, such as --csv=table.csv.

    Raises:
        FileError: it is a folder, its name is too long, or its folder cannot be written to.
    """
    try:
        if path.is_dir():
            raise FileError(f"{place}: is a folder; give the name of a file in it")
        above = next(folder for folder in path.absolute().parents if folder.exists())
    except OSError as e:
        raise FileError(f"{place}: cannot be written ({e.strerror}); give another name") from e
    if not above.is_dir():
        raise FileError(f"{place}: {above} is a file, not a folder; give another name")
    try:
        tempfile.TemporaryFile(dir=above).close()  # os.access allows root all, also in /proc
    except OSError as e:
        raise FileError(f"{place}: {above} cannot be written to ({e.strerror}); give another folder") from e


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


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file that gptlab has written, or {} if there is no such file.

    Raises:
        FileError: it is empty, cut off or something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as e:
        raise FileError(f"{path}: cannot be read ({e.strerror})") from e
    except (ValueError, RecursionError) as e:
        raise FileError(f"{path}: is empty, cut off or not JSON ({e}); restore it, or delete its folder") from e
    if not isinstance(content, dict):
        raise FileError(f"{path}: is JSON but not an object; restore it, or delete its folder")
    return content


def decode_utf8(content: bytes, place: str) -> str:
    """Return the text of a user's file without a byte-order mark.

    Args:
        content: the file's bytes.
        place: names the file in the error.

    Raises:
        FileError: one line with the place, the position of the first byte that is not UTF-8, and the mend.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FileError(f"{place}: is UTF-16, not UTF-8; convert it to UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise FileError(f"{place}: byte {e.start} is not UTF-8 (line {line}); convert the file to UTF-8") from e


def whole_lines(path: Path) -> list[str]:
    """Return the whole lines of a text file, without their ends and without a last one that was cut off."""
    if not path.exists():
        return []
    return decode_utf8(path.read_bytes(), str(path)).split("\n")[:-1]


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file, one per whole line. Raises FileError for a line that is no object."""
    objects = []
    for number, line in enumerate(whole_lines(path), 1):
        try:
            objects.append(json.loads(line))
        except ValueError as e:
            raise FileError(f"{path}: line {number} is not JSON ({e}); restore it, or delete its folder") from e
        if not isinstance(objects[-1], dict):
            raise FileError(f"{path}: line {number} is not an object; restore it, or delete its folder")
    return objects


def finite(tree: Any) -> Any:
    """Replace every NaN and infinity in nested dicts and lists by None, which JSON can hold."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
