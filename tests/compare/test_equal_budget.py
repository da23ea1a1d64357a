"""The same runs at equal steps, tokens, FLOPs and seconds."""

import numpy as np
import pytest

from gptlab.compare import build_comparison
from gptlab.compare.analysis.effects import compare_scores
from gptlab.compare.views.captions import disagreements
from run_folders import FLOPS, PER_STEP, RMS, learning, one_line, shown, write_arm, write_run, write_sweep

STEPS, LOSSES = 400, (2.0, 2.1, 2.2, 2.3)


def write(top, *, speeds=(1e4, 1e4), flops=(FLOPS, FLOPS), losses=(0.0, -0.05), steps=(STEPS, STEPS), every=50):
    """Write two arms with four seeds; their final losses are LOSSES plus `losses`."""
    for arm, label in enumerate(("base", "other")):
        for seed, loss in enumerate(LOSSES):
            about = {"steps": steps[arm], "speed": speeds[arm], "flops": flops[arm], "seed": seed, "every": every}
            final = loss + losses[arm] + 0.001 * seed * arm
            run = {"seed": seed, "variant": label, "size": {"dim": arm}, **learning(final, **about)}
            write_run(top / f"{label}-{seed}", final, **run)
    write_sweep(top, variants={"base": [], "other": []})
    return top


def equal_budgets(top, **options):
    return {equal.axis: equal for equal in build_comparison([top], **options).equal_budgets}


def test_with_equal_costs_every_equal_budget_is_the_end_of_the_runs(tmp_path):
    comparison = build_comparison([write(tmp_path)])
    (effect,) = (r.effect for r in comparison.results if r.effect)
    assert [r.axis for r in comparison.equal_budgets] == ["steps", "tokens", "flops", "seconds"]
    for equal in comparison.equal_budgets:
        assert equal.effects == {"other": effect}
        assert equal.means == {r.name: r.mean for r in comparison.results} and equal.reliable and not equal.note
    assert list(disagreements(comparison)) == []
    tokens = STEPS * PER_STEP
    assert [r.budget for r in comparison.equal_budgets] == pytest.approx([STEPS, tokens, tokens * FLOPS, tokens / 1e4])
    text = shown([tmp_path])[1]
    assert "The verdicts are the same at equal steps (400), tokens (307K), FLOPs (1.49T), seconds (30.7)." in text


def test_the_value_at_the_budget_lies_on_the_line_between_two_evaluations(tmp_path):
    found = equal_budgets(write(tmp_path, flops=(FLOPS, 1.3 * FLOPS)))["flops"]
    assert found.budget == STEPS * PER_STEP * FLOPS  # all that the cheaper arm spent
    expected = {}
    for seed, loss in enumerate(LOSSES):
        curve = learning(loss - 0.05 + 0.001 * seed, flops=1.3 * FLOPS, seed=seed)["curve"][1::2]
        at = STEPS / 1.3  # steps, between the evaluations at 300 and 350
        before, after = (next(r["val/loss"] for r in curve if r["step"] == step) for step in (300, 350))
        expected[seed] = before + (after - before) * (at - 300) / 50
    assert found.means["other"] == pytest.approx(np.mean(list(expected.values())), rel=1e-12)
    assert found.effects["other"].mean == pytest.approx(np.mean([expected[s] - LOSSES[s] for s in expected]))


def test_a_slower_arm_is_compared_at_the_time_that_all_arms_had(tmp_path):
    top = write(tmp_path, speeds=(1e4, 5e3))
    found = equal_budgets(top)
    assert found["steps"].effects["other"].verdict == "better" and found["seconds"].effects["other"].verdict == "worse"
    assert found["seconds"].budget == pytest.approx(STEPS * PER_STEP / 1e4)
    (line,) = disagreements(build_comparison([top]))
    assert line.startswith("other: better at equal steps, tokens, FLOPs (-0.0485 ± ")
    assert "; worse at equal seconds (+0." in line
    text = one_line(shown([top], markdown=tmp_path / "x.md")[1])
    assert line in text and "The verdicts depend on what is held equal: steps (400), tokens (307K)," in text
    assert line in (tmp_path / "x.md").read_text()


def test_the_sign_alone_is_a_disagreement(tmp_path):
    top = write(tmp_path, flops=(FLOPS, 1.02 * FLOPS), losses=(0.0, -0.002))
    comparison = build_comparison([top], margin=10.0)
    assert {r.axis: r.effects["other"].mean > 0 for r in comparison.equal_budgets} == {
        "steps": False,
        "tokens": False,
        "flops": True,
        "seconds": False,
    }
    assert len(list(disagreements(comparison))) == 1


def test_a_budget_before_the_first_evaluation_is_left_out(tmp_path):
    top = write(tmp_path, speeds=(1e4, 5e3), every=400)
    found = equal_budgets(top)["seconds"]
    assert not found.effects and not found.means
    assert found.note == "left out: other seed 0 and 3 more had no evaluation by then; set a smaller eval.every"
    text = shown([top], markdown=tmp_path / "x.md")[1]
    assert "Equal seconds: left out: other seed 0" in text and "seconds (" not in text
    assert "left out |" in (tmp_path / "x.md").read_text()


def test_a_longer_run_is_compared_at_the_common_budget(tmp_path):
    top = write(tmp_path, steps=(STEPS, 2 * STEPS))
    found = equal_budgets(top)
    assert found["steps"].budget == STEPS
    curves = build_comparison([top]).curves["other"]
    assert found["steps"].means["other"] == pytest.approx(curves.loc[curves["step"] == STEPS, "val/loss"].mean())


def test_equal_seconds_are_reliable_only_if_the_runs_of_an_arm_have_the_same_speed(tmp_path):
    top = write(tmp_path)
    for seed in (4, 5):
        run = learning(2.4, speed=(5e3, 2e4)[seed - 4], seed=seed)
        write_run(tmp_path / f"base-{seed}", 2.4, seed=seed, variant="base", size={"dim": 0}, **run)
    found = equal_budgets(top)
    speeds = [1e4] * 4 + [5e3, 2e4]
    share = f"{np.std(speeds, ddof=1) / np.mean(speeds):.0%}"
    assert not found["seconds"].reliable and found["steps"].reliable
    assert found["seconds"].note.startswith(f"tokens/s of the runs of base vary by {share}, so the machine was shared")


def test_a_diverged_seed_is_unstable_at_every_budget(tmp_path):
    top = write(tmp_path)
    lost = learning(5.0, steps=100)
    write_run(tmp_path / "lost", float("nan"), seed=9, state="diverged", variant="other", size={"dim": 1}, **lost)
    found = equal_budgets(top)
    assert {r.effects["other"].verdict for r in found.values()} == {"unstable"}
    assert found["steps"].budget == STEPS  # not where that one ended


def test_a_metric_whose_curve_does_not_end_in_its_final_number_has_no_equal_budgets(tmp_path):
    write_arm(tmp_path, "base", [2.0, 2.1], curve=[{"val/loss": 3.0}, {"val/loss": 2.9}])
    write_arm(tmp_path, "other", [2.0, 2.1], curve=[{"val/loss": 3.0}, {"val/loss": 2.9}], **RMS)
    assert not build_comparison([tmp_path]).equal_budgets
    top = write(tmp_path / "more")
    assert not build_comparison([top], metric="speed/tokens_per_s").equal_budgets


def test_an_axis_that_not_all_runs_recorded_is_left_out(tmp_path):
    curve = [{"val/loss": 3.0, "step": 1}, {"val/loss": 2.0, "step": 2}]
    write_arm(tmp_path, "base", [2.0], curve=curve)
    write_arm(tmp_path, "other", [2.0], curve=curve, **RMS)
    found = equal_budgets(tmp_path)
    assert found["steps"].budget == 2 and found["tokens"].budget == 100 and found["tokens"].effects
    assert found["seconds"].note == "left out: not all runs recorded it" and not found["seconds"].effects


def test_equal_budgets_use_the_same_verdict_function(tmp_path):
    comparison = build_comparison([write(tmp_path, flops=(FLOPS, 1.3 * FLOPS))])
    equal = comparison.equal_budgets[2]
    scores = {r.name: r.scores for r in comparison.results}
    at = np.array([equal.budget / PER_STEP / (FLOPS * share) for share in (1, 1.3)])
    for arm, steps in zip(scores, at, strict=True):
        for seed, own in comparison.curves[arm].groupby("seed"):
            scores[arm][seed] = np.interp(steps, own["step"], own["val/loss"])
    lost = {arm: [] for arm in scores}
    expected = compare_scores(scores, {"other": "base"}, lost, metric="val/loss", margin=comparison.margin)["other"]
    found = equal.effects["other"]
    assert found.verdict == expected.verdict and found.p == pytest.approx(expected.p)
