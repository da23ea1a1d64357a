"""Signals that ask a run to stop, acted on between its steps."""

import signal
import sys
import threading
from typing import Any, Self

USER_SIGNALS = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


class Stopped(SystemExit):
    """The end of a run that a signal stopped, raised after its checkpoint was saved."""

    def __init__(self, number: int, code: Any):
        super().__init__(code)
        self.number = number

    def __str__(self) -> str:
        return signal.Signals(self.number).name


class Stop:
    """A context that notes SIGTERM, and SIGUSR1 and SIGUSR2 if they already have a handler.

    submitit has one: on SIGUSR2 (time limit or preemption) it requeues the job and exits. It ignores SIGTERM, which
    SLURM also sends when it requeues a job itself. Either way the job goes on from the run's checkpoint, so the
    checkpoint is saved first and pass_on() calls submitit's handler afterwards.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._previous: dict[int, Any] = {}  # signal -> the handler it had before

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows no handlers in other threads
            for number in (signal.SIGTERM, *(n for n in USER_SIGNALS if callable(signal.getsignal(n)))):
                self._previous[number] = signal.signal(number, lambda number, _: self._received.append(number))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def is_set(self) -> bool:
        """Return whether a signal has arrived."""
        return bool(self._received)

    def pass_on(self) -> None:
        """Call the previous handlers of the signals that arrived.

        Raises Stopped if a signal had no handler or its handler exits; otherwise the run goes on.
        """
        while self._received:
            number = self._received.pop(0)
            if not callable(self._previous[number]):
                raise Stopped(number, 128 + number)
            try:
                self._previous[number](number, sys._getframe())
            except SystemExit as e:
                raise Stopped(number, e.code) from e
