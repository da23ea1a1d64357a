"""Tests, intervals and power for differences that are paired by seed.

If the differences do not vary at all, as for identical arms, p is 1 if they are zero and 0 if they are not.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import nctdtr, stdtr, stdtrit

from gptlab.compare.analysis.comparison import CONFIDENCE

POWER = 0.8  # the probability of detecting a true difference
ALPHA = 1 - CONFIDENCE
RESAMPLES = 9999
MOST_PAIRS = 1000  # the largest number that seeds_needed returns

Interval = tuple[float, float]
UNKNOWN = (float("nan"), float("nan"))


def t_interval(differences: np.ndarray) -> Interval:
    """Return the 95 % t interval of the mean."""
    n = len(differences)
    if n < 2:
        return UNKNOWN
    half = stdtrit(n - 1, (1 + CONFIDENCE) / 2) * differences.std(ddof=1) / n**0.5
    return float(differences.mean() - half), float(differences.mean() + half)


def bootstrap_interval(differences: np.ndarray) -> Interval:
    """Return the 95 % bootstrap interval of the mean over resampled pairs (BCa: Efron 1987, JASA 82: 171-185).

    The resampling has a fixed seed. The interval assumes no normal distribution, but with fewer than about ten seeds it
    is too narrow, since it takes the observed spread as the true one. Verdicts therefore use the t interval.
    """
    if len(differences) < 2 or not np.ptp(differences):
        return t_interval(differences)
    return _bootstrap(tuple(differences.tolist()))


@cache  # the differences at equal steps are mostly those at equal tokens
def _bootstrap(differences: tuple[float, ...]) -> Interval:
    from scipy.stats import bootstrap  # half a second to import

    interval = bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def paired_p(differences: np.ndarray) -> float:
    """Return p of the two-sided t test of a mean of zero."""
    n = len(differences)
    if n < 2:
        return float("nan")
    if not np.ptp(differences):
        return 0.0 if differences[0] else 1.0
    t = differences.mean() / (differences.std(ddof=1) / n**0.5)
    return float(2 * stdtr(n - 1, -abs(t)))


def equivalence_p(differences: np.ndarray, margin: float) -> float:
    """Return the larger p of the two one-sided t tests of a mean within ±margin."""
    n = len(differences)
    if n < 2 or np.isnan(margin):
        return float("nan")
    room = margin - abs(differences.mean())
    if not np.ptp(differences):
        return 0.0 if room >= 0 else 1.0
    return float(stdtr(n - 1, -room / (differences.std(ddof=1) / n**0.5)))


def holm(p: Sequence[float]) -> list[float]:
    """Return the p values after Holm's step-down correction. NaN stays NaN and is not counted."""
    values = np.asarray(p, dtype=float)
    order = [i for i in np.argsort(values, kind="stable") if not np.isnan(values[i])]
    corrected = values.copy()
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, (len(order) - rank) * values[i])
        corrected[i] = min(running, 1.0)
    return [float(value) for value in corrected]


def power(effect: float, pairs: int) -> float:
    """Return the probability that the two-sided paired t test at 5 % detects a mean of `effect` standard deviations.

    The test statistic has a noncentral t distribution.
    """
    shift = effect * pairs**0.5
    critical = stdtrit(pairs - 1, 1 - ALPHA / 2)
    below, short = np.nan_to_num(nctdtr(pairs - 1, shift, [-critical, critical]))  # scipy gives NaN where it underflows
    return float(1 - short + below)


@cache
def detectable(pairs: int) -> float:
    """Return the smallest mean that the pairs detect with 80 % power, in standard deviations of the differences."""
    if pairs < 2:
        return float("nan")
    return float(brentq(lambda effect: power(effect, pairs) - POWER, 0, 20, xtol=1e-10))


def seeds_needed(effect: float) -> float:
    """Return the number of pairs that detect a mean of `effect` standard deviations with 80 % power.

    It is infinite if it exceeds MOST_PAIRS.
    """
    if np.isnan(effect):
        return float("nan")
    low, high = 1, MOST_PAIRS  # too few; enough
    if detectable(high) > effect:
        return float("inf")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable(middle) <= effect else (middle, high)
    return float(high)
