"""Signals that ask a run to stop, acted on between its steps."""

import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, Self

USER_SIGNALS = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
SAME_KEY = 0.5  # seconds


class Stopped(SystemExit):
    """The end of a run that a signal stopped, raised after its checkpoint was saved."""

    def __init__(self, number: int, code: Any):
        super().__init__(code)
        self.number = number

    def __str__(self) -> str:
        return signal.Signals(self.number).name


class Stop:
    """A context that notes SIGTERM, SIGINT (Ctrl-C), and SIGUSR1 and SIGUSR2 if they already have a handler.

    A second SIGINT raises KeyboardInterrupt at once, without a checkpoint. One that follows within SAME_KEY seconds is
    the same Ctrl-C: torchrun and a sweep send their processes the SIGINT that the terminal has sent them too.

    submitit has one: on SIGUSR2 (time limit or preemption) it requeues the job and exits. It ignores SIGTERM, which
    SLURM also sends when it requeues a job itself. Either way the job goes on from the run's checkpoint, so the
    checkpoint is saved first and pass_on() calls submitit's handler afterwards.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._interrupted_at = 0.0  # seconds of time.monotonic
        self._previous: dict[int, Any] = {}  # signal -> the handler it had before

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows no handlers in other threads
            if_handled = (signal.SIGINT, *USER_SIGNALS)  # SIGINT is ignored after `nohup` or by a shell's `&`
            for number in (signal.SIGTERM, *(n for n in if_handled if callable(signal.getsignal(n)))):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._received:
            if time.monotonic() - self._interrupted_at > SAME_KEY:
                raise KeyboardInterrupt
            return
        self._interrupted_at = time.monotonic()
        self._received.append(number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def is_set(self) -> bool:
        """Return whether a signal has arrived."""
        return bool(self._received)

    def pass_on(self) -> None:
        """Call the previous handlers of the signals that arrived.

        Raises Stopped if a signal had no handler or its handler exits, and KeyboardInterrupt for SIGINT, whose handler
        is Python's own; otherwise the run goes on.
        """
        while self._received:
            number = self._received.pop(0)
            if not callable(self._previous[number]):
                raise Stopped(number, 128 + number)
            try:
                self._previous[number](number, sys._getframe())
            except SystemExit as e:
                raise Stopped(number, e.code) from e
