"""The effect that a planned sweep can show."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from gptlab.compare import build_comparison
from gptlab.compare.analysis.sequential import Looks
from gptlab.compare.collect import collect_runs
from gptlab.sweeps.plan import Forecast, plan_document
from gptlab.sweeps.resolving_power import ASSUMED_SD, ASSUMED_SLOPE
from gptlab.sweeps.run_sweep import sweep
from paths import ROOT
from tiny import TINY_RUN

DRAWS = 20_000


@pytest.fixture
def given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("to be, or not to be: that is the question. " * 40)
    return ["name=s", "data=text", "data.path=text.txt", *TINY_RUN, "budget.steps=3", "hydra.launcher.n_jobs=1"]


def effect_of(*words, noise=None, **options):
    return plan_document(words, Forecast(timing=False, noise=noise), **options)["effect"]


def draws(effect, n, sd):
    return np.random.default_rng(1).normal(effect, sd, (DRAWS, n))


def test_the_effect_is_detected_in_80_percent_of_simulated_experiments(given):
    effect = effect_of(*given, "norm=layernorm,rmsnorm,dyt,none", "seed=0,1,2,3,4", noise=0.02)
    [shown] = effect["shown"]
    assert (effect["comparisons"], shown["seeds"], effect["sd_source"]) == (3, 5, "given")
    p = ttest_1samp(draws(shown["effect"], 5, 0.02), 0, axis=1).pvalue
    assert (p < 0.05 / 3).mean() == pytest.approx(0.8, abs=0.01)


def test_the_seeds_for_the_margin_are_the_fewest_that_detect_it(given):
    target = effect_of(*given, "norm=layernorm,rmsnorm", "seed=0,1,2")["target"]
    assert target["text"] == "5%" and target["effect"] == pytest.approx(ASSUMED_SLOPE * np.log(1.05))

    def shown_by(n):
        return (ttest_1samp(draws(target["effect"], n, ASSUMED_SD), 0, axis=1).pvalue < 0.05).mean()

    assert shown_by(target["seeds"] - 1) < 0.8 <= shown_by(target["seeds"])


def test_a_sequential_plan_has_the_effects_of_its_first_and_last_look(given):
    effect = effect_of(*given, "norm=layernorm,rmsnorm", seeds="3..8")
    first, last = effect["shown"]
    assert (first["seeds"], last["seeds"]) == (3, 8) and first["effect"] > last["effect"]
    looks = Looks(3, tuple(range(8)))
    p = ttest_1samp(draws(first["effect"], 3, ASSUMED_SD), 0, axis=1).pvalue
    assert np.mean([looks.p(one, 3) < 0.05 for one in p]) == pytest.approx(0.8, abs=0.01)


def test_an_effect_is_worth_the_compute_that_the_slope_says(given):
    effect = effect_of(*given, "norm=layernorm,rmsnorm", "seed=0,1,2", noise=0.01)
    [shown] = effect["shown"]
    assert ASSUMED_SLOPE * np.log(1 + shown["compute"]) == pytest.approx(shown["effect"])


def test_the_noise_is_that_of_the_pairs_in_the_folder(given):
    cells = [*given, "norm=layernorm,rmsnorm,dyt", "seed=0,1,2"]
    sweep(cells)
    effect = effect_of(*cells)
    found = [result.effect.sd for result in build_comparison(["runs/s"]).results[1:]]
    assert effect["sd"] == pytest.approx(np.median(found)) and effect["sd_source"] == "runs"
    assert (effect["n_arms"], effect["n_pairs"]) == (2, 3)
    assert effect_of(*cells, noise=0.5)["sd"] == 0.5


def test_a_margin_in_compute_hides_no_noise_while_the_slope_is_not_known(given):
    Path("e.yaml").write_text("variants: {layernorm: [], rmsnorm: [norm=rmsnorm]}\nseeds: [0, 1, 2]\nmargin: 10%\n")
    cells = ["e.yaml", *given]
    sweep(cells, multiplier=True)
    for config in [path for path in Path("runs").glob("*/*/config.yaml") if "phase: budget" in path.read_text()]:
        shutil.rmtree(config.parent)  # as if these runs were still to come
    effect = effect_of(*cells, multiplier=True)
    assert effect["sd_source"] == "runs" and effect["slope_source"] == "assumed"
    assert effect["target"]["text"] == "10%" and effect["target"]["effect"] == pytest.approx(0.22 * np.log(1.1))


def test_the_slope_is_that_of_the_baseline_at_its_budgets(given):
    cells = [*given, "norm=layernorm,rmsnorm", "seed=0,1,2", "budget.steps=4"]
    sweep(cells, multiplier=True)
    for path in Path("runs/s").glob("*/summary.json"):
        summary = json.loads(path.read_text())
        loss = 3 - 0.3 * np.log(summary["step"]) + 0.001 * int("seed-1" in path.parent.name)
        path.write_text(json.dumps(summary | {"val/loss": loss, "val/block_nats": None}))
    effect = effect_of(*cells, multiplier=True)
    assert effect["slope_source"] == "runs" and effect["slope"] == pytest.approx(0.3)


def test_fewer_than_three_seeds_show_nothing_and_a_single_arm_neither(given):
    two = effect_of(*given, "norm=layernorm,rmsnorm", "seed=0,1")
    assert two["shown"] == [] and two["target"]["seeds"] > 2
    one = effect_of(*given, "seed=0,1,2")
    assert (one["comparisons"], one["shown"], one["target"]) == (0, [], None)


def test_no_noise_is_assumed_of_a_task(given):
    task = ["data=recall" if word == "data=text" else word for word in given if not word.startswith("data.path")]
    effect = effect_of(*task, "norm=layernorm,rmsnorm", "seed=0,1,2")
    assert (effect["sd"], effect["slope"], effect["shown"]) == (None, None, [])


def test_the_end_of_a_ladder_against_its_start_is_one_comparison_more(given):
    start, end = "norm=layernorm ffn=gelu", "norm=rmsnorm ffn=swiglu"  # three arms
    assert effect_of(start, end, *given, "seed=0,1,2", ladder=True)["comparisons"] == 3


def test_what_is_assumed_is_what_the_experiments_measured():
    arms = collect_runs([ROOT / "experiments/same_arm/kept.json"]).arms
    losses = [{run.seed: run.number("val/loss") for run in arm.runs} for arm in arms]
    good = [loss for loss in losses if np.std(list(loss.values())) < 0.05]  # some seeds are stuck at the highest rate
    sds = [
        np.std([one[seed] - other[seed] for seed in one], ddof=1) for i, one in enumerate(good) for other in good[:i]
    ]
    assert len(sds) == 3 and np.mean(sds) == pytest.approx(ASSUMED_SD, abs=0.0005)
    [_, longer] = build_comparison([ROOT / "experiments/longer_run/kept.json"]).results
    assert longer.multiplier.tokens.slope.mean == pytest.approx(ASSUMED_SLOPE, abs=0.005)
