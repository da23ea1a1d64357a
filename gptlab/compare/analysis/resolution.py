"""The step in which a metric can change, below which seeds do not show how much they vary.

An accuracy over 2,000 answers is a multiple of 1/2000. A few seeds may then agree to the last digit, and a test that
takes their spread for zero would find any difference certain.
"""

from collections.abc import Iterable

import numpy as np

MOST_ANSWERS = 200_000
ROUNDING = 1e-7  # relative step of a loss, which is summed in float32
EXACT = 1e-9  # of a share that is stored as float64


def resolution(scores: Iterable[float]) -> float:
    """Return the step of a metric from all its scores: 1/n if they are shares of n answers, else that of rounding."""
    values = np.unique(np.array([score for score in scores if np.isfinite(score)], dtype=float))
    if not len(values):
        return 0.0
    if len(values) > 1 and values[0] >= 0 and values[-1] <= 1 and (answers := _answers(values)):
        return 1 / answers
    return ROUNDING * float(np.abs(values).max())


def _answers(shares: np.ndarray) -> int:
    """Return the smallest number of answers of which all shares are shares; 0 if there is none up to MOST_ANSWERS."""
    candidates = np.arange(1, MOST_ANSWERS + 1)
    for share in shares:
        counts = share * candidates
        candidates = candidates[np.abs(counts - counts.round()) < EXACT * candidates]
    return int(candidates[0]) if len(candidates) else 0
