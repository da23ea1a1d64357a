"""Several rungs: whether a compute multiplier grows, holds or fades as compute grows.

A rung is a size with its budget; every arm runs at every rung. There are two ways to a multiplier over rungs.

`trend` takes the multiplier m at each rung (multiplier.py: the baseline with more tokens at the same size), and fits
ln m = a + b ln C by least squares. Rungs count equally, since the errors of a few seeds are too uncertain to weigh
them. The error of b comes from the errors of the rungs, with Satterthwaite's degrees of freedom.

`fit_power_law` takes the losses alone, and fits L = E + A C^-alpha to all arms with one floor E and one exponent. An
arm's own A is a constant multiplier: how many times its compute the baseline needs along the rungs, in size and tokens.
That is not the multiplier within a rung. A second fit gives each arm an exponent of its own, and so ln m = a + b ln C.
Both are least squares in the mean losses. E is fitted from four rungs on. Three do not show it, and it must be given:
with a floor of 0 that is wrong, a constant multiplier was said to change in up to 94 % of experiments. Errors come from
a bootstrap over seeds that draws the runs of a seed at a rung together (a wild bootstrap with normal weights, so that a
mean has the variance sd^2 / n however few the seeds are). They have the degrees of freedom of the slope of a line over
these rungs. The choice of the text is not in them.

The words, about m, which may be below 1:

grows, fades   b is above or below 0, two-sided t test at 5 %.
holds          Otherwise, two one-sided t tests at 5 % place b within ±ln(margin) per decade of compute. The default of
               1.05 is the 5 % of compute below which a difference does not matter, for each tenfold step.
not shown      Neither, or there are fewer than three rungs or a rung without a multiplier, as `reason` says.

tests/compare/test_scaling_rates.py measures how often the words are wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, isfinite, log, nan

import numpy as np
import pandas as pd

from gptlab.compare.analysis.multiplier import UNKNOWN
from gptlab.compare.analysis.statistics import LEVEL, Estimate, equivalence_p, interval, two_sided_p
from gptlab.compare.analysis.verdict import NOT_SHOWN

GROWS, HOLDS, FADES = "grows", "holds", "fades"
MIN_RUNGS = 3
FLOOR_RUNGS = 4  # from which on the floor can be fitted
MARGIN = 1.05  # the factor per decade of compute by which a multiplier that holds may change
FAR = 10.0  # times the largest rung; a projection beyond says so in words
FLOORS = np.linspace(0, 0.98, 99)  # shares of the lowest loss that are tried as floors
TOO_FEW = f"fewer than {MIN_RUNGS} rungs"


@dataclass(frozen=True)
class Projection:
    """A multiplier that is read off the line ln m = a + b ln C; NaN if there is no line."""

    value: float = nan
    low: float = nan
    high: float = nan
    beyond: float = nan  # the target's compute over that of the largest rung
    note: str = ""


@dataclass(frozen=True)
class Trend:
    """The multipliers of an arm over rungs, and the line through their logarithms."""

    compute: np.ndarray  # of the rungs, ascending
    logs: Sequence[Estimate]  # ln m at each rung
    change: Estimate  # b: the change of ln m with each e-fold of compute
    word: str
    misfit: float = nan  # mean square of the rungs about the line, over what their errors explain
    reason: str = ""

    @property
    def per_decade(self) -> tuple[float, float, float]:
        """The factor by which m changes with each tenfold of compute, and the ends of its 95 % interval."""
        low, high = interval(self.change)
        value, low, high = (exp(log(10) * end) for end in (self.change.mean, low, high))
        return value, low, high

    def project(self, compute: float, level: float = LEVEL) -> Projection:
        """Return the multiplier at a compute, with a t interval that is wider the farther it lies from the rungs.

        If the rungs scatter about the line by more than their errors, the interval is wider by as much.
        """
        if self.reason:
            return Projection(note=self.reason)
        found = _combine(_line(np.log(self.compute), log(compute)), self.logs)
        low, high = interval(Estimate(found.mean, found.error * max(1.0, self.misfit) ** 0.5, found.df), level)
        beyond = compute / float(self.compute[-1])
        note = f"{beyond:.3g} times the compute of the largest rung: no evidence, only a line continued"
        return Projection(exp(found.mean), exp(low), exp(high), beyond, note if beyond > FAR else "")


def trend(rungs: Mapping[float, Estimate], margin: float = MARGIN) -> Trend:
    """Return how an arm's multiplier changes over rungs.

    Args:
        rungs: compute -> ln m with its error (`Multiplier.log`), from runs that are independent between rungs.
        margin: the factor per decade of compute by which a multiplier that holds may change.
    """
    compute = np.array(sorted(rungs), dtype=float)
    logs = [rungs[c] for c in compute]
    unknown = [c for c, one in zip(compute, logs, strict=True) if not (isfinite(one.mean) and one.df > 0)]
    if len(compute) < MIN_RUNGS or unknown:
        reason = f"no multiplier at {', '.join(f'{c:.3g}' for c in unknown)} FLOPs" if unknown else TOO_FEW
        return Trend(compute, logs, UNKNOWN, NOT_SHOWN, reason=reason)
    x = np.log(compute)
    change = _combine((x - x.mean()) / ((x - x.mean()) ** 2).sum(), logs)
    hat = np.stack([_line(x, at) for at in x])
    means, variances = np.array([one.mean for one in logs]), np.array([one.error**2 for one in logs])
    expected = float(((np.eye(len(x)) - hat) ** 2 @ variances).sum())
    misfit = float(((means - hat @ means) ** 2).sum()) / expected if expected else nan
    return Trend(compute, logs, change, word_of(change, margin), misfit)


def word_of(change: Estimate, margin: float = MARGIN) -> str:
    """Return the word for a change of ln m with each e-fold of compute."""
    if two_sided_p(change) < LEVEL:
        return GROWS if change.mean > 0 else FADES
    return HOLDS if equivalence_p(change, log(margin) / log(10)) < LEVEL else NOT_SHOWN


def _line(x: np.ndarray, at: float) -> np.ndarray:
    """Return the weights of the values at x in the value of the least-squares line at another point."""
    centred = x - x.mean()
    weights: np.ndarray = 1 / len(x) + centred * (at - x.mean()) / (centred**2).sum()
    return weights


def _combine(weights: np.ndarray, parts: Sequence[Estimate]) -> Estimate:
    """Return the weighted sum of independent estimates."""
    variances = weights**2 * np.array([one.error**2 for one in parts])
    total, dfs = float(variances.sum()), np.array([one.df for one in parts])
    df = total**2 / float((variances**2 / dfs).sum()) if total else float(dfs.min())
    return Estimate(float(weights @ [one.mean for one in parts]), total**0.5, df)


@dataclass(frozen=True)
class PowerLaw:
    """The fit of L = E + A C^-alpha to all arms. `multipliers` and `changes` leave out the baseline."""

    floor: Estimate  # E; without error if it is fixed
    exponent: Estimate  # alpha
    multipliers: dict[str, Estimate] = field(default_factory=dict)  # ln m, taken as constant
    changes: dict[str, Estimate] = field(default_factory=dict)  # b of ln m = a + b ln C
    words: dict[str, str] = field(default_factory=dict)
    residuals: pd.DataFrame = field(default_factory=pd.DataFrame)  # arm x compute: mean loss minus the constant fit
    residuals_changing: pd.DataFrame = field(default_factory=pd.DataFrame)  # likewise, with an exponent for each arm
    reason: str = ""  # why there is no fit


def fit_power_law(
    losses: Mapping[str, Mapping[float, pd.Series]],
    *,
    floor: float | None = None,
    margin: float = MARGIN,
    draws: int = 400,
) -> PowerLaw:
    """Fit the losses of all arms at all rungs.

    Args:
        losses: arm -> compute -> losses by seed, the baseline first.
        floor: E; None to fit it, which needs four rungs.
        margin: as for `trend`.
        draws: of the bootstrap.
    """
    arms = list(losses)
    compute = sorted(set.intersection(*(set(rungs) for rungs in losses.values())))
    tables = [pd.concat([losses[arm][c] for arm in arms], axis=1, keys=arms).to_numpy(dtype=float) for c in compute]
    seeds = [int((~np.isnan(table)).sum(0).min()) for table in tables]
    if len(compute) < MIN_RUNGS or min(seeds) < 2:
        reason = TOO_FEW if len(compute) < MIN_RUNGS else "a rung with fewer than two seeds"
        return PowerLaw(UNKNOWN, UNKNOWN, reason=reason)
    means = np.stack([np.nanmean(table, axis=0) for table in tables], axis=1)
    if floor is None and len(compute) < FLOOR_RUNGS:
        reason = "three rungs do not show the floor of the loss: give one, or take the trend of the multipliers"
        return PowerLaw(UNKNOWN, UNKNOWN, reason=reason)
    if floor is not None and means.min() <= floor:
        return PowerLaw(UNKNOWN, UNKNOWN, reason=f"a mean loss is not above the floor of {floor:g}")
    drawn = np.concatenate([means[None], means + _bootstrap(tables, draws)])
    x = np.log(compute)
    same, own = (_fit(drawn, x, floor, common=common) for common in (True, False))
    parts = (x - x.mean()) ** 2
    df = float(parts.sum() ** 2 / (parts**2 / (np.array(seeds) - 1)).sum())
    changes = {arm: _of_draws(own.exponents[:, i] / own.exponents[:, 0] - 1, df) for i, arm in enumerate(arms) if i}
    return PowerLaw(
        floor=_of_draws(same.floor, df),
        exponent=_of_draws(same.exponents[:, 0], df),
        multipliers={
            arm: _of_draws((same.heights[:, 0] - same.heights[:, i]) / same.exponents[:, 0], df)
            for i, arm in enumerate(arms)
            if i
        },
        changes=changes,
        words={arm: word_of(change, margin) for arm, change in changes.items()},
        residuals=pd.DataFrame(same.residuals[0], index=arms, columns=compute),
        residuals_changing=pd.DataFrame(own.residuals[0], index=arms, columns=compute),
    )


@dataclass(frozen=True)
class _Fit:
    floor: np.ndarray  # (draws,)
    exponents: np.ndarray  # (draws, arms)
    heights: np.ndarray  # ln A, (draws, arms)
    residuals: np.ndarray  # (draws, arms, rungs)


def _fit(means: np.ndarray, x: np.ndarray, floor: float | None, *, common: bool) -> _Fit:
    """Fit each draw of the mean losses, (draws, arms, rungs); `common`: with one exponent for all arms."""
    draws = np.arange(len(means))
    if floor is not None:
        return _at_floors(means, x, np.full((len(means), 1), floor), common=common)[0]
    lowest = means.min((1, 2))
    _, squares = _at_floors(means, x, lowest[:, None] * FLOORS, common=common)
    best = squares.argmin(1)
    inner = best.clip(1, len(FLOORS) - 2)
    left, middle, right = (squares[draws, inner + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.divide(left - right, 2 * bend, out=np.zeros_like(bend), where=bend > 0).clip(-0.5, 0.5)
    share = np.where(best == inner, FLOORS[inner] + shift * (FLOORS[1] - FLOORS[0]), FLOORS[best])
    return _at_floors(means, x, (lowest * share)[:, None], common=common)[0]


def _at_floors(means: np.ndarray, x: np.ndarray, floors: np.ndarray, *, common: bool) -> tuple[_Fit, np.ndarray]:
    """Fit for given floors, (draws, floors); also return the sums of squares. The fit is that of the first floor.

    With E known, ln(L - E) is linear in ln C. Weights of (L - E)^2 make this least squares in L, to first order.
    """
    above = means[:, None] - floors[..., None, None]
    y, weights = np.log(above), above**2
    share = weights / weights.sum(-1, keepdims=True)
    middle_x, middle_y = (share * x).sum(-1, keepdims=True), (share * y).sum(-1, keepdims=True)
    dx, dy = x - middle_x, y - middle_y
    covariances, variances = (weights * dx * dy).sum(-1), (weights * dx**2).sum(-1)
    if common:
        covariances, variances = (part.sum(-1, keepdims=True) for part in (covariances, variances))
    exponents = np.broadcast_to(-covariances / variances, y.shape[:-1])
    misses = above - np.exp(middle_y - exponents[..., None] * dx)
    heights = middle_y[..., 0] + exponents * middle_x[..., 0]
    return _Fit(floors[:, 0], exponents[:, 0], heights[:, 0], misses[:, 0]), (misses**2).sum((-2, -1))


def _bootstrap(tables: Sequence[np.ndarray], draws: int) -> np.ndarray:
    """Return errors of the mean losses, (draws, arms, rungs); the arms share the weight of a seed."""
    rng = np.random.default_rng(0)
    errors = []
    for table in tables:
        n = (~np.isnan(table)).sum(0)
        deviations = np.nan_to_num(table - np.nanmean(table, axis=0)) / np.sqrt(n * (n - 1))
        errors.append(rng.standard_normal((draws, len(table))) @ deviations)
    return np.stack(errors, axis=-1)


def _of_draws(values: np.ndarray, df: float) -> Estimate:
    """Return the first value, with half the width of the others' central 68 % as its error."""
    low, high = np.quantile(values[1:], (0.1587, 0.8413))
    return Estimate(float(values[0]), float(high - low) / 2, df)
