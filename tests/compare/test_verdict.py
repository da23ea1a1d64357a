"""The statistics of a comparison, checked with scipy and statsmodels, and the verdicts that follow from them."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.integrate import quad
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from gptlab.compare.analysis import statistics
from gptlab.compare.analysis.effects import compare_scores
from gptlab.compare.analysis.verdict import DEFINITIONS, decide_verdict
from gptlab.runs.metrics import metric_named
from run_folders import POST, RMS, one_line, rows, shown, write_arm, write_run

NAN = float("nan")
DRAWS = [np.random.default_rng(n).normal(0.01, 0.02, n) for n in (2, 3, 5, 12, 40)]


# Differences that are paired by seed


def test_differences_are_paired_by_seed(tmp_path):
    base, other = [2.0, 2.5, 3.1, 2.2], [1.99, 2.48, 3.09, 2.17]
    write_arm(tmp_path, "base", base)
    write_arm(tmp_path, "other", other, **RMS)
    row = rows(shown([tmp_path])[0])["norm=rmsnorm"]
    half = 3.182446 * 0.00957427 / 4**0.5  # t(0.975, 3 degrees of freedom), deviation of -0.01, -0.02, -0.01, -0.03
    assert row["mean"] == pytest.approx(2.4325)
    assert row["std"] == pytest.approx(pd.Series(other).std(ddof=1))
    assert row["difference"] == pytest.approx(-0.0175) and row["pairs"] == 4
    assert (row["low"], row["high"]) == pytest.approx((-0.0175 - half, -0.0175 + half), abs=1e-6)
    assert row["high"] < 0  # though the seeds differ fifty times as much as the arms
    assert row["sd_unpaired"] == pytest.approx(math.hypot(np.std(base, ddof=1), np.std(other, ddof=1)))


def test_only_common_seeds_enter_the_difference(tmp_path):
    for seed, loss in ((0, 2.0), (1, 2.2), (2, 9.0)):
        write_run(tmp_path / f"base-{seed}", loss, seed=seed)
    for seed, loss in ((0, 2.1), (1, 2.4), (3, 1.0)):
        write_run(tmp_path / f"other-{seed}", loss, seed=seed, **RMS)
    frame, text = shown([tmp_path])
    row = rows(frame)["norm=rmsnorm"]
    assert (row["seeds"], row["pairs"], row["difference"]) == (3, 2, pytest.approx(0.15))
    assert "+0.1500 ± 0.6353 (2 of 3)" in text


def test_one_common_seed_has_no_interval_and_no_verdict(tmp_path):
    write_arm(tmp_path, "base", [2.0])
    write_arm(tmp_path, "other", [1.9], **RMS)
    frame, text = shown([tmp_path])
    row = rows(frame)["norm=rmsnorm"]
    assert row["difference"] == pytest.approx(-0.1) and row["verdict"] == "one seed: no verdict"
    assert all(math.isnan(row[key]) for key in ("std", "low", "high", "boot_low", "p", "p_holm", "seeds_needed"))
    assert "norm=rmsnorm 1 1.9000 -0.1000 - one seed: no verdict" in one_line(text)


def test_without_a_common_seed_there_is_no_difference(tmp_path):
    write_run(tmp_path / "base", seed=0)
    write_run(tmp_path / "other", seed=1, **RMS)
    frame, text = shown([tmp_path])
    assert math.isnan(frame["difference"][1]) and frame["pairs"][1] == 0
    assert "no common seed: no verdict" in text and "nan" not in text


def test_identical_arms_are_equivalent_and_a_constant_difference_is_certain(tmp_path):
    write_arm(tmp_path, "base", [2.0, 2.25])
    write_arm(tmp_path, "same", [2.0, 2.25], **RMS)
    write_arm(tmp_path, "worse", [2.5, 2.75], **POST)
    frame, text = shown([tmp_path], baseline="norm=layernorm placement=pre")
    same, worse = (rows(frame)[key] for key in ("norm=rmsnorm", "placement=post"))
    assert (same["verdict"], same["p"], same["low"], same["high"]) == ("equivalent", 1.0, 0.0, 0.0)
    assert (worse["verdict"], worse["p"], worse["boot_low"], worse["boot_high"]) == ("worse", 0.0, 0.5, 0.5)
    assert "+0.0000 ± 0.0000" in text and "nan" not in text


# Tests, intervals and power against others' code


@pytest.mark.parametrize("differences", DRAWS, ids=len)
def test_p_and_interval_are_those_of_the_paired_t_test(differences):
    other = np.arange(len(differences)) / 7
    expected = stats.ttest_rel(other + differences, other)
    assert statistics.paired_p(differences) == pytest.approx(expected.pvalue)
    assert statistics.t_interval(differences) == pytest.approx(tuple(expected.confidence_interval(0.95)))


@pytest.mark.parametrize("differences", DRAWS, ids=len)
@pytest.mark.parametrize("margin", [0.005, 0.02, 0.3])
def test_equivalence_is_two_one_sided_t_tests(differences, margin):
    expected = ttost_paired(differences, np.zeros(len(differences)), -margin, margin)[0]
    assert statistics.equivalence_p(differences, margin) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_holm_is_statsmodels(n):
    p = np.random.default_rng(n).uniform(0, 0.3, n) ** 2
    expected = multipletests(p, method="holm")[1]
    assert statistics.holm(p) == pytest.approx(expected)
    with_unknown = statistics.holm([NAN, *p, NAN])
    assert math.isnan(with_unknown[0]) and with_unknown[1:-1] == pytest.approx(expected)
    assert statistics.holm([]) == []


def power(effect: float, pairs: int) -> float:
    """Return statsmodels' power, or where it fails because a tail vanishes, an integral over the sample's deviation."""
    known = TTestPower().power(effect, pairs, 0.05)
    if known == known:
        return known
    critical, shift, df = stats.t.ppf(0.975, pairs - 1), effect * pairs**0.5, pairs - 1
    chi = stats.chi(df, scale=df**-0.5)
    return quad(lambda sd: chi.pdf(sd) * stats.norm.cdf(shift - critical * sd), 0, np.inf)[0]


@pytest.mark.parametrize("pairs", [2, 3, 5, 10, 100, 1000])
def test_power_is_exact(pairs):
    for effect in (0.01, 0.3, 1.0, 4.0, 12.0):
        assert statistics.power(effect, pairs) == pytest.approx(power(effect, pairs), abs=1e-7)
    assert power(statistics.detectable(pairs), pairs) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("effect", [0.1, 0.35, 1.0, 3.0, 9.0])
def test_seeds_needed_are_the_fewest_that_have_the_power(effect):
    found = statistics.seeds_needed(effect)
    assert power(effect, found) >= 0.8 > power(effect, found - 1)


def test_seeds_beyond_a_thousand_are_not_counted():
    assert statistics.seeds_needed(0.08) == math.inf and statistics.seeds_needed(0.0) == math.inf
    assert math.isnan(statistics.seeds_needed(NAN))


def test_the_bootstrap_is_always_the_same_and_near_the_t_interval_for_many_seeds():
    differences = np.random.default_rng(0).normal(1, 1, 200)
    first, again = (statistics.bootstrap_interval(differences) for _ in range(2))
    assert first == again
    assert first == pytest.approx(statistics.t_interval(differences), abs=0.02)


# Words


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        ("better", {"mean": -0.1}),
        ("worse", {}),
        ("better", {"higher": True}),
        ("worse", {"p_equivalent": 0.001}),
        ("equivalent", {"p_holm": 0.05, "p_equivalent": 0.04}),
        ("not shown", {"p_holm": 0.05, "p_equivalent": 0.05}),
        ("not shown", {"p_holm": 0.3, "p_equivalent": NAN}),
        ("unstable", {"diverged": True}),
        ("unstable", {"diverged": True, "pairs": 0, "p_holm": NAN}),
        ("one seed: no verdict", {"pairs": 1, "p_holm": NAN}),
        ("no common seed: no verdict", {"pairs": 0, "mean": NAN, "p_holm": NAN}),
    ],
)
def test_the_verdict(expected, changes):
    given = {"pairs": 5, "mean": 0.1, "p_holm": 0.01, "p_equivalent": 0.9, "diverged": False, "higher": False}
    assert decide_verdict(**given | changes) == expected
    assert expected in DEFINITIONS or expected.endswith("no verdict")


@pytest.mark.parametrize(
    ("metric", "higher"),
    [("val/loss", False), ("val/bpb", False), ("memory/peak_gib", False), ("seconds", False)]
    + [("speed/tokens_per_s", True), ("speed/mfu", True), ("recall/accuracy_4x", True)],
)
def test_a_higher_speed_or_accuracy_is_better(metric, higher):
    assert metric_named(metric).higher_is_better is higher


def test_the_direction_of_a_metric_decides_between_better_and_worse(tmp_path):
    write_arm(tmp_path, "base", [2.0, 2.1, 2.2])
    for seed in range(3):
        slow = {"summary": {"speed/tokens_per_s": 99.0 + 2 * seed}, "times": ("9", "")}
        write_run(tmp_path / f"o{seed}", 1.9 + seed / 11, seed=seed, **slow, **RMS)
    assert shown([tmp_path])[0]["verdict"][1] == "better"
    frame, text = shown([tmp_path], metric="speed/tokens_per_s")
    assert frame["verdict"][1] == "worse" and "higher is better" in text


def test_a_shown_difference_smaller_than_the_margin_has_a_note(tmp_path):
    write_arm(tmp_path, "base", [2.0, 2.1, 2.2, 2.3])
    write_arm(tmp_path, "other", [2.0010, 2.1011, 2.2012, 2.3011], **RMS)
    frame, text = shown([tmp_path])
    assert (frame["verdict"][1], frame["note"][1]) == ("worse", "within the margin")
    assert "worse (within the margin)" in text
    assert shown([tmp_path], margin=0.001)[0]["note"][1] == ""


def test_p_is_corrected_over_the_arms(tmp_path):
    write_arm(tmp_path, "base", [2.0, 2.1, 2.2, 2.3])
    for i in range(4):
        losses = np.array([2.0, 2.1, 2.2, 2.3]) + np.random.default_rng(i).normal(0.02, 0.01, 4)
        write_arm(tmp_path, f"other{i}", losses, size={"dim": i})
    frame = shown([tmp_path], baseline="size.dim=null")[0].iloc[1:]
    assert list(frame["p_holm"]) == pytest.approx(multipletests(frame["p"], method="holm")[1])


# Calibration, on arms that do not differ


def shares(arms: int, seeds: int, experiments: int) -> dict[str, float]:
    """Return how often an experiment with identical arms has each verdict at least once."""
    rng = np.random.default_rng(seeds)
    counts: dict[str, int] = {}
    for scores in rng.normal(0, 1, (experiments, arms + 1, seeds)):
        scores += rng.normal(0, 3, seeds)  # which the pairing takes out
        differences = scores[1:] - scores[0]
        p = statistics.holm([statistics.paired_p(own) for own in differences])
        words = {
            decide_verdict(
                pairs=seeds,
                mean=own.mean(),
                p_holm=corrected,
                p_equivalent=statistics.equivalence_p(own, 0.5),
                diverged=False,
                higher=False,
            )
            for own, corrected in zip(differences, p, strict=True)
        }
        for found in words:
            counts[found] = counts.get(found, 0) + 1
    return {found: n / experiments for found, n in counts.items()}


@pytest.mark.parametrize("seeds", [3, 8])
def test_one_of_twenty_experiments_with_two_identical_arms_has_a_claim(seeds):
    found = shares(1, seeds, 4000)
    low, high = stats.binom.interval(0.9999, 4000, 0.05)
    assert low <= 4000 * (found["better"] + found["worse"]) <= high
    assert abs(found["better"] - found["worse"]) < 0.02


def test_at_most_one_of_twenty_experiments_with_many_identical_arms_has_a_claim():
    found = shares(6, 5, 1500)
    assert found.get("better", 0) + found.get("worse", 0) <= stats.binom.ppf(0.9999, 1500, 0.05) / 1500


def test_the_stated_power_is_the_actual_power():
    rng = np.random.default_rng(1)
    for pairs in (3, 6):
        draws = rng.normal(statistics.detectable(pairs), 1, (4000, pairs))
        shown_in = np.mean([statistics.paired_p(own) < 0.05 for own in draws])
        assert shown_in == pytest.approx(0.8, abs=0.025)


def test_a_false_equivalence_is_claimed_in_one_of_twenty_experiments():
    draws = np.random.default_rng(2).normal(0.5, 1, (4000, 40))  # exactly at the margin
    found = np.mean([statistics.equivalence_p(own, 0.5) < 0.05 for own in draws])
    assert found == pytest.approx(0.05, abs=0.014)


def test_the_effects_of_scores_by_seed():
    scores = {"a": pd.Series([1.0, 2.0], index=[0, 1]), "b": pd.Series([1.5, 2.6, 9.0], index=[0, 1, 7])}
    effects = compare_scores(scores, {"b": "a"}, {"a": [], "b": []}, metric="val/loss", margin=0.01)
    assert effects["b"].pairs == 2 and effects["b"].mean == pytest.approx(0.55)
    assert effects["b"].detectable == pytest.approx(statistics.detectable(2) * effects["b"].sd)
