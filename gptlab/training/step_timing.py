"""The training step of a prepared run as something that can be timed, without its run's folder."""

import time
from collections.abc import Callable

import torch

from gptlab.training.trainer import Trainer


def step_of(trainer: Trainer) -> Callable[[], None]:
    """Return a function that does a step as the training loop does it, diagnostics included."""

    def step() -> None:
        trainer.watch.before_step(trainer.step + 1)
        trainer.training_step()
        if trainer.watch.due(trainer.step):
            trainer.watch.take()

    return step


def seconds_of(step: Callable[[], object], n: int, device: torch.device) -> float:
    """Return the seconds that `n` steps take together, until the device has finished them."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(n):
        step()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work. A CPU has no queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
