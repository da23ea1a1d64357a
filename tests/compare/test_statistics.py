"""The tests, intervals and power of a comparison, checked with scipy and statsmodels."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from gptlab.compare.analysis import statistics
from gptlab.compare.analysis.statistics import Estimate
from gptlab.compare.analysis.text_share import estimate

NAN = float("nan")
DRAWS = [np.random.default_rng(n).normal(0.01, 0.02, n) for n in (2, 3, 5, 12, 40)]


def of(differences):
    return estimate(differences, None, 0.0).estimate


@pytest.mark.parametrize("differences", DRAWS, ids=len)
def test_p_and_interval_are_those_of_the_paired_t_test(differences):
    other = np.arange(len(differences)) / 7
    expected = stats.ttest_rel(other + differences, other)
    found = of(differences)
    assert statistics.two_sided_p(found) == pytest.approx(expected.pvalue)
    assert statistics.interval(found) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert statistics.interval(found, 0.01) == pytest.approx(tuple(expected.confidence_interval(0.99)))


@pytest.mark.parametrize("differences", DRAWS, ids=len)
@pytest.mark.parametrize("margin", [0.005, 0.02, 0.3])
def test_equivalence_is_two_one_sided_t_tests(differences, margin):
    expected = ttost_paired(differences, np.zeros(len(differences)), -margin, margin)[0]
    assert statistics.equivalence_p(of(differences), margin) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_holm_is_statsmodels(n):
    p = np.random.default_rng(n).uniform(0, 0.3, n) ** 2
    expected = multipletests(p, method="holm")[1]
    assert [c.p for c in statistics.holm(p)] == pytest.approx(expected)
    with_unknown = [c.p for c in statistics.holm([NAN, *p, NAN])]
    assert math.isnan(with_unknown[0]) and with_unknown[1:-1] == pytest.approx(expected)
    assert statistics.holm([]) == []


def test_holm_counts_the_tests_that_were_planned_and_have_no_p_yet():
    planned = statistics.holm([0.01, 0.012], family=5)
    assert [c.p for c in planned] == pytest.approx([0.05, 0.05]) and planned[0].level == 0.01
    assert [c.p for c in statistics.holm([0.01, 0.012])] == pytest.approx([0.02, 0.02])


@pytest.mark.parametrize("seed", range(20))
def test_an_interval_contains_zero_if_and_only_if_the_corrected_p_is_not_below_the_level(seed):
    rng = np.random.default_rng(seed)
    found = [of(rng.normal(mean, 1, 4)) for mean in rng.choice([0, 1, 3, 8], 5)]
    for one, corrected in zip(found, statistics.holm([statistics.two_sided_p(e) for e in found], 6), strict=True):
        low, high = statistics.interval(one, corrected.level)
        assert (low > 0 or high < 0) == (corrected.p < 0.05)
        assert corrected.level >= 0.05 / 6


def power(effect: float, df: int, level: float = 0.05) -> float:
    """Return statsmodels' power, or where it fails because a tail vanishes, an integral over the sample's deviation."""
    known = TTestPower().power(effect / (df + 1) ** 0.5, df + 1, level)
    if known == known:
        return known
    critical = stats.t.ppf(1 - level / 2, df)
    chi = stats.chi(df, scale=df**-0.5)
    return quad(lambda sd: chi.pdf(sd) * stats.norm.cdf(effect - critical * sd), 0, np.inf)[0]


@pytest.mark.parametrize("df", [1, 2, 4, 9, 99, 999])
@pytest.mark.parametrize("level", [0.05, 0.05 / 8])
def test_power_is_exact(df, level):
    for effect in (0.01, 0.7, 3.0, 8.0):
        assert statistics.power(effect, df, level) == pytest.approx(power(effect, df, level), abs=1e-7)
    assert statistics.power(statistics.detectable(df, level), df, level) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("margin", [0.1, 0.35, 1.0, 3.0, 9.0])
@pytest.mark.parametrize("level", [0.05, 0.0125])
def test_seeds_needed_are_the_fewest_that_have_the_power(margin, level):
    n = statistics.seeds_needed(1.0, margin, level)
    if math.isfinite(n):
        assert power(margin * n**0.5, n - 1, level) >= 0.8 > power(margin * (n - 1) ** 0.5, n - 2, level)


def test_seeds_beyond_a_thousand_are_not_counted():
    assert statistics.seeds_needed(1.0, 0.08) == math.inf and statistics.seeds_needed(1.0, 1e-9) == math.inf
    assert math.isnan(statistics.seeds_needed(NAN, 1.0)) and math.isnan(statistics.seeds_needed(1.0, NAN))


def test_no_number_of_seeds_makes_up_for_a_small_validation_text():
    assert statistics.seeds_needed(1.0, 1.0) == 10
    assert statistics.seeds_needed(1.0, 1.0, text_variance=0.05) > 10
    assert statistics.seeds_needed(1.0, 1.0, text_variance=0.2) == math.inf


def test_the_range_of_a_spread_is_that_of_the_chi_square():
    low, high = statistics.spread_range(4)
    sds = np.random.default_rng(0).normal(0, 1, (200_000, 5)).std(axis=1, ddof=1)
    covered = np.mean((sds * low < 1) & (sds * high > 1))
    assert covered == pytest.approx(0.9, abs=0.003)


@pytest.mark.parametrize(
    "table", [(3, 5, 0, 5), (5, 5, 0, 5), (1, 8, 2, 9), (0, 3, 0, 4), (4, 4, 4, 4), (7, 20, 1, 20)]
)
def test_shares_are_compared_by_fishers_exact_test(table):
    hits, total, other_hits, other_total = table
    expected = stats.fisher_exact([[hits, total - hits], [other_hits, other_total - other_hits]]).pvalue
    assert statistics.fisher_p(*table) == pytest.approx(expected)
    assert math.isnan(statistics.fisher_p(0, 0, 1, 3))


def test_an_estimate_without_error_is_certain():
    assert statistics.two_sided_p(Estimate(0.5, 0.0, 4)) == 0 and statistics.two_sided_p(Estimate(0.0, 0.0, 4)) == 1
    assert statistics.equivalence_p(Estimate(0.5, 0.0, 4), 1.0) == 0
