"""The same runs at equal steps, tokens, FLOPs and seconds: a budget for each pair, and words only where runs end."""

import json

import numpy as np
import pytest

from gptlab.compare import build_comparison
from gptlab.compare.analysis.equal_budget import shifted
from run_folders import FLOPS, PER_STEP, RMS, learning, one_line, shown, write_arm, write_run, write_sweep

STEPS, LOSSES = 400, (2.0, 2.1, 2.2, 2.3)
NAMES = ("base", "other", "third")


def write(top, *, speeds=(1e4, 1e4), flops=(FLOPS, FLOPS), losses=(0.0, -0.05), steps=(STEPS, STEPS), every=50):
    """Write two or three arms with four seeds; their final losses are LOSSES plus `losses`."""
    for arm in range(len(losses)):
        for seed, loss in enumerate(LOSSES):
            about = {"steps": steps[arm], "speed": speeds[arm], "flops": flops[arm], "seed": seed, "every": every}
            final = loss + losses[arm] + 0.001 * seed * arm
            run = {"seed": seed, "variant": NAMES[arm], "size": {"dim": arm}, **learning(final, **about)}
            write_run(top / f"{NAMES[arm]}-{seed}", final, **run)
    write_sweep(top, variants=dict.fromkeys(NAMES[: len(losses)], []))
    return top


def readings(top, arm="other", **options):
    return {equal.axis: equal.readings.get(arm) for equal in build_comparison([top], **options).equal_budgets}


def test_with_equal_costs_every_equal_budget_is_the_end_of_the_runs(tmp_path):
    comparison = build_comparison([write(tmp_path)])
    (effect,) = (r.effect for r in comparison.results if r.effect)
    assert [r.axis for r in comparison.equal_budgets] == ["steps", "tokens", "flops", "seconds"]
    for equal in comparison.equal_budgets:
        reading = equal.readings["other"]
        assert repr(reading.effect) == repr(effect)  # has NaN in it
        assert reading.effect.word == "better" and not reading.why and not equal.note
        assert (reading.mean, reading.reference_mean) == tuple(r.mean for r in comparison.results[::-1])
    tokens = STEPS * PER_STEP
    budgets = [equal.readings["other"].budget for equal in comparison.equal_budgets]
    assert budgets == pytest.approx([STEPS, tokens, tokens * FLOPS, tokens / 1e4])
    text = shown([tmp_path])[1]
    assert "All runs end at equal steps, tokens, FLOPs, seconds: there, the verdicts are those above." in text


def test_a_third_arm_never_changes_what_is_said_of_two_others(tmp_path):
    """Arms of one speed are judged at equal seconds, whatever a third arm that is four times as fast has spent."""
    two = readings(write(tmp_path / "two"))
    three = write(
        tmp_path / "three", speeds=(1e4, 1e4, 4e4), flops=(FLOPS,) * 3, losses=(0, -0.05, 0.1), steps=(400,) * 3
    )
    for axis, reading in readings(three).items():
        assert reading.effect.word == "better" and not reading.why
        assert reading.effect.mean == pytest.approx(two[axis].effect.mean) and reading.budget == two[axis].budget
    fast = readings(three, "third")["seconds"]
    assert fast.effect.word == "no verdict" and fast.effect.mean < 0 < readings(three, "third")["steps"].effect.mean
    assert fast.why == "base read at 25 % of its schedule; train with budget.seconds= to judge"


def test_the_value_at_the_budget_lies_on_the_line_between_two_evaluations(tmp_path):
    found = readings(write(tmp_path, flops=(FLOPS, 1.3 * FLOPS)))["flops"]
    assert found.budget == STEPS * PER_STEP * FLOPS  # all that the cheaper arm spent
    expected = {}
    for seed, loss in enumerate(LOSSES):
        curve = learning(loss - 0.05 + 0.001 * seed, flops=1.3 * FLOPS, seed=seed)["curve"][1::2]
        at = STEPS / 1.3  # steps, between the evaluations at 300 and 350
        before, after = (next(r["val/loss"] for r in curve if r["step"] == step) for step in (300, 350))
        expected[seed] = before + (after - before) * (at - 300) / 50
    assert found.mean == pytest.approx(np.mean(list(expected.values())), rel=1e-12)
    assert found.effect.mean == pytest.approx(np.mean([expected[s] - LOSSES[s] for s in expected]))
    assert found.why == "other read at 77 % of its schedule; train with budget.flops= to judge"


def test_an_arm_that_is_read_inside_its_schedule_gets_a_number_and_no_word(tmp_path):
    top = write(tmp_path, speeds=(1e4, 5e3))
    found = readings(top)
    assert found["steps"].effect.word == "better" and found["seconds"].effect.word == "no verdict"
    assert found["seconds"].budget == pytest.approx(STEPS * PER_STEP / 1e4)
    text = one_line(shown([top], markdown=tmp_path / "x.md")[1])
    why = "other read at 50 % of its schedule; train with budget.seconds= to judge"
    assert "at 30.7, no word" in text and f"No word for other at equal seconds: {why}." in text
    assert "no word |" in (tmp_path / "x.md").read_text()


def test_a_run_that_spent_one_percent_more_ends_there_too(tmp_path):
    assert readings(write(tmp_path / "near", flops=(FLOPS, 1.009 * FLOPS)))["flops"].effect.word == "better"
    assert readings(write(tmp_path / "far", flops=(FLOPS, 1.02 * FLOPS)))["flops"].effect.word == "no verdict"


def test_that_it_matters_what_is_held_equal_is_tested_by_seed(tmp_path):
    """A machine whose speed wobbles from run to run shows nothing."""
    top = write(tmp_path / "a", losses=(0.0,))
    for seed, loss in enumerate(LOSSES):
        run = learning(loss, speed=1e4 * (1 + 0.03 * (-1) ** seed), seed=seed)
        write_run(top / f"other-{seed}", loss, seed=seed, variant="other", size={"dim": 1}, **run)
    assert readings(top)["seconds"].why and not shifted(readings(top)["seconds"])
    assert "What is held equal matters" not in shown([top])[1]
    top = write(tmp_path / "b", speeds=(1e4, 8e3))
    (moved,) = [axis for axis, reading in readings(top).items() if shifted(reading)]
    shift = readings(top)["seconds"].shift
    assert moved == "seconds" and shift.p_holm < 0.05 and shift.mean > 0
    at_end = readings(top)["steps"].effect.mean
    assert readings(top)["seconds"].effect.mean - at_end == pytest.approx(shift.mean)
    assert "What is held equal matters for other: at equal seconds its difference lies +" in shown([top])[1]


def test_a_budget_before_the_first_evaluation_is_left_out(tmp_path):
    top = write(tmp_path, speeds=(1e4, 5e3), every=400)
    assert readings(top)["seconds"] is None
    text = shown([top], markdown=tmp_path / "x.md")[1]
    rule = "some runs had no evaluation by then; set a smaller eval.every"
    assert f"Equal seconds: other left out: {rule}." in text
    assert "left out |" in (tmp_path / "x.md").read_text()


def test_a_longer_run_is_read_at_the_shorter_ones_budget(tmp_path):
    top = write(tmp_path, steps=(STEPS, 2 * STEPS))
    found = readings(top)["steps"]
    assert found.budget == STEPS and found.why.startswith("other read at 50 % of its schedule")
    curves = build_comparison([top]).curves["other"]
    assert found.mean == pytest.approx(curves.loc[curves["step"] == STEPS, "val/loss"].mean())


def test_there_is_no_word_for_seconds_from_a_shared_machine(tmp_path):
    top = write(tmp_path / "runs", losses=(0.0, -0.05, 0.1), speeds=(1e4,) * 3, flops=(FLOPS,) * 3, steps=(400,) * 3)
    for seed in (4, 5):
        run = learning(2.4, speed=(5e3, 2e4)[seed - 4], seed=seed)
        write_run(top / f"third-{seed}", 2.4, seed=seed, variant="third", size={"dim": 2}, **run)
    speeds = [1e4] * 4 + [5e3, 2e4]
    share = f"{np.std(speeds, ddof=1) / np.mean(speeds):.0%}"
    third = readings(top, "third")
    assert third["seconds"].why == (
        f"tokens/s of the runs of third vary by {share}, so the machine was shared; run one at a time"
    )
    assert not third["seconds"].reliable and third["seconds"].effect.word == "no verdict"
    assert third["steps"].reliable and third["steps"].effect.word == "worse"
    assert readings(top)["seconds"].effect.word == "better"  # its own two arms had the machine for themselves


def test_runs_of_equal_seconds_on_a_shared_machine_get_no_word_at_all(tmp_path):
    """There the verdict of the table is the one at equal seconds."""
    for name, loss in (("base", 2.0), ("other", 1.5)):
        for seed, speed in enumerate((1e4, 1e4, 2e4)):
            about = {"budget": {"seconds": 5.0}, "variant": name, "size": {"dim": len(name)}}
            write_run(
                tmp_path / f"{name}-{seed}",
                loss + seed / 100,
                seed=seed,
                **about,
                summary={"speed/tokens_per_s": speed},
            )
    write_sweep(tmp_path, variants={"base": [], "other": []})
    effect = build_comparison([tmp_path]).results[1].effect
    assert effect.word == "no verdict" and "tokens/s of the runs of other vary by" in effect.note


def test_a_diverged_seed_is_unstable_at_every_budget(tmp_path):
    top = write(tmp_path)
    lost = learning(5.0, steps=100)
    write_run(tmp_path / "lost", float("nan"), seed=9, state="diverged", variant="other", size={"dim": 1}, **lost)
    found = readings(top)
    assert {reading.effect.word for reading in found.values()} == {"unstable"}
    assert found["steps"].budget == STEPS  # not where that one ended


def test_a_metric_whose_curve_does_not_end_in_its_final_number_has_no_equal_budgets(tmp_path):
    write_arm(tmp_path, "base", [2.0, 2.1], curve=[{"val/loss": 3.0}, {"val/loss": 2.9}])
    write_arm(tmp_path, "other", [2.0, 2.1], curve=[{"val/loss": 3.0}, {"val/loss": 2.9}], **RMS)
    assert not build_comparison([tmp_path]).equal_budgets
    top = write(tmp_path / "more")
    assert not build_comparison([top], metric="speed/tokens_per_s").equal_budgets


def test_a_final_number_from_more_of_the_text_is_that_of_runs_that_end_at_the_budget(tmp_path):
    """The curve is measured on a part of the text; a shift over all of it changes no reading inside a schedule."""
    plain = readings(write(tmp_path / "plain", flops=(FLOPS, 2 * FLOPS)))
    longer = write(tmp_path / "longer", flops=(FLOPS, 2 * FLOPS))
    for path in longer.glob("other-*/summary.json"):
        summary = json.loads(path.read_text())
        share = 1 + 0.5 / summary["val/loss"]
        path.write_text(json.dumps(summary | {key: summary[key] * share for key in ("val/loss", "val/bpb")}))
    found = readings(longer)
    assert found["steps"].effect.mean == pytest.approx(plain["steps"].effect.mean + 0.5)
    assert found["flops"].why and found["flops"].effect.mean == pytest.approx(plain["flops"].effect.mean)
    assert found["flops"].shift.mean == pytest.approx(plain["flops"].shift.mean)


def test_an_axis_that_not_all_runs_recorded_is_left_out(tmp_path):
    curve = [{"val/loss": 3.0, "step": 1}, {"val/loss": 2.0, "step": 2}]
    write_arm(tmp_path, "base", [2.0], curve=curve)
    write_arm(tmp_path, "other", [2.0], curve=curve, **RMS)
    found = {equal.axis: equal for equal in build_comparison([tmp_path]).equal_budgets}
    assert found["steps"].readings["norm=rmsnorm"].budget == 2
    assert found["seconds"].note == "norm=rmsnorm left out: not all runs recorded it" and not found["seconds"].readings


def test_runs_that_end_within_the_tolerance_are_judged_with_a_single_evaluation(tmp_path):
    top = write(tmp_path, flops=(FLOPS, FLOPS * 0.995), every=400)
    assert readings(top)["flops"].effect.word == "better"
    text = shown([top])[1]
    assert "All runs end at equal steps, tokens, FLOPs" in text and "Equal FLOPs:" not in text


def test_a_caption_does_not_say_that_all_runs_end_there_if_an_arm_is_left_out(tmp_path):
    top = write(tmp_path, losses=(0.0, -0.05))
    for seed in range(4):
        write_run(top / f"third-{seed}", float("nan"), seed=seed, state="diverged", variant="third", size={"dim": 9})
    text = shown([top])[1]
    assert "All runs end" not in text
    said = "third left out: no common seed has finished. The runs of the other arms end there"
    assert f"Equal steps, tokens, FLOPs, seconds: {said}: the verdicts are those above." in text
