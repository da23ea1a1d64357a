"""The processes that a test has started, with all that these have started, found by a mark in their environment."""

import os
import time
from pathlib import Path

MARK = "GPTLAB_TEST_MARK"


def left(mark: str) -> list[str]:
    """Return the command lines of living processes that have MARK=`mark`, this one excepted."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if marked and int(folder.name) != os.getpid():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended, or belongs to someone else
            continue
    return [line for line in found if line]  # a zombie has none


def wait_until_none_is_left(mark: str, seconds: float) -> None:
    """Wait for the end of all these processes; fail with their command lines if they go on."""
    deadline = time.monotonic() + seconds
    while processes := left(mark):
        assert time.monotonic() < deadline, processes
        time.sleep(0.2)
