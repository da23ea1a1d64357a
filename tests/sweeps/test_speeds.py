"""The time that a planned sweep takes: from its runs, or from steps that are timed."""

import json
from pathlib import Path

import pytest
import torch

from gptlab.config import ConfigError
from gptlab.sweeps import speeds
from gptlab.sweeps.plan import Forecast, plan_document
from gptlab.sweeps.run_sweep import sweep
from tiny import TINY_RUN

TOKENS, EVALUATED = 3 * 2 * 16, 64  # of a cell
UNTIMED = Forecast(timing=False)


@pytest.fixture
def given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speeds, "TIMING_SECONDS", 600.0)  # however busy this machine is
    (tmp_path / "text.txt").write_text("to be, or not to be: that is the question. " * 40)
    return ["name=s", "data=text", "data.path=text.txt", *TINY_RUN, "budget.steps=3", "hydra.launcher.n_jobs=1"]


@pytest.fixture
def measured(given):
    """A sweep with seed 0, whose layernorm has run at 1,000 tokens/s and whose rmsnorm at 4,000."""
    sweep([*given, "norm=layernorm,rmsnorm", "seed=0"])
    for path in Path("runs/s").glob("*/summary.json"):
        speed = 4000.0 if "rmsnorm" in path.parent.name else 1000.0
        path.write_text(json.dumps(json.loads(path.read_text()) | {"speed/tokens_per_s": speed}))
    return given


def test_an_arm_takes_the_time_of_its_own_runs_and_the_evaluation_a_quarter_a_token(measured):
    document = plan_document([*measured, "norm=layernorm,rmsnorm", "seed=0,1"])
    estimate = document["estimate"]
    training, evaluation = TOKENS / 1000 + TOKENS / 4000, EVALUATED / 4 / 1000 + EVALUATED / 4 / 4000
    assert estimate["seconds"] == pytest.approx(training + evaluation)
    assert estimate["evaluation_seconds"] == pytest.approx(evaluation)
    assert (estimate["source"], estimate["n_measured"], estimate["n_steps"]) == ("runs", 2, 0)
    assert [arm["n_done"] for arm in document["arms"]] == [1, 1] and document["n_left"] == 2


def test_an_arm_without_runs_takes_the_median_of_the_others_in_flops(measured):
    document = plan_document([*measured, "norm=layernorm,rmsnorm,dyt", "seed=0"])
    flops = [arm["flops_per_token"] for arm in document["arms"]]
    rate = (1000 * flops[0] + 4000 * flops[1]) / 2
    assert document["estimate"]["flops_per_s"] == pytest.approx(rate)
    assert document["estimate"]["seconds"] == pytest.approx((TOKENS + EVALUATED / 4) * flops[2] / rate)


def test_cells_side_by_side_divide_the_time(measured):
    words = [*measured, "norm=layernorm", "seed=0,1,2,3,4"]
    alone, two = (plan_document([*words, f"hydra.launcher.n_jobs={n}"])["estimate"] for n in (1, 2))
    assert alone["workers"] == 1 and alone["wall_seconds"] == pytest.approx(alone["seconds"])
    assert two["workers"] == 2 and two["wall_seconds"] == pytest.approx(alone["seconds"] / 2)


def test_models_are_timed_once_each_and_nothing_stays(given, tmp_path):
    before, threads = sorted(tmp_path.iterdir()), torch.get_num_threads()
    estimate = plan_document([*given, "norm=layernorm,rmsnorm", "optimizer.lr=1e-3,2e-3", "seed=0"])["estimate"]
    assert (estimate["source"], estimate["n_measured"]) == ("timing", 2) and estimate["n_steps"] >= 6
    assert estimate["seconds"] > estimate["evaluation_seconds"] > 0 and estimate["flops_per_s"] > 0
    assert sorted(tmp_path.iterdir()) == before and torch.get_num_threads() == threads


def test_what_makes_a_step_other_work_is_another_model(given):
    words = ["train.batch_size=2,4", "optimizer=adamw,muon", "seed=0"]
    assert plan_document([*given, *words])["estimate"]["n_measured"] == 4


def test_without_time_only_the_baseline_is_timed(given, monkeypatch):
    monkeypatch.setattr(speeds, "TIMING_SECONDS", 0.0)
    estimate = plan_document([*given, "norm=layernorm,rmsnorm,dyt", "seed=0"])["estimate"]
    assert estimate["n_measured"] == 1 and estimate["seconds"] > 0


@pytest.mark.parametrize("words", [["hydra/launcher=submitit_slurm"], []])
def test_nothing_is_timed_for_another_machine_or_if_not_wanted(given, words, monkeypatch):
    monkeypatch.setattr(speeds, "Trainer", lambda run: pytest.fail("a model was built"))
    cells = [*given[:-1], "norm=layernorm,rmsnorm", "seed=0", *words]
    assert plan_document(cells, None if words else UNTIMED)["estimate"] is None


def test_a_model_without_matrix_products_is_timed_too(given):
    words = ["model=bigram", "seed=0,1"]
    document = plan_document([*given, *words])
    assert document["arms"][0]["flops_per_token"] == 0 and document["estimate"]["seconds"] > 0


def test_a_rate_that_is_asked_for_counts_training_and_a_third_of_a_token_for_evaluation(given):
    document = plan_document([*given, "norm=layernorm,rmsnorm", "seed=0,1"], Forecast(timing=False, flops_per_s=1e6))
    flops = 2 * sum(arm["flops_per_token"] for arm in document["arms"])
    assert document["at_rate"]["seconds"] == pytest.approx((TOKENS + EVALUATED / 3) * flops / 1e6)
    assert document["estimate"] is None


def test_an_error_of_a_component_in_a_step_is_refused_with_its_line(given, own_registry):
    Path("breaks.py").write_text(
        "from gptlab import register\nfrom torch import nn\n"
        "@register('norm', 'breaks')\nclass Breaks(nn.Module):\n"
        "    def forward(self, x):\n        assert not x.any()  # zeros, as when it is tried\n        return x\n"
    )
    with pytest.raises(ConfigError, match=r"norm=breaks: AssertionError.*breaks.py:6"):
        plan_document([*given, "norm=breaks", "use=breaks.py", "seed=0"])


def test_a_step_that_does_not_fit_into_the_memory_is_refused_in_one_line(given, monkeypatch):
    def full(run):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(speeds, "Trainer", full)
    with pytest.raises(ConfigError, match=r"^train.micro_batch_size=2: .* than cpu has free; .*--no-timing$"):
        plan_document([*given, "seed=0"])
