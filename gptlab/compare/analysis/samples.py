"""The text that the model of an arm wrote after training: that of the arm's first seed."""

from collections.abc import Sequence

from gptlab.compare.read.runs import Run, read_sample


def first_with_sample(runs: Sequence[Run]) -> Run | None:
    """Return the first of an arm's runs, in the order of their seeds, whose model wrote something."""
    return next((run for run in runs if read_sample(run)), None)


def sample_of(runs: Sequence[Run]) -> str:
    """Return what the model of an arm wrote; "" if no run has kept it."""
    run = first_with_sample(runs)
    return read_sample(run) if run else ""
