"""The cache folder of downloads and tokenised texts: $GPTLAB_CACHE, or ~/.cache/gptlab."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from gptlab.config import ConfigError
from gptlab.files import write_bytes


def cache_folder() -> Path:
    """Return the cache folder, which may not exist yet."""
    return Path(os.environ.get("GPTLAB_CACHE") or "~/.cache/gptlab").expanduser()


class Stamp(NamedTuple):
    """The properties of a file that are known without reading it."""

    path: str
    size: int  # bytes
    modified: int  # nanoseconds since 1970
    changed: int  # the same, of the last change of content, name or mode; programs that copy times do not set it
    inode: int


def file_stamp(file: Path) -> Stamp:
    """Return a stamp of a file that changes whenever the file is written, or replaced by one with an older time."""
    status = file.stat()
    return Stamp(str(file.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def write_cached(path: Path, content: bytes | memoryview) -> None:
    """Write a whole file of the cache, or leave the old one; ConfigError, one line, if the cache is not writable."""
    try:
        write_bytes(path, content)
    except OSError as e:
        raise _unwritable(e) from e


@contextmanager
def cache_entry_locked(folder: Path) -> Iterator[None]:
    """Create a folder of the cache and lock it for the block. The lock ends with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        lock.acquire()
    except OSError as e:
        raise _unwritable(e) from e
    try:
        yield
    finally:
        lock.release()


def _unwritable(e: OSError) -> ConfigError:
    return ConfigError(f"GPTLAB_CACHE={cache_folder()}: cannot be written ({e.strerror}); set it to a writable folder")
