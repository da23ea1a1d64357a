"""Simulated losses, and how much a simulated rate may depart from the true one.

The losses are L = E + A * C^-alpha with noise that the runs of a seed share in part.
"""

import numpy as np
import pandas as pd
from scipy import stats

SURE = 0.9999  # two-sided; the chance that a right rate fails a test

SLOPE = 0.22  # nats per e-fold of tokens, about what the smallest size shows


def falling(x, alpha):
    """Return the loss at x = ln(compute), above the floor, with the slope SLOPE at 0."""
    return SLOPE / alpha * np.exp(-alpha * np.asarray(x, dtype=float))


def seeds_of(rng, means, n, sd, correlation):
    """Return losses by seed, a Series for each mean; `correlation` is that between the runs of a seed."""
    own, shared = rng.standard_normal((n, len(means))), rng.standard_normal((n, 1))
    losses = np.asarray(means) + sd * (correlation**0.5 * shared + (1 - correlation) ** 0.5 * own)
    return [pd.Series(column) for column in losses.T]


def allowed(rate, draws):
    """Return the numbers of hits among the draws that a true rate makes likely, as shares."""
    low, high = stats.binom.interval(SURE, draws, rate)
    return low / draws, high / draws
