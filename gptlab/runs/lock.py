"""Who is writing in a run's folder, and so what state the run is in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gptlab.config import ConfigError
from gptlab.runs.record import read_status


class Busy(Exception):
    """Another process is writing in this run's folder."""


def make_folder(folder: Path) -> None:
    """A run's folder, or one line on why it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"runs_dir={folder.parents[1]}: cannot be written ({e.strerror}); give another") from e


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run's folder. The lock goes with the process, however that ends."""
    make_folder(folder)
    lock = FileLock(folder / ".lock", timeout=2)  # seconds; is_locked holds it for an instant
    try:
        lock.acquire()
    except Timeout:
        raise Busy(f"{folder}: another process is running this") from None
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a live process holds the run's folder."""
    if not (folder / ".lock").exists():
        return False
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True


def state_of(folder: Path, status: dict[str, Any] | None = None) -> str:
    """As recorded; `interrupted` where the process that said `running` is gone, `waiting` before a first start.

    `status` is what status.json says, for who has read it already.
    """
    state = (read_status(folder) if status is None else status).get("state", "waiting")
    return "interrupted" if state == "running" and not is_locked(folder) else state
