"""`gptlab plan`: the arms, the cells and the cost of a sweep, before anything is run."""

import json

import pytest

from gptlab.config import ConfigError
from gptlab.sweeps.plan import Forecast, plan_document
from gptlab.sweeps.run_sweep import sweep
from tiny import TINY_RUN


@pytest.fixture
def given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("to be, or not to be: that is the question. " * 40)
    return ["norm=layernorm,rmsnorm", "seed=0,1", "name=s", "data=text", "data.path=text.txt", *TINY_RUN]


def test_a_plan_has_arms_cells_and_cost_and_writes_nothing(given, tmp_path):
    before = sorted(tmp_path.iterdir())
    document = json.loads(json.dumps(plan_document([*given, "budget.steps=3"])))
    assert (document["name"], document["folder"], document["baseline"]) == ("s", "runs/s", "norm=layernorm")
    first, second = document["arms"]
    assert first["varying"] == {"norm": "layernorm"} and second["overrides"]["norm"] == "rmsnorm"
    assert (first["steps"], first["tokens"], first["seconds"]) == (3, 3 * 2 * 16, None)
    assert first["parameters"] > second["parameters"] > second["parameters_non_embedding"] > 0
    assert document["seeds"] == [0, 1] and document["n_cells"] == document["n_left"] == 4
    assert [(cell["arm"], cell["seed"]) for cell in document["cells"]] == [
        *(("norm=layernorm", 0), ("norm=rmsnorm", 0), ("norm=layernorm", 1), ("norm=rmsnorm", 1))
    ]
    assert {cell["state"] for cell in document["cells"]} == {"waiting"}
    assert document["tokens"] == 4 * 96 and document["flops"] == sum(cell["flops"] for cell in document["cells"])
    assert document["tuning"] is None and document["at_rate"] is None and sorted(tmp_path.iterdir()) == before


def test_arms_keep_their_own_widths_without_a_match(given):
    document = plan_document([*given, "budget.steps=3", "match=none", "ffn=gelu,swiglu"])
    assert len({arm["parameters"] for arm in document["arms"] if arm["varying"]["norm"] == "layernorm"}) == 2


def test_a_plan_has_the_cells_of_the_tuning_first_and_a_budget_in_seconds_is_the_estimate(given):
    document = plan_document([*given, "budget.seconds=2"], tune=["optimizer.lr=1e-3,3e-3"])
    assert document["tuning"] == {"grid": {"optimizer.lr": ["1e-3", "3e-3"]}, "seeds": [1000, 1001], "n_cells": 8}
    assert [cell["phase"] for cell in document["cells"]] == ["tune"] * 8 + [None, "neighbour"] * 4
    assert document["cells"][0]["tuned"] == {"optimizer.lr": "1e-3"} and document["cells"][0]["folder"]
    assert document["cells"][-1]["tuned"] == {} and document["cells"][-1]["folder"] is None
    assert document["tokens"] is None and document["estimate"]["seconds"] == 16 * 2


def test_a_plan_of_tuned_arms_knows_the_cells_of_values_that_the_tuning_has_chosen(given):
    given += ["budget.steps=3", "hydra.launcher.n_jobs=1"]
    tune = {"tune": ["optimizer.lr=1e-3,3e-3"]}
    sweep(given, **tune)
    document = plan_document(given, **tune)
    assert document["n_left"] == 0 and document["estimate"]["seconds"] == 0
    assert all(cell["folder"] and cell["state"] == "finished" for cell in document["cells"])
    document = plan_document([*given, "seed=0,1,2"], **tune)
    waiting = [(cell["seed"], cell["phase"]) for cell in document["cells"] if cell["state"] == "waiting"]
    assert waiting == [(2, None), (2, "neighbour")] * 2
    assert [(arm["n_done"], arm["n_cells"]) for arm in document["arms"]] == [(8, 10)] * 2


@pytest.mark.parametrize(("choice", "flag"), [("noise", "--noise"), ("flops_per_s", "--flops-per-s")])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_a_number_that_cannot_be_is_refused(choice, flag, value):
    with pytest.raises(ConfigError, match=f"^{flag}={value:g}: must be a number above 0"):
        Forecast(**{choice: value})


@pytest.mark.parametrize("setting", ["hydra.launcher.n_jobs=0", "sweep.per_gpu=none"])
def test_a_plan_refuses_what_the_sweep_refuses(given, setting):
    with pytest.raises(ConfigError, match=setting):
        plan_document([*given, "budget.steps=3", setting])
