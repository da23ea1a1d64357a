"""The statistics of a comparison, checked with scipy and statsmodels, and the verdicts that follow from them."""

import math

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from gptlab.compare.analysis import statistics
from gptlab.compare.analysis.effects import Evidence, Rules, compare_scores
from gptlab.compare.analysis.judgement import judge
from gptlab.compare.analysis.verdict import DEFINITIONS, decide_verdict
from gptlab.compare.collect import collect_runs
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
    assert all(math.isnan(row[key]) for key in ("std", "low", "high", "p", "p_holm", "detectable", "seeds_needed"))
    assert "norm=rmsnorm 1 1.9000 -0.1000 - one seed: no verdict" in one_line(text)


def test_without_a_common_seed_there_is_no_difference(tmp_path):
    write_run(tmp_path / "base", seed=0)
    write_run(tmp_path / "other", seed=1, **RMS)
    frame, text = shown([tmp_path])
    assert math.isnan(frame["difference"][1]) and frame["pairs"][1] == 0
    assert "no common seed: no verdict" in text and "nan" not in text


def test_identical_arms_are_equivalent_and_a_constant_difference_is_certain(tmp_path):
    write_arm(tmp_path, "base", [2.0, 2.25, 2.0])
    write_arm(tmp_path, "same", [2.0, 2.25, 2.0], **RMS)
    write_arm(tmp_path, "worse", [2.5, 2.75, 2.5], **POST)
    frame, text = shown([tmp_path], baseline="norm=layernorm placement=pre")
    same, worse = (rows(frame)[key] for key in ("norm=rmsnorm", "placement=post"))
    assert (same["verdict"], same["p"], same["difference"]) == ("equivalent", 1.0, 0.0)
    assert worse["verdict"] == "worse" and 0 < worse["p"] < 1e-9 and worse["low"] == pytest.approx(0.5, abs=1e-5)
    assert "+0.0000 ± 0.0000" in text and "nan" not in text


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
        ("unstable", {"unstable": True}),
        ("unstable", {"unstable": True, "pairs": 0, "p_holm": NAN}),
        ("no verdict", {"refused": True, "unstable": True}),
        ("two seeds: no verdict", {"pairs": 2}),
        ("one seed: no verdict", {"pairs": 1, "p_holm": NAN}),
        ("no common seed: no verdict", {"pairs": 0, "mean": NAN, "p_holm": NAN}),
    ],
)
def test_the_verdict(expected, changes):
    given = {"pairs": 5, "mean": 0.1, "p_holm": 0.01, "p_equivalent": 0.9, "unstable": False, "higher": False}
    assert decide_verdict(**given | changes) == expected
    assert expected in DEFINITIONS or expected.endswith("no verdict")


@pytest.mark.parametrize(
    ("metric", "higher"),
    [("val/loss", False), ("val/bpb", False), ("memory/peak_gib", False), ("seconds", False)]
    + [("speed/seconds_per_step", False), ("ms_per_sample", False), ("val/inaccuracy", False)]
    + [("samples_per_second", True), ("val/accuracy_pairs-8", True)]
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
    assert shown([tmp_path], margin="0.001")[0]["note"][1] == ""


def test_p_is_corrected_over_the_arms(tmp_path):
    write_arm(tmp_path, "base", [2.0, 2.1, 2.2, 2.3])
    for i in range(4):
        losses = np.array([2.0, 2.1, 2.2, 2.3]) + np.random.default_rng(i).normal(0.02, 0.01, 4)
        write_arm(tmp_path, f"other{i}", losses, size={"dim": i})
    frame = shown([tmp_path], baseline="size.dim=null")[0].iloc[1:]
    assert list(frame["p_holm"]) == pytest.approx(multipletests(frame["p"], method="holm")[1])


def test_the_effects_of_scores_by_seed():
    scores = {"a": pd.Series([1.0, 2.0], index=[0, 1]), "b": pd.Series([1.5, 2.6, 9.0], index=[0, 1, 7])}
    effects = compare_scores(scores, {"b": "a"}, Rules("val/loss", 0.01))
    assert effects["b"].pairs == 2 and effects["b"].mean == pytest.approx(0.55)
    assert effects["b"].word == "two seeds: no verdict" and math.isnan(effects["b"].p_holm)
    assert effects["b"].detectable == pytest.approx(statistics.detectable(1) * effects["b"].sd / 2**0.5)
    assert effects["b"].detectable_low < effects["b"].detectable < effects["b"].detectable_high


def test_what_must_not_be_judged_is_not():
    seeds = range(4)
    base = pd.Series([2.0, 2.1, 2.2, 2.3], index=seeds)
    scores = {"a": base, "b": base - 0.5, "c": base - 0.4, "d": base - 0.3}
    effects = compare_scores(
        scores,
        dict.fromkeys("bcd", "a"),
        Rules("val/loss", 0.01),
        Evidence(
            unlike={"b": {3: "other text"}, "c": dict.fromkeys(seeds, "float32 against bf16 weights")},
            refused={"d": "its best rate is the highest tried"},
        ),
    )
    assert (effects["b"].word, effects["b"].pairs) == ("better", 3)
    assert effects["b"].note == "seed 3 left out: other text"
    assert effects["c"].word == "no verdict" and effects["c"].pairs == 0
    assert effects["c"].note == "seeds 0, 1, 2, 3 left out: float32 against bf16 weights"
    assert (effects["d"].word, effects["d"].note) == ("no verdict", "its best rate is the highest tried")


def test_accuracies_that_tie_are_not_certain():
    """Seeds may agree to the last digit because an accuracy is a multiple of 1/2000, not because there is no noise."""
    scores = {"a": pd.Series([0.9990] * 3), "b": pd.Series([0.9995] * 3)}
    effect = compare_scores(scores, {"b": "a"}, Rules("val/accuracy"))["b"]
    assert effect.word == "not shown" and effect.p == pytest.approx(0.0513, abs=1e-3)
    assert effect.low < 0 < effect.high


def test_an_interval_beside_a_corrected_word_agrees_with_it(tmp_path):
    """The interval of an arm that is not shown contains 0, although an uncorrected one would not."""
    write_arm(tmp_path, "base", [2.0, 2.1, 2.2, 2.3, 2.4])
    for i, difference in enumerate((-0.1941, 0.0, 0.01, 0.02, -0.01)):
        losses = np.array([2.0, 2.1, 2.2, 2.3, 2.4]) + difference + np.array([-0.18, 0.18, -0.1, 0.1, 0.0])
        write_arm(tmp_path, f"other{i}", losses, size={"dim": i})
    frame = shown([tmp_path], baseline="size.dim=null")[0].iloc[1:]
    first = frame.iloc[0]
    assert first["p"] < 0.05 < first["p_holm"] and first["verdict"] == "not shown"
    assert first["low"] < 0 < first["high"] and first["confidence"] == pytest.approx(0.99)
    for row in frame.to_dict("records"):
        assert (row["low"] > 0 or row["high"] < 0) == (row["verdict"] in ("better", "worse"))


def test_a_ladder_whose_end_must_not_be_judged_gets_no_word_over_the_whole_either(tmp_path):
    for step, name in enumerate(("one", "two", "three")):
        losses = [2.0 - step / 10 + wiggle for wiggle in (0.0, 0.01 + step / 1000, 0.02)]
        write_arm(tmp_path, name, losses, variant=name, size={"dim": step})
    labelled = {str(arm.label): arm for arm in collect_runs([tmp_path]).arms}
    arms = {label: labelled[label] for label in ("one", "two", "three")}
    judged = judge(arms, {"two": "one", "three": "two"}, Rules("val/loss"), {"three": "at the highest rate tried"})
    assert judged.whole is not None and judged.whole[1].word == "no verdict" == judged.effects["three"].word
    assert judged.effects["two"].word == "better"
