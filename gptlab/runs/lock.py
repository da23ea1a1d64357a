"""The lock of a run's folder, and the state of a run as other processes see it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gptlab.config import ConfigError
from gptlab.runs.record import read_status
from gptlab.runs.states import RunState


class Busy(Exception):
    """Another process is writing in this run's folder."""


def make_folder(folder: Path) -> None:
    """Create a run's folder; ConfigError, one line, if that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"runs_dir={folder.parents[1]}: cannot be written ({e.strerror}); give another") from e


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, or raise Busy. The lock ends with the process, however that ends."""
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
    """Return whether a live process holds the lock of a run's folder."""
    if not (folder / ".lock").exists():
        return False
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True


def state_of(folder: Path, status: dict[str, Any] | None = None) -> RunState:
    """Return a run's recorded state, corrected if its process was killed.

    A run that is recorded as running but not locked is interrupted; one without a record is waiting. `status` is the
    content of status.json if the caller has read it already.
    """
    recorded = read_status(folder) if status is None else status
    state = RunState(recorded.get("state", RunState.WAITING))
    return RunState.INTERRUPTED if state == RunState.RUNNING and not is_locked(folder) else state
