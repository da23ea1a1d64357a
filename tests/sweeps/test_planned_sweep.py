"""The plan that a sweep notes when it starts, and what compare makes of it."""

import json

import pytest

from gptlab.compare import build_comparison
from gptlab.config import ConfigError
from gptlab.sweeps.experiment import read_experiment
from gptlab.sweeps.run_sweep import sweep
from tiny import TINY_RUN

ARMS = ["norm=layernorm,rmsnorm", "name=p", "budget.steps=2", "eval.every=1", "hydra.launcher.n_jobs=1"]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "text.txt").write_text("to be, or not to be: that is the question. " * 40)
    fixed = [*TINY_RUN, "data=text", f"data.path={tmp_path / 'text.txt'}", f"runs_dir={tmp_path}"]

    def start(*arguments):
        sweep([*ARMS, *fixed, *arguments])
        return json.loads((tmp_path / "p" / "sweep.yaml").read_text())["planned"]

    return start


def test_a_sweep_keeps_its_plan_when_it_is_started_again_with_more_seeds(run, tmp_path):
    plan = {"seeds": [0, 1, 2], "arms": 2, "metric": "val/loss", "margin": None, "baseline": "norm=layernorm"}
    plan |= {"first_look": None, "left_out": 0}
    assert run("seed=0,1,2") == plan
    assert not build_comparison([tmp_path / "p"]).standing
    assert run("seed=0,1,2,3") == plan
    comparison = build_comparison([tmp_path / "p"])
    assert comparison.reasons == ["seed 3 came on top of the 3 that were planned"]
    assert comparison.results[1].effect.verdict.endswith(" (exploratory)")


def test_a_plan_of_two_seeds_is_no_look(run):
    assert run("seed=0,1")["seeds"] == [0, 1]
    assert run("seed=0,1,2")["seeds"] == [0, 1, 2]


def test_the_experiment_file_plans_metric_and_margin(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("# Which?\nvariants: {a: [], b: [norm=rmsnorm]}\nseeds: [0]\nmetric: val/bpb\nmargin: 5%\n")
    experiment = read_experiment(file)
    assert (experiment.metric, experiment.margin) == ("val/bpb", "5%")
    file.write_text("variants: {a: []}\nmargin: 0.02\n")
    assert read_experiment(file).margin == "0.02"
    for wrong in ("0", "-1", "a", "[1]", "5 percent", ".inf"):
        file.write_text(f"variants: {{a: []}}\nmargin: {wrong}\n")
        with pytest.raises(ConfigError, match="margin=.*: must be a number above 0 in the metric's unit, or a share"):
            read_experiment(file)
    file.write_text("variants: {a: []}\nmetric: [a]\n")
    with pytest.raises(ConfigError, match="metric=.*: must be a name, such as val/loss"):
        read_experiment(file)
