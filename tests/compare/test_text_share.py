"""The validation text's share of the error, from the losses by block."""

import math

import numpy as np
import pandas as pd
import pytest

from gptlab.compare import build_comparison
from gptlab.compare.analysis.effects import Evidence, Rules, compare_scores
from gptlab.compare.analysis.text_share import block_deviations, estimate
from run_folders import RMS, one_line, shown, write_run

BLOCKS = 32
TEXT = np.random.default_rng(0).normal(0, 1, BLOCKS)


def summary(loss, harder):
    """A run's blocks: 100 tokens of 400 bytes each, with `harder` nats per token on top of the loss, by block."""
    losses = loss + harder - np.mean(harder)
    blocks = {
        "val/block_nats": list(100 * losses),
        "val/block_tokens": [100] * BLOCKS,
        "val/block_bytes": [400] * BLOCKS,
    }
    return blocks | {"val/loss": loss, "val/bpb": loss / math.log(2) / 4}


def write(top, *, arm_text=0.0, seeds=5):
    """Two arms whose difference varies along the text by `arm_text`; the seeds differ by 0.001."""
    rng = np.random.default_rng(1)
    for seed in range(seeds):
        for name, changes, mean, varies in (("base", {}, 2.0, 0.0), ("other", RMS, 1.98, arm_text)):
            loss = mean + rng.normal(0, 0.001)
            write_run(
                top / f"{name}-{seed}", loss, seed=seed, summary=summary(loss, TEXT + varies * TEXT[::-1]), **changes
            )
    return top


def test_the_deviations_of_a_run_sum_to_zero_and_have_the_unit_of_the_metric():
    run = summary(2.0, TEXT)
    nats, bits = block_deviations(run, "val/loss"), block_deviations(run, "val/bpb")
    assert nats == pytest.approx(TEXT - TEXT.mean()) and nats.mean() == pytest.approx(0, abs=1e-12)
    assert bits == pytest.approx(nats / math.log(2) / 4)
    assert block_deviations(run, "val/accuracy") is None and block_deviations({"val/loss": 2.0}, "val/loss") is None


def test_a_long_block_counts_for_more():
    run = {"val/block_nats": [30.0, *[10.0] * 7], "val/block_tokens": [10, *[5] * 7]}
    loss = 100 / 45
    expected = np.array([30 - 10 * loss, *[10 - 5 * loss] * 7]) * 8 / 45
    assert block_deviations(run, "val/loss") == pytest.approx(expected)


def test_without_a_difference_along_the_text_the_interval_is_that_of_the_seeds():
    differences = np.random.default_rng(2).normal(0, 1, 5)
    alone = estimate(differences, None, 0.0)
    same = estimate(differences, [np.zeros(BLOCKS)] * 5, 0.0)
    assert same.estimate == alone.estimate and same.text_variance == 0 and math.isnan(alone.text_variance)


def test_what_varies_along_the_text_widens_the_interval_whatever_the_number_of_seeds():
    rng = np.random.default_rng(3)
    text = rng.normal(0, 1, BLOCKS)
    for n in (3, 10, 100):
        found = estimate(rng.normal(0, 0.01, n), [text + rng.normal(0, 0.1, BLOCKS) for _ in range(n)], 0.0)
        assert found.estimate.error > 0.5 / BLOCKS**0.5
    assert 5 < found.estimate.df < 8  # those of the blocks


def test_noise_that_differs_from_seed_to_seed_along_the_text_counts_once():
    """It is in the spread of the seeds already."""
    rng = np.random.default_rng(4)
    shares = []
    for _ in range(300):
        blocks = rng.normal(0, 1, (5, BLOCKS))
        found = estimate(blocks.mean(1), list(blocks - blocks.mean(1, keepdims=True)), 0.0)
        shares.append(found.estimate.error**2 * 5 * BLOCKS)
    assert 1.0 < np.mean(shares) < 1.4  # twice counted, it would be 2


def test_a_comparison_says_what_its_intervals_cover(tmp_path):
    narrow = build_comparison([write(tmp_path / "a")]).results[1].effect
    wide = build_comparison([write(tmp_path / "b", arm_text=0.1)]).results[1].effect
    assert narrow.text_share < 0.1 and narrow.word == "better"
    assert wide.text_share > 0.9 and wide.word == "not shown" and wide.low < 0 < wide.high
    assert wide.p > narrow.p and wide.mean == pytest.approx(narrow.mean)
    text = one_line(shown([tmp_path / "b"])[1])
    assert f"the validation text, which makes {wide.text_share:.0%} of the variance." in text
    bits = build_comparison([tmp_path / "b"], metric="val/bpb").results[1].effect
    assert bits.p == pytest.approx(wide.p) and bits.mean == pytest.approx(wide.mean / math.log(2) / 4)
    speed = one_line(shown([tmp_path / "b"], metric="speed/tokens_per_s")[1])
    assert "cover the seeds only, not the choice of the validation text." in speed


def test_one_run_without_blocks_leaves_an_interval_over_the_seeds():
    scores = {"a": pd.Series([2.0, 2.1, 2.2]), "b": pd.Series([2.0, 2.2, 2.1])}
    blocks = {"a": dict.fromkeys(range(3), TEXT), "b": {0: TEXT, 1: TEXT}}
    effect = compare_scores(scores, {"b": "a"}, Rules("val/loss", 0.01), Evidence(deviations=blocks))["b"]
    assert math.isnan(effect.text_share) and effect.df == 2
