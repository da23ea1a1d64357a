"""Compute multipliers of the runs of a sweep; tests/compare/test_multiplier.py has their statistics."""

import json
import math

import pytest

from gptlab.compare import build_comparison
from gptlab.compare.views.json_document import comparison_document
from run_folders import FLOPS, RMS, shown, write_run, write_sweep

WIGGLES = (0.0, 0.004, -0.003)


def loss_at(tokens):
    return 2.0 - 0.2 * math.log(tokens)  # nats; tokens as a multiple of the baseline's


def write(top, arm_worth=1.5, shares=(0.5, 2), speed=1000.0, **arm):
    """Write a baseline, an arm that is worth `arm_worth` times its compute, and the baseline at other budgets."""
    folders = {}
    for seed, wiggle in enumerate(WIGGLES):
        write_run(top / f"base-{seed}", loss_at(1) + wiggle, seed=seed)
        own = loss_at(arm_worth) + wiggle * 1.2
        write_run(top / f"arm-{seed}", own, seed=seed, summary={"speed/tokens_per_s": speed}, **(arm or RMS))
        for share in shares:
            name = f"base-{share}-{seed}"
            loss = loss_at(share) + wiggle * 0.9
            write_run(top / name, loss, seed=seed, tokens=int(76800 * share), phase="budget", budget={"steps": share})
            folders.setdefault(str(share), []).append(name)
    arms = [[f"{name}-{seed}" for seed in range(len(WIGGLES))] for name in ("base", "arm")]
    write_sweep(top, arms=arms, budgets=folders)
    return top


def test_an_arm_is_worth_the_compute_that_the_baseline_needs_for_its_loss(tmp_path):
    comparison = build_comparison([write(tmp_path)])
    base, arm = comparison.results
    assert base.multiplier is None and [r.name for r in comparison.results] == [base.name, "norm=rmsnorm"]
    worth = arm.multiplier.tokens
    assert worth.value == pytest.approx(1.5, abs=0.02) and worth.low < 1.5 < worth.high and worth.method == "bracketed"
    assert arm.multiplier.flops.value == pytest.approx(worth.value)
    assert comparison.margin == pytest.approx(0.2 * math.log(1.05), rel=0.03)
    assert comparison.margin_text.endswith("which is 5% of compute (0.2000 per e-fold of tokens)")


def test_the_multiplier_counts_what_a_token_costs(tmp_path):
    top = write(tmp_path, speed=500.0)
    for seed in range(3):
        path = top / f"arm-{seed}" / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"flops_per_token": 1.25 * FLOPS}))
    arm = build_comparison([top]).results[1].multiplier
    assert arm.flops.value == pytest.approx(arm.tokens.value / 1.25)
    usual = build_comparison([top]).baseline.costs["tokens_per_s"]
    assert arm.seconds.value == pytest.approx(arm.tokens.value / (usual / 500))


@pytest.mark.parametrize(("worth", "text"), [(2.5, ">2"), (0.3, "<0.5")])
def test_an_arm_beyond_the_budgets_gets_a_bound(tmp_path, worth, text):
    assert str(build_comparison([write(tmp_path, worth)]).results[1].multiplier.tokens).startswith(text)


def test_all_views_show_it_and_the_kept_file_makes_it_again(tmp_path):
    top = write(tmp_path / "runs")
    frame, text = shown([top], markdown=tmp_path / "x.md", keep=tmp_path / "x.json")
    row = frame.set_index("arm").loc["norm=rmsnorm"]
    worth = build_comparison([top]).results[1].multiplier.tokens
    assert row["multiplier_tokens"] == pytest.approx(worth.value) and str(worth) in text
    assert f"| norm=rmsnorm | {worth} |" in (tmp_path / "x.md").read_text()
    again = build_comparison([tmp_path / "x.json"])
    assert str(again.results[1].multiplier.tokens) == str(worth) and again.margin == build_comparison([top]).margin
    document = comparison_document(again)["arms"][1]["multiplier"]
    assert document["tokens"]["text"] == str(worth) and document["reason"] == ""


def test_without_a_slope_there_is_no_multiplier_but_a_reason(tmp_path):
    top = write(tmp_path)
    for path in top.glob("base-2-*/summary.json"):
        path.write_text(path.read_text().replace('"val/loss": 1.8', '"val/loss": 2.8'))
    arm = build_comparison([top]).results[1].multiplier
    assert "does not" in arm.tokens.reason
    assert f"norm=rmsnorm has no compute multiplier: {arm.tokens.reason}." in shown([top])[1]
