"""Tuning runs in a comparison: they do not enter the scores, and they show how an arm depends on a setting."""

import json
import math

import pytest

from gptlab.compare import build_comparison
from gptlab.compare.collect import collect_runs
from gptlab.config import ConfigError
from run_folders import learning, one_line, shown, write_run, write_sweep

GRID = ["1e-3", "3e-3", "1e-2"]


def tune(top, label, lr, seed, loss, **changes):
    about = {"variant": label, "size": {"dim": len(label)}, "optimizer": {"lr": lr, **changes.pop("optimizer", {})}}
    write_run(
        top / f"t-{label}-{lr}-{seed}-{len(list(top.glob('*')))}", loss, seed=seed, phase="tune", **about, **changes
    )


def write(top, chosen=(0.003, 0.01)):
    """Write two arms: base is best inside the grid; wide is best at its end and diverges once inside."""
    for label, lr in zip(("base", "wide"), chosen, strict=True):
        for seed in range(2):
            settings = {"variant": label, "size": {"dim": len(label)}, "optimizer": {"lr": lr}}
            write_run(top / f"{label}-{seed}", 2.0 + seed / 10, seed=seed, **settings)
    losses = {"base": {0.001: 2.5, 0.003: 2.0, 0.01: 2.4}, "wide": {0.001: 2.5, 0.003: 2.2, 0.01: 2.1}}
    for label, by_lr in losses.items():
        for lr, loss in by_lr.items():
            tune(top, label, lr, 1000, loss)
            if (label, lr) == ("wide", 0.003):
                tune(top, label, lr, 1001, float("nan"), state="diverged")
            else:
                tune(top, label, lr, 1001, loss + 0.02)
    write_sweep(top, variants={"base": [], "wide": []}, tune={"grid": {"optimizer.lr": GRID}, "seeds": [1000, 1001]})
    return top


def points(top, **options):
    (tuning,) = build_comparison([top], **options).tuning
    return tuning, tuning.points.set_index(["arm", "value"])


def test_tuning_runs_do_not_enter_the_scores(tmp_path):
    comparison = build_comparison([write(tmp_path)])
    assert [list(r.scores) for r in comparison.results] == [[2.0, 2.1]] * 2
    assert [r.states["finished"] for r in comparison.results] == [2, 2]
    assert len(comparison.runs) == 16 and (comparison.runs["phase"] == "tune").sum() == 12
    effect = comparison.results[1].effect
    assert effect.verdict == "no verdict" and effect.note == "optimizer.lr=0.01 is the highest tried"


def test_each_arm_and_value_is_a_point(tmp_path):
    tuning, found = points(write(tmp_path))
    assert tuning.setting == "optimizer.lr" and tuning.seeds == [1000, 1001] and len(found) == 6
    row = found.loc[("base", 0.003)]
    assert (row["mean"], row["low"], row["high"], row["seeds"], row["diverged"]) == (2.01, 2.0, 2.02, 2, 0)
    assert row["chosen"] and not row["at_edge"] and found.loc["base"]["chosen"].sum() == 1


def test_a_value_at_which_a_seed_diverged_is_the_worst(tmp_path):
    row = points(write(tmp_path))[1].loc[("wide", 0.003)]
    assert row["mean"] == math.inf and row["diverged"] == 1 and row["low"] == 2.2 and not row["chosen"]


def test_it_is_the_worst_also_if_a_higher_metric_is_better(tmp_path):
    found = points(write(tmp_path), metric="speed/tokens_per_s")[1]
    assert found.loc[("wide", 0.003)]["mean"] == -math.inf


def test_a_chosen_value_at_the_edge_is_warned_about(tmp_path):
    found = points(write(tmp_path))[1]
    assert found.loc[("wide", 0.01)]["at_edge"] and found["at_edge"].sum() == 1
    text = one_line(shown([tmp_path], markdown=tmp_path / "x.md")[1])
    line = "optimizer.lr, tuned on seeds 1000, 1001: base 0.003; wide 0.01 (the highest tried)."
    assert line in text and "Where the lowest or highest optimizer.lr was chosen, a better value may lie beyond" in text
    assert f"- {line}" in (tmp_path / "x.md").read_text()


def test_the_value_that_the_compared_runs_have_is_the_chosen_one(tmp_path):
    found = points(write(tmp_path, chosen=(0.01, 0.01)))[1]
    assert found.loc[("base", 0.01)]["chosen"] and not found.loc[("base", 0.003)]["chosen"]


def test_with_several_tuned_settings_each_is_shown_at_the_best_of_the_others(tmp_path):
    top = write(tmp_path)
    for lr, decay, loss in ((0.003, 0.5, 1.9), (0.001, 0.5, 2.45)):
        for seed in (1000, 1001):
            tune(top, "base", lr, seed, loss, optimizer={"weight_decay": decay})
    grid = {"optimizer.lr": GRID, "optimizer.weight_decay": ["0.1", "0.5"]}
    write_sweep(top, variants={"base": [], "wide": []}, tune={"grid": grid})
    lr, decay = build_comparison([top]).tuning
    means = lr.points.set_index(["arm", "value"])["mean"]
    assert means["base", 0.003] == pytest.approx(1.9) and means["base", 0.001] == pytest.approx(2.45)
    assert decay.points.set_index(["arm", "value"])["mean"]["base", 0.5] == pytest.approx(1.9)


def test_unlabelled_arms_are_found_by_their_other_settings(tmp_path):
    for dim in (16, 32):
        write_run(tmp_path / f"{dim}", size={"dim": dim}, optimizer={"lr": 0.1}, **learning(2.0))
        for lr in (0.1, 0.2):
            loss = 2 + abs(lr - dim / 160)
            about = {"size": {"dim": dim}, "optimizer": {"lr": lr}}
            write_run(tmp_path / f"t{dim}{lr}", loss, seed=9, phase="tune", **about)
    write_sweep(tmp_path, tune={"grid": {"optimizer.lr": ["0.1", "0.2"]}})
    found = points(tmp_path)[1]
    assert list(found.index) == [(f"size.dim={dim}", lr) for dim in (16, 32) for lr in (0.1, 0.2)]
    assert found["mean"].tolist() == pytest.approx([2.0, 2.1, 2.1, 2.0])


def test_a_run_at_a_value_that_the_tuning_no_longer_chooses_is_left_out(tmp_path):
    chosen = {"a": ["optimizer.lr=1e-3"]}
    for seed, lr in ((0, 1e-3), (1, 1e-3), (0, 3e-3)):
        write_run(tmp_path / f"{lr}-{seed}", 2.0 + lr, seed=seed, variant="a", optimizer={"name": "adamw", "lr": lr})
    assert [len(arm.runs) for arm in collect_runs([tmp_path]).arms] == [2, 1]
    (tmp_path / "sweep.yaml").write_text(json.dumps({"variants": {"a": []}, "chosen": chosen}))
    assert [len(arm.runs) for arm in collect_runs([tmp_path]).arms] == [2]


def write_neighbours(top, **said):
    """Write an arm whose seeds have a run at the chosen value and one beside it."""
    for seed in range(2):
        for lr, phase in ((0.1, None), (0.2, "neighbour")):
            about = {"variant": "a", "optimizer": {"lr": lr}, "phase": phase}
            write_run(top / f"{lr}-{seed}", 2.0 + lr, seed=seed, **about)
    write_sweep(top, variants={"a": []}, **said)
    return top


def test_runs_of_two_tuned_sweeps_are_refused_since_nothing_says_at_which_values_they_are_judged(tmp_path):
    chosen = {"chosen": {"a": ["optimizer.lr=0.1"]}, "judged_at": {"a": {"optimizer.lr": ["0.1", "0.2"]}}}
    one, two = (write_neighbours(tmp_path / name, **chosen) for name in ("one", "two"))
    assert [run.seed for run in collect_runs([one]).neighbours] == [0, 1]
    with pytest.raises(ConfigError, match="are judged at the values in the sweep.yaml of their sweep; name one sweep"):
        collect_runs([one, two])


def test_a_tuned_sweep_that_chooses_anew_is_refused_until_it_has_chosen(tmp_path):
    top = write_neighbours(tmp_path / "one", tune={"grid": {"optimizer.lr": ["0.1", "0.2"]}, "seeds": [9]})
    with pytest.raises(ConfigError, match="not chosen again yet; run `gptlab sweep` to its end"):
        collect_runs([top])
