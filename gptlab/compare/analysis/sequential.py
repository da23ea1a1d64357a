"""Verdicts that may be looked at after every seed: p values, intervals, and when an arm gets no more seeds.

The looks are planned before the first run: after `first` seeds, after each further one, and the last after `last`. At
a look with n pairs the p of the t test is divided by n / last, so that early looks ask for more. The smallest of these
weighted p values has a law under no effect that depends on nothing unknown, since the t statistics of all looks are
free of the spread. It is simulated once; a p value is turned into the probability that any look would have had one as
small. This holds whichever look is the last one that is taken, so that Holm's correction over the arms can use it
(repeated p values and intervals: Jennison and Turnbull 1999, Group Sequential Methods, ch. 9). The spending lies
between Pocock's and O'Brien and Fleming's: the p that a look needs grows in proportion to n.

The error of the validation text is common to all looks, which makes them more alike than the simulated ones, and the
test a little conservative. tests/compare/test_sequential_rates.py measures the level.

An arm is settled as soon as it has a word, and is judged by the pairs of that look even if it gets more seeds as the
reference of another arm. It is given up from GIVE_UP_FROM pairs on if the chance that it is settled by the last look is
below GIVE_UP. Giving up needs no correction, since it claims nothing.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import stdtr, stdtrit

from gptlab.compare.analysis.statistics import LEVEL
from gptlab.compare.analysis.text_share import MeanDifference

FEWEST, MOST = 3, 50  # seeds of a first and of a last look
GIVE_UP = 0.1  # the chance of being settled below which an arm gets no more seeds
GIVE_UP_FROM = 5  # pairs; with fewer the spread is hardly known
DRAWS = 200_000  # of the simulated law: p values near 0.05 / 8 are known to 3 %
OPEN, SETTLED, GIVEN_UP = "open", "settled", "given up"


@dataclass(frozen=True)
class Progress:
    """How far the comparison of an arm with its reference has come."""

    seeds: int  # the planned seeds that count: those that both have ended, up to the look that settled the arm
    state: str  # OPEN, SETTLED or GIVEN_UP
    chance: float  # that it is settled at the last look; NaN where that is not known, and for a settled arm


@dataclass(frozen=True)
class Looks:
    """The planned looks: after the `first` of the seeds, and after each further one."""

    first: int
    seeds: tuple[int, ...]  # in the order in which they are run

    @property
    def last(self) -> int:
        """The number of seeds at the last look."""
        return len(self.seeds)

    def p(self, raw: float, pairs: int, sides: int = 2) -> float:
        """Return the p value that holds at any look, given that of the t test of the look with this many pairs.

        It is NaN before the first look.
        """
        if pairs < self.first or np.isnan(raw):
            return float("nan")
        draws = _smallest_p(self.first, self.last, sides)
        smaller = np.searchsorted(draws, raw * self._weight(pairs), side="right")
        return float((smaller + 1) / (len(draws) + 1))

    def nominal(self, level: float, pairs: int, sides: int = 2) -> float:
        """Return the level of the t test, or of the t interval, of one look that holds at `level` over all looks."""
        draws = _smallest_p(self.first, self.last, sides)
        return float(draws[int(level * len(draws))]) / self._weight(max(pairs, self.first))

    def _weight(self, pairs: int) -> float:
        return self.last / min(pairs, self.last)

    def chance(self, difference: MeanDifference, pairs: int, margin: float, family: int) -> float:
        """Return the chance that an arm is settled at the last look, given what its pairs say; NaN before the first.

        The mean at the last look is predicted by a t distribution around the present one (a flat prior). The arm is
        taken to need Holm's first step.

        Args:
            difference: the mean over the pairs so far.
            pairs: their number.
            margin: differences below it do not matter; NaN if there is none.
            family: the number of comparisons that were planned.
        """
        mean, sd = difference.estimate.mean, difference.sd
        if pairs < self.first or not sd > 0:
            return float("nan")
        error = float((sd**2 / self.last + np.nan_to_num(difference.text_variance)) ** 0.5)
        shown = -float(stdtrit(self.last - 1, self.nominal(LEVEL / family, self.last) / 2)) * error
        inside = margin + float(stdtrit(self.last - 1, self.nominal(LEVEL, self.last, sides=1))) * error
        ahead = sd * (max(1 / pairs - 1 / self.last, 1e-12)) ** 0.5

        def below(value: float) -> float:
            return float(stdtr(pairs - 1, (value - mean) / ahead))

        chance = 1 - below(shown) + below(-shown)
        within = min(inside, shown)  # what is beyond `shown` counts already
        return chance + (below(within) - below(-within) if within > 0 else 0.0)


@cache
def _smallest_p(first: int, last: int, sides: int) -> np.ndarray:
    """Return sorted draws of the smallest weighted p over all looks, under no effect."""
    rng, n = np.random.default_rng(0), np.arange(first, last + 1)
    smallest = []
    for _ in range(DRAWS // 20_000):
        normal = rng.standard_normal((20_000, last))
        sums, squares = normal.cumsum(1)[:, first - 1 :], (normal**2).cumsum(1)[:, first - 1 :]
        t = sums / np.sqrt(n * (squares - sums**2 / n) / (n - 1))
        p = 2 * stdtr(n - 1, -np.abs(t)) if sides == 2 else stdtr(n - 1, -t)
        smallest.append((p * last / n).min(1))
    return np.sort(np.concatenate(smallest))
