"""The compute multiplier of an arm: how many times its tokens the baseline needs to reach the arm's loss.

The arm and the baseline are trained for T tokens, and the baseline also for fewer or more, such as T/2 and 2T, each run
with a schedule of its own. Between its budgets the baseline's loss is interpolated in x = ln(tokens / T), and the
multiplier is exp(x) where the interpolated loss is the arm's. Three budgets are joined by a parabola in x. Two do not
show how the curve bends: they are joined by E + A T^-alpha with the middle one of EXPONENTS, and the interval reaches
as far as it does with the first or the last one. A straight line, alpha = 0, would be off by 2 % between two budgets
if alpha is 0.3, which is more than the error of eight good seeds.

For every x, the arm's loss minus the interpolated one is a weighted sum of paired differences, and a t test says
whether it may be zero. The interval holds the x at which it may (Fieller 1954, J. R. Stat. Soc. B 16: 175-185, where
the interpolation is a straight line). At x = 0 the test is that of the verdict, so an interval at the verdict's level
excludes 1 exactly if the verdict is better or worse.

bracketed     The arm's loss lies between two budgets of the baseline.
slope         The budget on the arm's side of T is missing, and the curve is continued beyond T, at most as far as the
              other budget lies on its side. What is unknown of its bend then widens the interval much more.
censored      The loss lies outside. There is no number, only a bound: ">2" or "<0.5". The interval's ends likewise.
none          Too few seeds, or the baseline does not show that more tokens lower its loss. `reason` says which.

Seeds may be missing at some budgets. Each difference uses all seeds that have it, and their correlations come from the
seeds that have all. The choice of the validation text adds to the variance of each difference (text_share.py); what the
text does to two differences alike is left out, which makes intervals between budgets wider than they need be.
tests/compare/test_multiplier_rates.py measures the coverage.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import exp, expm1, inf, isfinite, log, nan

import numpy as np
import pandas as pd

from gptlab.compare.analysis.statistics import LEVEL, Estimate, crossing, two_sided_p
from gptlab.compare.analysis.text_share import MeanDifference, estimate
from gptlab.compare.analysis.verdict import MIN_PAIRS

BRACKETED, SLOPE = "bracketed", "slope"
UNKNOWN = Estimate(nan, nan, nan)
EXPONENTS = (0.0, 0.2, 0.4)  # of T^-alpha; about 0.07 between budgets of the smallest size, 0.28 in arXiv:2203.15556
POINTS = 33  # at which the interpolated loss is checked to fall


@dataclass(frozen=True)
class Losses:
    """The final losses of runs by seed, and the block deviations of those that have them (text_share.py)."""

    scores: pd.Series
    deviations: Mapping[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Moments:
    """Mean differences from the baseline at T: the arm's first, then those of the baseline's other budgets."""

    means: np.ndarray  # (k,)
    covariance: np.ndarray  # of the means, (k, k)
    df: float  # degrees of freedom of the first variance
    df_rest: float  # of the other entries

    def at(self, weights: np.ndarray) -> Estimate:
        """Return the weighted sum of the means.

        Its degrees of freedom are Satterthwaite's, from the variance of the first difference and the rest of it: n - 1
        if all have n seeds.
        """
        variance, own = float(weights @ self.covariance @ weights), float(weights[0] ** 2 * self.covariance[0, 0])
        fewest, most = sorted((self.df, self.df_rest))
        if not variance > 0:
            return Estimate(float(weights @ self.means), 0.0, fewest)
        df = variance**2 / (own**2 / self.df + (variance - own) ** 2 / self.df_rest)
        return Estimate(float(weights @ self.means), variance**0.5, min(max(df, fewest), most))


@dataclass(frozen=True)
class Multiplier:
    """A compute multiplier with its interval; above 1 is good.

    Where the value or an end lies outside of the budgets, it is inf (above `most`) or 0 (below `least`). All three are
    NaN if there is no multiplier.
    """

    value: float = nan
    low: float = nan
    high: float = nan
    least: float = nan
    most: float = nan
    level: float = LEVEL
    log: Estimate = UNKNOWN  # ln(value), with its error by the delta method; unknown if censored
    slope: Estimate = UNKNOWN  # nats that the baseline's loss falls with each e-fold of tokens
    method: str = ""
    reason: str = ""  # why there is no multiplier

    @property
    def censored(self) -> bool:
        """Whether the arm's loss lies outside of the baseline's budgets."""
        return self.value in (0.0, inf)

    def show(self, number: float) -> str:
        """Return the value or an end of the interval as text: `1.52`, `>2`."""
        if number == inf:
            return f">{self.most:.3g}"
        return f"<{self.least:.3g}" if number == 0 else f"{number:.3g}"

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        return f"{self.show(self.value)} ({self.show(self.low)} to {self.show(self.high)})"

    def at_cost(self, ratio: float) -> "Multiplier":
        """Return the multiplier in FLOPs or seconds, of an arm that costs `ratio` times the baseline's per token.

        Args:
            ratio: FLOPs per token of the arm over those of the baseline, or tokens per second of the baseline over
                those of the arm. It is taken as known exactly.
        """
        if self.reason:
            return self
        if not (isfinite(ratio) and ratio > 0):
            return Multiplier(level=self.level, slope=self.slope, reason="the costs of the arms are not known")
        return replace(
            self,
            value=self.value / ratio,
            low=self.low / ratio,
            high=self.high / ratio,
            least=self.least / ratio,
            most=self.most / ratio,
            log=replace(self.log, mean=self.log.mean - log(ratio)),
        )


def multiplier(
    arm: Losses, baseline: Mapping[float, Losses], *, level: float = LEVEL, resolution: float = 0.0
) -> Multiplier:
    """Return the compute multiplier of an arm, in tokens.

    Args:
        arm: its losses at T tokens.
        baseline: its losses by tokens / T: at 1, and at one budget below or above or both.
        level: of the interval, such as that of Holm's procedure over several arms.
        resolution: the step in which the loss changes.
    """
    others = sorted(ratio for ratio in baseline if ratio != 1)
    if not others or 1 not in baseline:
        return Multiplier(level=level, reason="needs the baseline at this budget and another one")
    moments = paired_moments(arm, baseline, resolution)
    if moments is None:
        return Multiplier(level=level, reason=f"fewer than {MIN_PAIRS} seeds that the arm and all budgets share")
    return from_moments(moments, others, level=level)


def paired_moments(arm: Losses, baseline: Mapping[float, Losses], resolution: float = 0.0) -> Moments | None:
    """Return the mean differences from the baseline at T; None with fewer than three seeds that have all of them."""
    pairs = [arm, *(baseline[ratio] for ratio in sorted(baseline) if ratio != 1)]
    series, found = zip(*(_difference(one, baseline[1], resolution) for one in pairs), strict=True)
    table: pd.DataFrame = pd.concat(series, axis=1)
    complete = table.dropna().to_numpy(dtype=float)
    if len(complete) < MIN_PAIRS:
        return None
    spread = complete - complete.mean(0)
    size = np.sqrt((spread**2).sum(0))
    unit = np.divide(spread, size, out=np.zeros_like(spread), where=size > 0)
    present = table.notna().to_numpy(dtype=float)
    present /= np.sqrt(present.sum(0))
    errors = np.array([one.sd for one in found]) / np.sqrt(table.notna().sum().to_numpy())
    # Shared seeds times correlations: positive semidefinite, and the exact covariance if no seed is missing
    covariance = np.outer(errors, errors) * (present.T @ present) * (unit.T @ unit)
    np.fill_diagonal(covariance, [one.estimate.error**2 for one in found])
    rest = min(len(complete) - 1.0, *(one.estimate.df for one in found[1:]))
    return Moments(np.array([one.estimate.mean for one in found]), covariance, found[0].estimate.df, rest)


def from_moments(moments: Moments, ratios: list[float], *, level: float = LEVEL) -> Multiplier:
    """Return the multiplier from the mean differences and their covariance.

    Args:
        moments: the arm's first, then one for each of `ratios`.
        ratios: tokens / T of the baseline's other budgets, one below or above 1 or both, ascending.
        level: of the interval.

    Raises:
        ValueError: there are more budgets on one side of T than one.
    """
    nodes = np.log(ratios)
    if len(nodes) != len(moments.means) - 1 or (nodes < 0).sum() > 1 or (nodes > 0).sum() > 1:
        raise ValueError(f"ratios={ratios}: at most one budget below and one above 1, each with a mean difference")
    least, most = (float(nodes[0]), float(nodes[-1])) if len(nodes) > 1 else (-abs(nodes[0]), abs(nodes[0]))
    slope = slope_of(moments, nodes)
    if not gains_with_tokens(slope):
        reason = "the baseline's loss does not show that more tokens lower it"
        return Multiplier(level=level, slope=slope, reason=reason)

    def curve(alpha: float) -> Callable[[float], Estimate]:
        return lambda x: moments.at(np.array([1.0, *-_interpolation(nodes, x, alpha)]))

    first, middle, last = (curve(alpha) for alpha in EXPONENTS)
    path = np.diff([middle(x).mean for x in np.linspace(least, most, POINTS)])
    if not (path > 0).all():
        reason = "the baseline's loss does not fall steadily from budget to budget"
        return Multiplier(level=level, slope=slope, reason=reason)
    best, _ = crossing(middle, least, most)
    possible = (first, last) if len(nodes) == 1 else (middle,)  # the parabola knows no exponent
    lows, highs = zip(*(crossing(at, least, most, level) for at in possible), strict=True)
    inside = isfinite(best)
    beside = len(nodes) > 1 or best * nodes[0] >= 0
    return Multiplier(
        value=exp(best),
        low=exp(min(lows)),
        high=exp(max(highs)),
        least=exp(least),
        most=exp(most),
        level=level,
        log=_logarithm(middle, best) if inside else UNKNOWN,
        slope=slope,
        method=(BRACKETED if beside else SLOPE) if inside else "",
    )


def slope_of(moments: Moments, nodes: np.ndarray) -> Estimate:
    """Return how many nats the baseline's loss falls with each e-fold of tokens, from its fewest to its most."""
    positions = np.array([0.0, *nodes])
    weights = np.zeros(len(positions))
    weights[positions.argmin()] += 1 / np.ptp(positions)
    weights[positions.argmax()] -= 1 / np.ptp(positions)
    weights[0] = 0.0  # the baseline at T, from which the other losses are differences
    return moments.at(weights)


def gains_with_tokens(slope: Estimate) -> bool:
    """Return whether a slope is shown to be above 0, by a two-sided t test at 5 %."""
    return slope.mean > 0 and two_sided_p(slope) < LEVEL


def loss_of_compute(slope: Estimate, share: float) -> float:
    """Return by how much 1 + share times the tokens lower the baseline's loss: the margin "5 % of compute"."""
    return slope.mean * log(1 + share)


def _difference(one: Losses, other: Losses, resolution: float) -> tuple[pd.Series, MeanDifference]:
    """Return the paired differences by seed, and their mean with its error over seeds and text."""
    differences = (one.scores - other.scores).dropna()
    seeds = list(differences.index)
    blocks = [
        one.deviations[seed] - other.deviations[seed]
        for seed in seeds
        if seed in one.deviations
        and seed in other.deviations
        and len(one.deviations[seed]) == len(other.deviations[seed])
    ]
    known = blocks if seeds and len(blocks) == len(seeds) else None
    return differences, estimate(differences.to_numpy(dtype=float), known, resolution)


def _interpolation(nodes: np.ndarray, x: float, alpha: float) -> np.ndarray:
    """Return the weights of the losses at the nodes in the curve through them and the loss at 0, at x.

    With one node the curve is a power law with the exponent alpha, with two a parabola (Lagrange's formula).
    """
    if len(nodes) == 1:
        return np.array([expm1(-alpha * x) / expm1(-alpha * nodes[0]) if alpha else x / nodes[0]])
    low, high = nodes
    return np.array([x * (x - high) / (low * (low - high)), x * (x - low) / (high * (high - low))])


def _logarithm(at: Callable[[float], Estimate], x: float) -> Estimate:
    """Return ln(multiplier) with the error that the loss's error makes through the slope at x."""
    step = 1e-4
    slope = (at(x + step).mean - at(x - step).mean) / (2 * step)
    return Estimate(x, at(x).error / slope, at(x).df)
