"""Processes that start at once: they are forked from a server that has imported gptlab and PyTorch.

A test that kills a run, sends it a signal or gives it an environment of its own needs a process, but not the seconds
in which an interpreter imports PyTorch. What these processes do not show is that gptlab is imported in the right order,
or without some library: start those with `subprocess`.
"""

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import threading
import types
from multiprocessing import get_context
from pathlib import Path

import torch

GPTLAB = "from gptlab.cli.main import main; main()"  # `gptlab WORD ...`
SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(["pytest", "gptlab.sweeps.run_sweep", "gptlab.cli.commands", "wandb"])


class Started:
    """A process in a group of its own, with the methods of subprocess.Popen that tests need."""

    def __init__(self, code: str, *words: str, cwd: Path | None = None, env: dict[str, str] | None = None):
        self.folder = tempfile.TemporaryDirectory()
        environment = dict(os.environ) if env is None else env
        given = code, list(map(str, words)), str(cwd or Path.cwd()), environment, self.folder.name
        self.process = SERVER.Process(target=_run, args=given)
        self.process.start()
        self.pid: int = self.process.pid
        atexit.register(self.end)  # before multiprocessing waits for it

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("gptlab", timeout)
        return self.process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return tuple(Path(self.folder.name, name).read_text() for name in ("out", "err"))

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def end(self) -> None:
        if self.process.is_alive():
            os.killpg(self.pid, signal.SIGKILL)


def run(code: str, *words: str, timeout: float = 240, **options) -> subprocess.CompletedProcess:
    """Run `python -c CODE WORD ...` to its end."""
    started = Started(code, *words, **options)
    try:
        out, err = started.communicate(timeout)
    finally:
        started.end()
    return subprocess.CompletedProcess([code, *words], started.returncode, out, err)


def _run(code: str, words: list[str], cwd: str, env: dict[str, str], folder: str) -> None:
    """Become a process as `python -c` starts it, with its output in two files of `folder`."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    from wandb.sdk.data_types._private import MEDIA_TMP  # a folder that the first fork to end would delete for all

    MEDIA_TMP._finalizer.detach()
    MEDIA_TMP.name = str(Path(folder, "media"))
    os.mkdir(MEDIA_TMP.name)
    sys.argv = ["gptlab" if code == GPTLAB else "-c", *words]
    torch.set_num_threads(1)
    sys.modules["__main__"] = main = types.ModuleType("__main__")  # not pytest's, which a sweep's workers would import
    try:
        exec(compile(code, "<string>", "exec"), vars(main))
    finally:
        threading._shutdown()  # as an interpreter ends, which a fork does not
        atexit._run_exitfuncs()
