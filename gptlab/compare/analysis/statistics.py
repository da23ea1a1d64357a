"""Tests, intervals and power for differences that are paired by seed. Numbers in, numbers out.

Differences that do not vary at all, as those of identical arms, have p = 1 if they are zero and p = 0 if not.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import nctdtr, stdtr, stdtrit

from gptlab.compare.analysis.comparison import CONFIDENCE

POWER = 0.8  # the chance of showing a difference that is there
ALPHA = 1 - CONFIDENCE
RESAMPLES = 9999
MOST_PAIRS = 1000  # beyond which seeds_needed does not look

Interval = tuple[float, float]
UNKNOWN = (float("nan"), float("nan"))


def t_interval(differences: np.ndarray) -> Interval:
    """The 95 % interval of the mean."""
    n = len(differences)
    if n < 2:
        return UNKNOWN
    half = stdtrit(n - 1, (1 + CONFIDENCE) / 2) * differences.std(ddof=1) / n**0.5
    return float(differences.mean() - half), float(differences.mean() + half)


def bootstrap_interval(differences: np.ndarray) -> Interval:
    """The 95 % interval of the mean by resampling the pairs (BCa: Efron 1987, JASA 82: 171-185), always the same.

    Assumes no normal distribution, but takes the spread for as small as it looks: with fewer than some ten seeds it is
    too narrow, which is why verdicts go by t.
    """
    if len(differences) < 2 or not np.ptp(differences):
        return t_interval(differences)
    return _bootstrap(tuple(differences.tolist()))


@cache  # at equal steps and equal tokens the differences are mostly the same
def _bootstrap(differences: tuple[float, ...]) -> Interval:
    from scipy.stats import bootstrap  # half a second to import

    found = bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def paired_p(differences: np.ndarray) -> float:
    """Two-sided t test of a mean of zero."""
    n = len(differences)
    if n < 2:
        return float("nan")
    if not np.ptp(differences):
        return 0.0 if differences[0] else 1.0
    t = differences.mean() / (differences.std(ddof=1) / n**0.5)
    return float(2 * stdtr(n - 1, -abs(t)))


def equivalence_p(differences: np.ndarray, margin: float) -> float:
    """Two one-sided t tests of a mean within ±margin: the larger p."""
    n = len(differences)
    if n < 2 or np.isnan(margin):
        return float("nan")
    room = margin - abs(differences.mean())
    if not np.ptp(differences):
        return 0.0 if room >= 0 else 1.0
    return float(stdtr(n - 1, -room / (differences.std(ddof=1) / n**0.5)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of the p that are known; the others stay NaN."""
    found = np.asarray(p, dtype=float)
    order = [i for i in np.argsort(found, kind="stable") if not np.isnan(found[i])]
    corrected = found.copy()
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, (len(order) - rank) * found[i])
        corrected[i] = min(running, 1.0)
    return corrected.tolist()


def power(effect: float, pairs: int) -> float:
    """The chance that the two-sided paired t test at 5 % shows a mean of `effect` standard deviations: noncentral t."""
    shift = effect * pairs**0.5
    critical = stdtrit(pairs - 1, 1 - ALPHA / 2)
    below, short = np.nan_to_num(nctdtr(pairs - 1, shift, [-critical, critical]))  # scipy: NaN for what vanishes
    return float(1 - short + below)


@cache
def detectable(pairs: int) -> float:
    """The smallest mean, in standard deviations of the differences, that so many pairs show with 80 % power."""
    if pairs < 2:
        return float("nan")
    return float(brentq(lambda effect: power(effect, pairs) - POWER, 0, 20, xtol=1e-10))


def seeds_needed(effect: float) -> float:
    """Pairs that show a mean of `effect` standard deviations with 80 % power; inf where it takes over MOST_PAIRS."""
    if np.isnan(effect):
        return float("nan")
    low, high = 1, MOST_PAIRS  # too few; enough
    if detectable(high) > effect:
        return float("inf")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable(middle) <= effect else (middle, high)
    return float(high)
