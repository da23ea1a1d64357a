"""The compute multiplier of an arm, checked against exact cases and scipy."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gptlab.compare.analysis import statistics
from gptlab.compare.analysis.effects import Evidence, Rules, compare_scores
from gptlab.compare.analysis.multiplier import (
    BRACKETED,
    SLOPE,
    Losses,
    Moments,
    from_moments,
    gains_with_tokens,
    loss_of_compute,
    multiplier,
    paired_moments,
)
from gptlab.compare.analysis.statistics import Estimate
from simulated import falling, seeds_of

ALPHA = 0.3
BOTH = (0.5, 2.0)


def losses(*values):
    return Losses(pd.Series(values, dtype=float))


def drawn(true, *, n=5, sd=0.01, ratios=BOTH, alpha=ALPHA, correlation=0.2, seed=0):
    """An arm with a true multiplier, and the baseline at all budgets."""
    rng = np.random.default_rng(seed)
    x = np.log([true, 1, *ratios])
    arm, *baseline = (Losses(scores) for scores in seeds_of(rng, falling(x, alpha), n, sd, correlation))
    return arm, dict(zip((1.0, *ratios), baseline, strict=True))


def line(slope=0.2, shift=0.0, n=4):
    """The baseline at three budgets whose loss is linear in ln(tokens); seeds vary by what cancels in pairs."""
    seeds = np.linspace(0, 0.3, n)
    tiny = np.array([0.0, 1e-6, -1e-6, 0.0])
    baseline = {ratio: losses(*(3 - slope * math.log(ratio) + seeds + tiny * ratio)) for ratio in (0.5, 1, 2)}
    return losses(*(3 + shift + seeds - tiny)), baseline


@pytest.mark.parametrize("true", [0.55, 0.8, 1.0, 1.3, 1.7])
def test_without_noise_it_is_exact_where_the_loss_is_linear_in_ln_tokens(true):
    arm, baseline = line(shift=-0.2 * math.log(true))
    found = multiplier(arm, baseline)
    assert found.value == pytest.approx(true, rel=1e-4) and found.low < true < found.high
    assert found.slope.mean == pytest.approx(0.2, rel=1e-4) and math.exp(found.log.mean) == found.value
    for other in (0.5, 2):
        found = multiplier(arm, {1: baseline[1], other: baseline[other]})
        bracketed = (true - 1) * (other - 1) >= 0
        assert found.value == pytest.approx(true, rel=0.015 if bracketed else 0.1) and found.low < true < found.high


@pytest.mark.parametrize("true", [0.6, 0.9, 1.4, 1.8])
def test_on_a_power_law_without_noise_the_curve_through_three_budgets_is_right_and_through_two_the_interval(true):
    for alpha, most in ((0.05, 0.001), (0.1, 0.001), (0.3, 0.003), (0.38, 0.005)):
        x = np.log([true, *BOTH])
        means = falling(x, alpha) - falling(0, alpha)
        tight = Moments(means, np.eye(3) * 1e-12, 4, 4)
        assert abs(from_moments(tight, list(BOTH)).value / true - 1) < most
        for side in (1, 2):
            found = from_moments(Moments(means[[0, side]], np.eye(2) * 1e-12, 4, 4), [BOTH[side - 1]])
            bracketed = found.method == BRACKETED
            assert bracketed == ((true > 1) == (side == 2)) and found.low < true < found.high
            assert abs(found.value / true - 1) < (0.015 if bracketed else 0.08)


@pytest.mark.parametrize("seed", range(5))
def test_with_two_budgets_the_interval_holds_fiellers_for_each_curve(seed):
    arm, baseline = drawn(1.2, ratios=(2.0,), seed=seed)
    found = multiplier(arm, baseline)
    d = (arm.scores - baseline[1].scores).to_numpy()
    s = (baseline[1].scores - baseline[2].scores).to_numpy()
    (vd, c), (_, vs) = np.cov(d, s) / len(d)
    t2 = stats.t.ppf(0.975, len(d) - 1) ** 2
    shares = np.sort(np.roots([s.mean() ** 2 - t2 * vs, 2 * (d.mean() * s.mean() - t2 * c), d.mean() ** 2 - t2 * vd]))
    low, high = (-np.log1p(share * np.expm1(-0.4 * math.log(2))) / 0.4 for share in shares)
    straight = shares * math.log(2)
    assert (found.low, found.high) == pytest.approx(tuple(np.exp([min(low, straight[0]), max(high, straight[1])])))
    share = -d.mean() / s.mean()
    assert found.value == pytest.approx((1 + share * math.expm1(-0.2 * math.log(2))) ** -5)
    assert found.method == BRACKETED and found.log.df == 4
    variance = vd + 2 * share * c + share**2 * vs
    slope = s.mean() * 0.2 * math.exp(-0.2 * found.log.mean) / -math.expm1(-0.2 * math.log(2))
    assert found.log.error == pytest.approx(variance**0.5 / slope)


@pytest.mark.parametrize("level", [0.05, 0.01])
def test_at_the_ends_a_paired_t_test_against_the_interpolated_baseline_has_p_at_the_level(level):
    arm, baseline = drawn(1.3)
    found = multiplier(arm, baseline, level=level)
    for end in (found.low, found.high):
        x = math.log(end)
        interpolated = sum(
            one.scores
            * np.prod([(x - math.log(other)) / math.log(ratio / other) for other in baseline if other != ratio])
            for ratio, one in baseline.items()
        )
        assert stats.ttest_rel(arm.scores, interpolated).pvalue == pytest.approx(level, abs=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_the_interval_excludes_one_if_and_only_if_the_verdict_is_better_or_worse(seed):
    arm, baseline = drawn([1.0, 0.9, 1.15][seed % 3], seed=seed)
    rng = np.random.default_rng(seed)
    text = {name: {s: 0.02 * rng.normal(size=32) for s in range(5)} for name in ("base", "arm")}
    scores = {"base": baseline[1].scores, "arm": arm.scores}
    effect = compare_scores(scores, {"arm": "base"}, Rules("val/loss"), Evidence(deviations=text), step=1e-7)["arm"]
    arm = Losses(arm.scores, text["arm"])
    found = multiplier(arm, {**baseline, 1: Losses(baseline[1].scores, text["base"])}, resolution=1e-7)
    assert (found.low > 1) == (effect.word == "better") and (found.high < 1) == (effect.word == "worse")


def test_the_validation_text_widens_the_interval():
    arm, baseline = drawn(1.2, n=8, sd=0.005)
    text = np.random.default_rng(1).normal(0, 0.05, 32)
    varied = Losses(arm.scores, dict.fromkeys(range(8), text))
    flat = {ratio: Losses(one.scores, dict.fromkeys(range(8), np.zeros(32))) for ratio, one in baseline.items()}
    narrow, wide = multiplier(arm, baseline), multiplier(varied, flat)
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    partly = Losses(arm.scores, {0: text})
    assert multiplier(partly, flat).high == pytest.approx(narrow.high)


def test_seeds_that_lack_a_budget_still_count_in_the_difference():
    arm, baseline = drawn(1.2, n=8)
    short = {**baseline, 0.5: Losses(baseline[0.5].scores[:3]), 2.0: Losses(baseline[2].scores[:3])}
    moments = paired_moments(arm, short)
    assert moments.means[0] == pytest.approx((arm.scores - baseline[1].scores).mean())
    assert (moments.df, moments.df_rest) == (7, 2) and np.linalg.eigvalsh(moments.covariance).min() > 0
    zero = moments.at(np.array([1.0, 0.0, 0.0]))
    assert zero.df == pytest.approx(7) and zero.error == pytest.approx((arm.scores - baseline[1].scores).std() / 8**0.5)
    full, less = multiplier(arm, baseline), multiplier(arm, short)
    assert 2 <= less.log.df <= full.log.df == 7 and less.slope.df == pytest.approx(2)


def test_all_seeds_give_the_covariance_of_the_sample():
    arm, baseline = drawn(1.2, n=6)
    table = np.stack([(one.scores - baseline[1].scores) for one in (arm, baseline[0.5], baseline[2])])
    assert paired_moments(arm, baseline).covariance == pytest.approx(np.cov(table) / 6)


def test_a_loss_outside_of_the_budgets_has_a_bound_and_no_number():
    arm, baseline = line(shift=-0.3)
    found = multiplier(arm, baseline)
    assert found.censored and str(found) == ">2 (>2 to >2)" and math.isnan(found.log.mean) and not found.method
    arm, baseline = line(shift=0.3)
    assert str(multiplier(arm, baseline)) == "<0.5 (<0.5 to <0.5)"
    wide = multiplier(*drawn(1.8, n=3, sd=0.05))
    assert wide.high == math.inf and wide.show(wide.high) == ">2" and wide.low > 0
    assert multiplier(arm, {0.25: baseline[0.5], 1: baseline[1]}).show(0.0) == "<0.25"


def test_the_budget_on_the_arms_side_is_preferred_and_a_slope_from_the_other_side_is_marked():
    arm, baseline = drawn(1.4)
    below = {ratio: baseline[ratio] for ratio in (0.5, 1)}
    above = {ratio: baseline[ratio] for ratio in (1, 2.0)}
    assert [multiplier(arm, b).method for b in (baseline, above, below)] == [BRACKETED, BRACKETED, SLOPE]
    wide, narrow = (math.log(found.high / found.low) for found in (multiplier(arm, below), multiplier(arm, above)))
    assert wide > 1.5 * narrow  # less is known of the curve on the other side
    assert (multiplier(arm, below).least, multiplier(arm, below).most) == pytest.approx((0.5, 2))


def test_costs_divide_everything():
    found = multiplier(*drawn(1.2))
    flops = found.at_cost(1.1)
    assert flops.value == pytest.approx(found.value / 1.1) and flops.high == pytest.approx(found.high / 1.1)
    assert flops.log.mean == pytest.approx(math.log(flops.value)) and flops.log.error == found.log.error
    arm, baseline = line(shift=-0.3)
    assert str(multiplier(arm, baseline).at_cost(1.25)) == ">1.6 (>1.6 to >1.6)"
    assert multiplier(*drawn(1.2)).at_cost(float("nan")).reason == "the costs of the arms are not known"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: {1: b[1]}, "needs the baseline at this budget and another one"),
        (lambda b: {2: b[2]}, "needs the baseline at this budget and another one"),
        (lambda b: {**b, 2: losses(2.9, 2.8)}, "fewer than 3 seeds that the arm and all budgets share"),
        (
            lambda b: {**b, 2: losses(2.9, 2.8, float("nan"), float("nan"))},
            "fewer than 3 seeds that the arm and all budgets share",
        ),
        (
            lambda b: {1: b[1], 2: losses(4.0, 2.0, 3.0, 3.1)},
            "the baseline's loss does not show that more tokens lower it",
        ),
        (lambda b: {1: b[1], 2: b[0.5]}, "the baseline's loss does not show that more tokens lower it"),
        (
            lambda b: {**b, 2: Losses(b[1].scores + 0.01)},
            "the baseline's loss does not fall steadily from budget to budget",
        ),
    ],
)
def test_a_reason_is_given_where_there_is_none(change, reason):
    arm, baseline = line()
    found = multiplier(arm, change(baseline))
    assert found.reason == str(found) == reason and math.isnan(found.value) and math.isnan(found.high)
    assert found.at_cost(1.1) is found


def test_two_budgets_on_one_side_are_refused():
    with pytest.raises(ValueError, match=r"^ratios=\[2, 4\]: at most one budget below and one above 1"):
        from_moments(Moments(np.zeros(3), np.eye(3), 4, 4), [2, 4])


def test_a_share_of_compute_is_a_share_of_the_slope():
    assert loss_of_compute(Estimate(0.22, 0.01, 4), 0.05) == pytest.approx(0.22 * math.log(1.05))
    assert gains_with_tokens(Estimate(0.22, 0.01, 4)) and not gains_with_tokens(Estimate(0.22, 0.2, 4))
    assert not gains_with_tokens(Estimate(-0.22, 0.01, 4)) and not gains_with_tokens(
        Estimate(0.22, float("nan"), float("nan"))
    )


def test_ends_of_a_set_are_told_from_those_beyond_the_range():
    def at(x):
        return Estimate(x - 1, 0.5, 9)

    half = 0.5 * stats.t.ppf(0.975, 9)
    assert statistics.crossing(at, -5, 5, 0.05) == pytest.approx((1 - half, 1 + half))
    assert statistics.crossing(at, 0.5, 1.5, 0.05) == (-math.inf, math.inf)
    assert statistics.crossing(at, 3, 5, 0.05) == (-math.inf, -math.inf)
    assert statistics.crossing(at, -5, -3, 0.05) == (math.inf, math.inf)
    assert statistics.crossing(at, -5, 5) == pytest.approx((1, 1))
