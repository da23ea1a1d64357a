"""The folder for what is downloaded or tokenised once: $GPTLAB_CACHE, or ~/.cache/gptlab."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from gptlab.config import ConfigError


def cache_folder() -> Path:
    return Path(os.environ.get("GPTLAB_CACHE") or "~/.cache/gptlab").expanduser()


def stamp(file: Path) -> tuple[str, int, int]:
    """Another one whenever the file was written to."""
    found = file.stat()
    return str(file), found.st_size, found.st_mtime_ns


def write_cached(path: Path, content: bytes | memoryview) -> None:
    """Write a file of the cache in whole or not at all: it appears under its name when it is complete."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as e:
        raise _unwritable(e) from e


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create a folder of the cache and keep other processes out of the block; the lock goes with a killed process."""
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
