"""Isoflop profiles: the size with the lowest loss at one compute."""

import math

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.linear_model import OLS

from gptlab.compare.analysis.isoflop import LARGEST, SMALLEST, profile

SIZES = 1e5 * 2.0 ** np.arange(5)


def losses(best, *, bend=0.05, n=3, sd=0.002, seed=0, sizes=SIZES):
    rng = np.random.default_rng(seed)
    seeds = rng.normal(0, 0.1, n)  # which the levels of the seeds take out
    return {
        size: pd.Series(2 + bend * math.log(size / best) ** 2 + seeds + rng.normal(0, sd, n))
        for size in map(float, sizes)
    }


@pytest.mark.parametrize("best", [2e5, 4e5, 9e5])
def test_the_minimum_of_a_parabola_is_found(best):
    found = profile(losses(best, sd=1e-6))
    assert found.best == pytest.approx(best, rel=1e-3) and found.low < best < found.high
    assert found.curvature.mean == pytest.approx(0.1, rel=1e-3) and not found.edge
    assert found.loss == pytest.approx(
        np.mean([one.mean() - 0.05 * math.log(c / best) ** 2 for c, one in losses(best).items()]), abs=1e-2
    )


def test_it_is_the_least_squares_fit_with_a_level_for_each_seed():
    given = losses(3e5, sd=0.02)
    x = np.repeat(np.log(SIZES), 3)
    seeds = np.tile(np.eye(3), (5, 1))
    fit = OLS(np.concatenate(list(given.values())), np.hstack([seeds, x[:, None], x[:, None] ** 2])).fit()
    found = profile(given)
    assert math.log(found.best) == pytest.approx(-fit.params[3] / 2 / fit.params[4])
    assert found.curvature.mean == pytest.approx(2 * fit.params[4])
    assert found.curvature.error == pytest.approx(2 * fit.bse[4]) and found.curvature.df == 10
    for end in (found.low, found.high):
        assert fit.t_test([0, 0, 0, 1, 2 * math.log(end)]).pvalue == pytest.approx(0.05, abs=1e-6)


def test_a_minimum_beyond_the_sizes_is_at_the_edge():
    below, above = profile(losses(5e4)), profile(losses(5e6))
    assert (below.edge, below.best, below.low) == (SMALLEST, 0.0, 0.0) and math.isnan(below.loss)
    assert (above.edge, above.best, above.high) == (LARGEST, math.inf, math.inf)
    near = profile(losses(1.2e5, sd=0.02))
    assert near.low == 0.0 or near.edge == SMALLEST


def test_one_seed_is_enough_for_four_sizes_and_three_sizes_give_no_interval():
    assert profile(losses(4e5, n=1)).low > 1e5
    alone = profile(losses(2e5, n=1, sizes=SIZES[:3]))
    assert math.isfinite(alone.best) and math.isnan(alone.low) and math.isnan(alone.high)


def test_losses_that_lack_a_seed_count():
    given = losses(4e5)
    given[1e5] = given[1e5].drop(0)
    given[4e5][1] = float("nan")
    assert profile(given).best == pytest.approx(4e5, rel=0.05) and profile(given).curvature.df == 8


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (losses(4e5, sizes=SIZES[:2]), "fewer than 3 sizes"),
        ({s: pd.Series({i: 2.0 + i}) for i, s in enumerate(SIZES)}, "no seed has 3 sizes"),
        (losses(4e5, bend=-0.05), "the losses have no minimum between the sizes"),
    ],
)
def test_a_reason_is_given_where_there_is_no_minimum(given, reason):
    found = profile(given)
    assert found.reason == reason and math.isnan(found.best) and not found.edge
