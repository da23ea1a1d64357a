"""Signals that ask a run to stop, heard between its steps."""

import signal
import sys
import threading
from typing import Any, Self

USER = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


class Stopped(SystemExit):
    """The run ends here, its checkpoint saved."""

    def __init__(self, number: int, code: Any):
        super().__init__(code)
        self.number = number

    def __str__(self) -> str:
        return signal.Signals(self.number).name


class Stop:
    """A context in which SIGTERM is noted, and those of SIGUSR1 and SIGUSR2 that somebody listens to.

    submitit is somebody: SIGUSR2 tells it that the time is up or the machine wanted, and it requeues the job and exits;
    SIGTERM it passes over, for SLURM sends that too when it requeues the job itself. In either case the job goes on
    from the run's checkpoint, so that is saved first, and submitit told by pass_on() afterwards.
    """

    def __init__(self) -> None:
        self._heard: list[int] = []
        self._before: dict[int, Any] = {}  # signal -> who listened to it

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python lets nobody listen
            for number in (signal.SIGTERM, *(n for n in USER if callable(signal.getsignal(n)))):
                self._before[number] = signal.signal(number, lambda number, _: self._heard.append(number))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def is_set(self) -> bool:
        return bool(self._heard)

    def pass_on(self) -> None:
        """Tell who listened before. Where nobody did, or who did exits, the run ends with Stopped; else it goes on."""
        while self._heard:
            number = self._heard.pop(0)
            if not callable(self._before[number]):
                raise Stopped(number, 128 + number)
            try:
                self._before[number](number, sys._getframe())
            except SystemExit as e:
                raise Stopped(number, e.code) from e
