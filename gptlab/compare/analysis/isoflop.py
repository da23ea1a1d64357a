"""Isoflop profiles: several sizes at one compute, and the size with the lowest loss (arXiv:2203.15556, section 3.2).

A parabola in x = ln(parameters) is fitted to all losses, with a level for each seed. The minimum is where its
derivative c1 + 2 c2 x is zero; the interval holds the x at which a t test does not tell the derivative from zero
(Fieller). The error is the scatter about the parabola, so that one seed is enough if there are at least four sizes, and
what the loss departs from a parabola widens the interval. The error is taken to be alike at all sizes.

The loss is no exact parabola. With exponents as in arXiv:2203.15556 the minimum is off by 0.5 % in size if the sizes
span a factor of 4, 1.5 % for 16 and 3.5 % for 64. An interval narrower than that is too narrow.

A minimum beyond the smallest or largest size is "at the edge" and has no number; likewise an end of the interval.
tests/compare/test_scaling_rates.py measures the coverage and the bias.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, inf, isfinite, nan

import numpy as np
import pandas as pd

from gptlab.compare.analysis.statistics import LEVEL, Estimate, crossing

MIN_SIZES = 3
SMALLEST, LARGEST = "smallest", "largest"


@dataclass(frozen=True)
class Profile:
    """The size with the lowest loss at one compute.

    Where the best size or an end lies outside of the sizes, it is 0 (below the smallest) or inf (above the largest).
    The ends are NaN if there are no more losses than numbers that are fitted.
    """

    best: float = nan  # parameters
    low: float = nan
    high: float = nan
    loss: float = nan  # at the best size; NaN at the edge
    curvature: Estimate = Estimate(nan, nan, nan)  # of the loss in ln(parameters), nats per e-fold squared
    edge: str = ""  # the size at whose edge the minimum lies: SMALLEST or LARGEST
    reason: str = ""  # why there is no minimum


def profile(losses: Mapping[float, pd.Series], level: float = LEVEL) -> Profile:
    """Return the best size of an arm at one compute.

    Args:
        losses: parameters -> final losses by seed, all with the same compute.
        level: of the interval.
    """
    table = pd.DataFrame({size: losses[size].dropna() for size in sorted(losses)}).dropna(axis=1, how="all")
    if table.shape[1] < MIN_SIZES:
        return Profile(reason=f"fewer than {MIN_SIZES} sizes")
    sizes = np.log(np.array(table.columns, dtype=float))
    centre = sizes.mean()
    rows, columns = np.nonzero(table.notna().to_numpy())
    x, y = (sizes - centre)[columns], table.to_numpy(dtype=float)[rows, columns]
    levels = np.eye(len(table))[rows]
    design = np.hstack([levels, x[:, None], x[:, None] ** 2])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return Profile(reason=f"no seed has {MIN_SIZES} sizes")
    found, *_ = np.linalg.lstsq(design, y, rcond=None)
    df = len(y) - design.shape[1]
    variance = float(((y - design @ found) ** 2).sum()) / df if df else nan
    covariance = variance * np.linalg.inv(design.T @ design)[-2:, -2:]
    linear, bend = found[-2:]
    curvature = Estimate(2 * float(bend), 2 * float(covariance[1, 1]) ** 0.5, df or nan)
    if not bend > 0:
        return Profile(curvature=curvature, reason="the losses have no minimum between the sizes")

    def derivative(at: float) -> Estimate:
        weights = np.array([1.0, 2 * (at - centre)])
        return Estimate(float(weights @ [linear, bend]), float(weights @ covariance @ weights) ** 0.5, df)

    ends = float(sizes[0]), float(sizes[-1])
    best, _ = crossing(derivative, *ends)
    low, high = crossing(derivative, *ends, level) if df else (nan, nan)
    at = best - centre
    loss = float(found[:-2] @ levels.mean(0)) + linear * at + bend * at**2 if isfinite(best) else nan
    edge = {-inf: SMALLEST, inf: LARGEST}.get(best, "")
    return Profile(exp(best), exp(low), exp(high), float(loss), curvature, edge)
