"""The states that a run can be in."""

from enum import StrEnum


class RunState(StrEnum):
    """A run's state, as status.json and every display name it."""

    WAITING = "waiting"  # not started yet
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # stopped or killed; the next start goes on from its checkpoint
    FINISHED = "finished"
    DIVERGED = "diverged"  # the loss was no longer finite: an outcome, as finishing is
    FAILED = "failed"  # an error ended it


OUTCOMES = (RunState.FINISHED, RunState.DIVERGED)  # never run again
SETTLED = (*OUTCOMES, RunState.FAILED)  # run again only with `gptlab sweep --retry`
