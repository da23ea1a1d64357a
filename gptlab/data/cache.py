"""The cache folder of downloads and tokenised texts: $GPTLAB_CACHE, or ~/.cache/gptlab."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from gptlab.config import ConfigError
from gptlab.files import write_bytes


def cache_folder() -> Path:
    """Return the cache folder, which may not exist yet."""
    return Path(os.environ.get("GPTLAB_CACHE") or "~/.cache/gptlab").expanduser()


def file_stamp(file: Path) -> tuple[str, int, int]:
    """Return a stamp of a file (path, size, modification time) that changes whenever the file is written."""
    status = file.stat()
    return str(file), status.st_size, status.st_mtime_ns


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
