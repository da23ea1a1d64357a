"""Ctrl-C in a sweep: the cells that are running save a checkpoint before their processes end.

A terminal sends SIGINT to the sweep and to its workers; `kill -INT` sends it to the sweep alone. joblib ends all
workers as soon as one has ended or the sweep is interrupted. So the sweep tells its workers to stop and waits until
none of them runs a cell, and a worker that has stopped waits for the sweep to end it.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from gptlab.runs.lock import is_locked
from gptlab.runs.record import read_status

SECONDS_TO_SAVE = 60.0  # for the end of a step, the checkpoint and the tracker's last uploads
SECONDS_BETWEEN_LOOKS = 0.2


@contextmanager
def cells_save_on_ctrl_c(folders: Sequence[Path]) -> Iterator[None]:
    """Inside the context, the first Ctrl-C lets the cells in `folders` save; the second ends the sweep at once."""
    if threading.current_thread() is not threading.main_thread():  # Python allows no handlers in other threads
        yield
        return
    previous = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, previous)
        if _running(folders):
            print("gptlab: every cell saves a checkpoint; Ctrl-C again stops at once", file=sys.stderr)
            _stop_cells(folders)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _stop_cells(folders: Sequence[Path]) -> None:
    """Ask the workers to stop their cells, those too that are started meanwhile, and wait for them."""
    told: set[tuple[Path, int]] = set()
    deadline = time.monotonic() + SECONDS_TO_SAVE
    while (running := _running(folders)) and time.monotonic() < deadline:
        for worker in running - told:
            with suppress(ProcessLookupError):
                os.kill(worker[1], signal.SIGINT)
        told |= running
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _running(folders: Sequence[Path]) -> set[tuple[Path, int]]:
    """Return the cells that workers of this process run, each with its worker's process id."""
    workers = {process.pid for process in multiprocessing.active_children()}
    owners = {folder: read_status(folder).get("pid", 0) for folder in folders if workers}
    return {(folder, pid) for folder, pid in owners.items() if pid in workers and is_locked(folder)}


@contextmanager
def stopped_worker_waits() -> Iterator[None]:
    """Inside the context, in a worker, Ctrl-C ends the work but not the process, which the sweep ends.

    Outside of it, SIGINT is ignored: a worker without a job is ended by the sweep as well.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep(2 * SECONDS_TO_SAVE)
        os._exit(128 + signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
