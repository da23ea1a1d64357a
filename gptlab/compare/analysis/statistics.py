"""Tests, intervals and power for a mean whose standard error is itself estimated.

An Estimate is a mean, its standard error and the degrees of freedom of that error. `text_share.estimate` makes one from
differences that are paired by seed. Everything here is exact if the estimate over its error has a t distribution.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri, nctdtr, stdtr, stdtrit

LEVEL = 0.05  # of every test; a family of tests shares it
POWER = 0.8  # the probability of detecting a true difference
RANGE = 0.9  # the confidence of a range of seeds or of detectable differences
MOST_PAIRS = 1000  # the largest number that seeds_needed returns

Interval = tuple[float, float]
UNKNOWN = (float("nan"), float("nan"))


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error, and the degrees of freedom of that error; NaN where they cannot be known."""

    mean: float
    error: float
    df: float


class Corrected(NamedTuple):
    """A p value after Holm's correction, and the level of the interval that agrees with it."""

    p: float
    level: float


def interval(estimate: Estimate, level: float = LEVEL) -> Interval:
    """Return the t interval of the mean with confidence 1 - level."""
    if not estimate.df > 0:
        return UNKNOWN
    half = float(stdtrit(estimate.df, 1 - level / 2)) * estimate.error
    return estimate.mean - half, estimate.mean + half


def two_sided_p(estimate: Estimate) -> float:
    """Return p of the two-sided t test of a mean of zero."""
    if not estimate.df > 0:
        return float("nan")
    if not estimate.error:
        return 0.0 if estimate.mean else 1.0
    return float(2 * stdtr(estimate.df, -abs(estimate.mean) / estimate.error))


def crossing(at: Callable[[float], Estimate], least: float, most: float, level: float | None = None) -> Interval:
    """Return the ends of the set of x at which a mean that rises with x may be zero, by t tests at the level.

    This is Fieller's interval if the mean is linear in x. Without a level both ends are the x at which the mean itself
    is zero. An end that is not between `least` and `most` is -inf if it lies below, and inf if it lies above.
    """

    def end(side: float) -> float:
        def bound(x: float) -> float:
            found = at(x)
            return found.mean + (side * float(stdtrit(found.df, 1 - level / 2)) * found.error if level else 0.0)

        if bound(least) > 0:
            return -float("inf")
        return float("inf") if bound(most) < 0 else float(brentq(bound, least, most, xtol=1e-10))

    return end(1.0), end(-1.0)


def equivalence_p(estimate: Estimate, margin: float) -> float:
    """Return the larger p of the two one-sided t tests of a mean within ±margin."""
    if not estimate.df > 0 or np.isnan(margin):
        return float("nan")
    room = margin - abs(estimate.mean)
    if not estimate.error:
        return 0.0 if room >= 0 else 1.0
    return float(stdtr(estimate.df, -room / estimate.error))


def holm(p: Sequence[float], family: int = 0) -> list[Corrected]:
    """Return the p values after Holm's step-down correction, each with the level of its interval.

    The interval of an arm has the level LEVEL / m, so that the intervals of all m arms hold together. Only where a
    later step of Holm's procedure rejects at a level above that, the interval has the level of this step: otherwise it
    would contain the zero that the test excludes.

    Args:
        p: the p values; NaN stays NaN.
        family: the number of tests that were planned, if it is larger than the number of p values.
    """
    values = np.asarray(p, dtype=float)
    order = [i for i in np.argsort(values, kind="stable") if not np.isnan(values[i])]
    m = max(len(order), family, 1)
    corrected = [Corrected(float("nan"), LEVEL / m) for _ in values]
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, (m - rank) * values[i])
        later = running < LEVEL and values[i] >= LEVEL / m
        corrected[i] = Corrected(float(min(running, 1.0)), LEVEL / (m - rank if later else m))
    return corrected


def power(effect: float, df: float, level: float = LEVEL) -> float:
    """Return the probability that the two-sided t test detects a mean of `effect` standard errors.

    The test statistic has a noncentral t distribution.
    """
    critical = stdtrit(df, 1 - level / 2)
    below, short = np.nan_to_num(nctdtr(df, effect, [-critical, critical]))  # scipy gives NaN where it underflows
    return float(1 - short + below)


@cache
def detectable(df: float, level: float = LEVEL) -> float:
    """Return the smallest mean that is detected with 80 % power, in standard errors."""
    if not df > 0:
        return float("nan")
    highest = 2.0 * float(stdtrit(df, 1 - level / 2)) + 10
    return float(brentq(lambda effect: power(effect, df, level) - POWER, 0, highest, xtol=1e-10))


def seeds_needed(sd: float, margin: float, level: float = LEVEL, text_variance: float = 0.0) -> float:
    """Return the number of pairs that detect a difference as large as the margin with 80 % power.

    Args:
        sd: standard deviation of a paired difference.
        margin: the difference.
        level: of the test.
        text_variance: the part of the mean's variance that more seeds do not lower, since all read the same text.

    Returns:
        The number; infinite if it exceeds MOST_PAIRS.
    """
    if not sd > 0 or np.isnan(margin):
        return float("nan") if np.isnan(sd) or np.isnan(margin) else 2.0
    low, high = 1, MOST_PAIRS  # too few; enough

    def enough(pairs: int) -> bool:
        return power(margin / (sd**2 / pairs + text_variance) ** 0.5, pairs - 1, level) >= POWER

    if not enough(high):
        return float("inf")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return float(high)


def spread_range(df: float) -> Interval:
    """Return the factors by which a true standard deviation may be below and above the estimated one.

    They are the ends of its 90 % interval, from the chi-square distribution.
    """
    if not df > 0:
        return UNKNOWN
    tail = (1 - RANGE) / 2
    return float((df / chdtri(df, tail)) ** 0.5), float((df / chdtri(df, 1 - tail)) ** 0.5)


def fisher_p(hits: int, total: int, other_hits: int, other_total: int) -> float:
    """Return the two-sided p of Fisher's exact test that two shares are equal; NaN without any trial."""
    if not total or not other_total:
        return float("nan")
    hits_in_all = hits + other_hits
    all_tables = comb(total + other_total, hits_in_all)
    chances = [
        comb(total, k) * comb(other_total, hits_in_all - k) / all_tables
        for k in range(max(0, hits_in_all - other_total), min(total, hits_in_all) + 1)
    ]
    seen = comb(total, hits) * comb(other_total, other_hits) / all_tables
    return min(1.0, sum(chance for chance in chances if chance <= seen * (1 + 1e-9)))
