"""Runs that ended far above the others of their arm."""

import pytest

from gptlab.compare import build_comparison
from run_folders import RMS, one_line, rows, shown, write_arm

GOOD = [2.3268, 2.3557, 2.2956, 2.3062]  # the baseline that four of our experiments share
STUCK = [*GOOD, 2.5117]  # and its fifth seed


def stuck(top, **options):
    return {r.name: r.stuck for r in build_comparison([top], **options).results}


def test_a_run_far_above_the_others_of_its_arm_is_stuck(tmp_path):
    write_arm(tmp_path, "base", STUCK, summary={"val/bpb": None})
    write_arm(tmp_path, "other", [2.30, 2.31, 2.29, 2.32, 2.30], summary={"val/bpb": None}, **RMS)
    assert stuck(tmp_path) == {"norm=layernorm": [4], "norm=rmsnorm": []}
    frame, text = shown([tmp_path], markdown=tmp_path / "x.md", margin=0.01)
    found = rows(frame)
    assert (found["norm=layernorm"]["stuck"], found["norm=rmsnorm"]["stuck"]) == (1, 0)
    other = found["norm=rmsnorm"]
    assert other["verdict"] == "not shown" and other["verdict_without_stuck"] == "not shown"
    assert other["difference_without_stuck"] == pytest.approx(-0.0161, abs=1e-3)
    text = one_line(text)
    assert "Without stuck seeds: norm=rmsnorm -0.0161 ± " in text and "(4 pairs)." in text
    assert "Stuck runs beside those of the reference: norm=rmsnorm 0 of 5 against 1 of 5 (p 1.000);" in text
    assert "| stuck |" in (tmp_path / "x.md").read_text()


def test_seeds_that_only_vary_are_not_stuck(tmp_path):
    write_arm(tmp_path, "base", [2.30, 2.33, 2.28, 2.35, 2.31], summary={"val/bpb": None})
    write_arm(tmp_path, "other", [2.36, 2.31, 2.30, 2.33, 2.39], summary={"val/bpb": None}, **RMS)
    assert stuck(tmp_path) == {"norm=layernorm": [], "norm=rmsnorm": []}


def test_a_small_difference_is_not_stuck_however_little_the_seeds_vary(tmp_path):
    write_arm(tmp_path, "base", [2.3, 2.3001, 2.3002, 2.35], summary={"val/bpb": None})
    assert stuck(tmp_path) == {"all runs": []}


def test_a_run_above_the_loss_of_guessing_is_stuck_whatever_its_peers_do(tmp_path):
    """ln 256 is 5.55."""
    write_arm(tmp_path, "base", [6.9, 6.8, 6.9], model={"name": "gpt", "vocab_size": 256})
    assert stuck(tmp_path) == {"all runs": [0, 1, 2]}
    write_arm(tmp_path / "more", "base", [5.5, 5.4, 5.5], model={"name": "gpt", "vocab_size": 256})
    assert stuck(tmp_path / "more") == {"all runs": []}


def test_the_verdict_with_all_seeds_stays_the_first(tmp_path):
    write_arm(tmp_path, "base", [2.0, 2.001, 2.002, 2.001, 2.4], summary={"val/bpb": None})
    write_arm(tmp_path, "other", [1.9, 1.902, 1.901, 1.9, 1.903], summary={"val/bpb": None}, **RMS)
    (effect, without) = (
        (r.effect, r.without_stuck) for r in build_comparison([tmp_path], margin=0.01).results[1:]
    ).__next__()
    assert (effect.word, effect.pairs) == ("not shown", 5) and (without.word, without.pairs) == ("better", 4)
