"""Multipliers over rungs: the line through them, its words, projections, and the fit of a power law."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from gptlab.compare.analysis.scaling import fit_power_law, trend, word_of
from gptlab.compare.analysis.statistics import Estimate, interval
from simulated import seeds_of

COMPUTE = np.logspace(15, 17, 5)
NAN = float("nan")


def rungs(per_decade=1.0, *, error=0.01, df=4, compute=COMPUTE, at_first=1.2, bumps=0.0):
    """ln m at each rung, on a line apart from `bumps`."""
    logs = math.log(at_first) + math.log(per_decade) * np.log10(compute / compute[0])
    logs = logs + bumps * np.where(np.arange(len(compute)) % 2, 1, -1)
    return {c: Estimate(float(m), error, df) for c, m in zip(compute, logs, strict=True)}


def law(ratios, *, floor=1.0, alpha=0.2, exponents=None, n=4, sd=0.0, compute=COMPUTE, seed=0):
    """Losses of arms whose A is `ratios` times the baseline's, with the baseline first."""
    rng = np.random.default_rng(seed)
    arms = {f"arm {i}" if i else "base": {} for i in range(len(ratios) + 1)}
    for c in compute:
        x = (c / compute[0]) ** -np.array([alpha, *(exponents or [alpha] * len(ratios))])
        means = floor + 1.5 * np.array([1, *ratios]) * x
        for arm, scores in zip(arms, seeds_of(rng, means, n, sd, 0.3), strict=True):
            arms[arm][float(c)] = scores
    return arms


@pytest.mark.parametrize("per_decade", [0.9, 1.0, 1.2])
def test_the_change_is_that_of_the_least_squares_line(per_decade):
    found = trend(rungs(per_decade, bumps=0.02))
    x, y = np.log(COMPUTE), [one.mean for one in found.logs]
    fit = stats.linregress(x, y)
    assert found.change.mean == pytest.approx(fit.slope)
    assert found.change.error == pytest.approx(0.01 / math.sqrt(((x - x.mean()) ** 2).sum()))
    assert found.misfit == pytest.approx(((y - fit.intercept - fit.slope * x) ** 2).sum() / (3 * 0.01**2))
    target = 1e18
    assert math.log(found.project(target).value) == pytest.approx(fit.intercept + fit.slope * math.log(target))


def test_equal_weights_give_the_sum_of_the_degrees_of_freedom():
    three = trend(rungs(df=4, compute=np.logspace(15, 17, 3)))
    assert three.change.df == pytest.approx(8)  # the middle rung has no weight
    uneven = rungs(df=4)
    uneven[COMPUTE[0]] = Estimate(0.2, 1.0, 2)
    assert trend(uneven).change.df == pytest.approx(2, rel=0.01)


def test_the_words_follow_from_the_change_per_decade():
    assert [trend(rungs(f)).word for f in (1.1, 1.0, 0.9)] == ["grows", "holds", "fades"]
    assert trend(rungs(1.0, error=0.1)).word == "not shown"
    assert trend(rungs(1.01)).word == "holds" and trend(rungs(1.01), margin=1.005).word == "not shown"
    assert trend(rungs(1.02, error=0.001)).word == "grows"  # within the margin, and shown
    assert trend(rungs(1.1, at_first=0.7)).word == "grows"  # a loss that shrinks is a multiplier that grows
    at_margin = Estimate(math.log(1.05) / math.log(10), 1e-9, 1e9)
    assert word_of(Estimate(0.9 * at_margin.mean, 0.6 * at_margin.mean, 1e9)) == "not shown"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (rungs(compute=COMPUTE[:2]), "fewer than 3 rungs"),
        ({}, "fewer than 3 rungs"),
        ({**rungs(), 1e15: Estimate(NAN, NAN, NAN)}, "no multiplier at 1e+15 FLOPs"),
    ],
)
def test_there_is_no_trend_without_a_multiplier_at_three_rungs(given, reason):
    found = trend(given)
    assert (found.word, found.reason) == ("not shown", reason)
    projected = found.project(1e18)
    assert projected.note == reason and math.isnan(projected.value) and math.isnan(projected.high)


def test_a_projection_is_less_certain_the_farther_it_goes_and_says_when_it_is_too_far():
    found = trend(rungs())
    widths = [math.log(p.high / p.low) for p in map(found.project, (1e16, 1e17, 1e18, 1e20))]
    assert widths == sorted(widths) and widths[-1] > 4 * widths[0]
    assert found.project(1e18).note == ""
    assert found.project(2.3e18).note == (
        "23 times the compute of the largest rung: no evidence, only a line continued"
    )
    assert found.project(1e18, 0.01).high > found.project(1e18).high
    scattered = trend(rungs(bumps=0.05))
    ratio = math.log(scattered.project(1e18).high / scattered.project(1e18).low) / widths[2]
    assert ratio == pytest.approx(scattered.misfit**0.5) and scattered.misfit > 10


@pytest.mark.parametrize("floor", [0.6, 1.0])
@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_a_power_law_without_noise_is_found(floor, alpha):
    found = fit_power_law(law([0.95, 1.1], floor=floor, alpha=alpha, sd=1e-7), draws=20)
    assert found.floor.mean == pytest.approx(floor, abs=0.01) and found.exponent.mean == pytest.approx(alpha, rel=0.02)
    for arm, ratio in (("arm 1", 0.95), ("arm 2", 1.1)):
        assert found.multipliers[arm].mean == pytest.approx(-math.log(ratio) / alpha, rel=0.02)
        assert found.changes[arm].mean == pytest.approx(0, abs=1e-3)
    assert np.abs(found.residuals.to_numpy()).max() < 1e-3 and list(found.residuals.columns) == list(COMPUTE)


def test_an_arm_with_an_exponent_of_its_own_has_a_multiplier_that_changes():
    found = fit_power_law(law([0.95, 0.95], exponents=[0.22, 0.18], sd=1e-4), draws=50)
    assert found.changes["arm 1"].mean == pytest.approx(0.1, abs=0.01)
    assert found.changes["arm 2"].mean == pytest.approx(-0.1, abs=0.01)
    assert found.words == {"arm 1": "grows", "arm 2": "fades"}
    assert np.abs(found.residuals_changing.to_numpy()).max() < np.abs(found.residuals.to_numpy()).max() / 5


def test_the_fit_is_that_of_least_squares():
    losses = law([0.9], sd=0.01)
    means = np.array([[rung.mean() for rung in rungs.values()] for rungs in losses.values()])
    x = np.log(COMPUTE / COMPUTE[0])

    def misses(p):
        return (means - p[0] - np.exp(p[2:])[:, None] * np.exp(-p[1] * x)).ravel()

    exact = optimize.least_squares(misses, [1.0, 0.2, 0.4, 0.4]).x
    found = fit_power_law(losses, draws=20)
    assert found.exponent.mean == pytest.approx(exact[1], rel=0.05)
    assert found.multipliers["arm 1"].mean == pytest.approx((exact[2] - exact[3]) / exact[1], rel=0.02)
    assert (found.residuals.to_numpy() ** 2).sum() == pytest.approx((misses(exact) ** 2).sum(), rel=0.01)


def test_with_three_rungs_the_floor_must_be_given():
    three = law([0.95], sd=0.001, compute=COMPUTE[::2])
    assert fit_power_law(three).reason.startswith("three rungs do not show the floor of the loss")
    found = fit_power_law(three, floor=1.0, draws=50)
    assert (found.floor.mean, found.floor.error) == (1.0, 0.0)
    assert found.multipliers["arm 1"].mean == pytest.approx(-math.log(0.95) / 0.2, rel=0.05)
    assert found.multipliers["arm 1"].df == pytest.approx(6)  # those of the first and the last rung


def test_seeds_may_be_missing_and_are_drawn_together():
    losses = law([0.95], sd=0.02, n=6)
    shared = {arm: {c: rung + pd.Series(np.arange(6) / 20) for c, rung in by.items()} for arm, by in losses.items()}
    low, high = interval(fit_power_law(shared).multipliers["arm 1"])
    apart = {"base": shared["base"], "arm 1": {c: r.set_axis(r.index + 6) for c, r in shared["arm 1"].items()}}
    wide = interval(fit_power_law(apart).multipliers["arm 1"])
    assert wide[1] - wide[0] > 2 * (high - low)
    losses["arm 1"][float(COMPUTE[0])][0] = NAN
    assert math.isfinite(fit_power_law(losses).multipliers["arm 1"].error)


@pytest.mark.parametrize(
    ("losses", "options", "reason"),
    [
        (law([0.9], compute=COMPUTE[:2]), {}, "fewer than 3 rungs"),
        (law([0.9], n=1), {}, "a rung with fewer than two seeds"),
        (law([0.9]), {"floor": 1.6}, "a mean loss is not above the floor of 1.6"),
    ],
)
def test_a_reason_is_given_where_there_is_no_fit(losses, options, reason):
    found = fit_power_law(losses, **options)
    assert found.reason == reason and not found.multipliers and math.isnan(found.floor.mean)
