"""tune: each arm is compared at its own best value, chosen on seeds that the comparison does not see."""

import json
from dataclasses import dataclass
from math import inf

import pytest

from gptlab.config import ConfigError
from gptlab.sweeps.grid import plan_sweep
from gptlab.sweeps.run_sweep import sweep
from gptlab.sweeps.tuning import best_values

FILE = """# Which?
variants: {a: [], b: [norm=rmsnorm]}
seeds: [0, 1]
tune: {optimizer.lr: [1e-4, 1e-3, 1e-2]}
tune_seeds: [7, 8]
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "q.yaml").write_text(FILE)
    return str(tmp_path / "q.yaml")


@dataclass
class Done:
    """What best_values looks at of a cell."""

    arm: str
    overrides: list
    loss: float
    state: str = "finished"


def done(planned, losses, states=None):
    cells = planned.tuning_cells()
    states = states or {}
    return [
        Done(arm, cell, losses[arm, lr], states.get((arm, lr), "diverged" if losses[arm, lr] == inf else "finished"))
        for cell in cells
        for arm in [next(w for w in cell if w.startswith("variant=")).split("'")[1]]
        for lr in [next(float(w.split("=")[1]) for w in cell if w.startswith("optimizer.lr="))]
    ]


def test_every_arm_is_tuned_on_its_own_seeds(file):
    planned = plan_sweep([file])
    tuning = planned.tuning_cells()
    assert len(tuning) == 2 * 3 * 2 and all("phase=tune" in cell for cell in tuning)
    assert {w for cell in tuning for w in cell if w.startswith("seed=")} == {"seed=7", "seed=8"}
    assert {w for cell in planned.cells for w in cell if w.startswith("seed=")} == {"seed=0", "seed=1"}


def test_each_arm_gets_its_own_best(file):
    planned = plan_sweep([file])
    losses = {
        ("a", 1e-4): 3.0,
        ("a", 1e-3): 2.0,
        ("a", 1e-2): 2.5,
        ("b", 1e-4): 3.0,
        ("b", 1e-3): 2.6,
        ("b", 1e-2): 2.5,
    }
    assert best_values(planned, done(planned, losses)) == {"a": ["optimizer.lr=0.001"], "b": ["optimizer.lr=0.01"]}


def test_a_diverged_value_is_the_worst_and_an_unknown_one_leaves_the_arm_out(file):
    planned = plan_sweep([file])
    losses = {
        ("a", 1e-4): 9.0,
        ("a", 1e-3): inf,
        ("a", 1e-2): inf,
        ("b", 1e-4): 3.0,
        ("b", 1e-3): 2.6,
        ("b", 1e-2): 2.5,
    }
    states = {("b", 1e-2): "failed"}
    assert best_values(planned, done(planned, losses, states)) == {"a": ["optimizer.lr=0.0001"]}


def test_a_seed_of_the_comparison_is_refused_for_tuning(file):
    with pytest.raises(ConfigError, match="^tune_seeds: 7 is a seed of the comparison too"):
        plan_sweep([file, "seed=0,7"])


def test_so_is_the_seed_that_a_comparison_has_where_none_is_said(tmp_path):
    (tmp_path / "q.yaml").write_text("# Q?\nvariants: {a: []}\ntune: {optimizer.lr: [1e-4, 1e-3]}\ntune_seeds: [0]\n")
    with pytest.raises(ConfigError, match="^tune_seeds: 0 is a seed of the comparison too"):
        plan_sweep([str(tmp_path / "q.yaml")])


def test_what_the_command_line_sets_is_not_tuned(file):
    planned = plan_sweep([file, "optimizer.lr=5e-4"])
    assert not planned.tune and not planned.tuning_cells() and len(planned.cells) == 4


def test_from_the_command_line_the_arms_of_a_grid_get_names():
    planned = plan_sweep(["norm=layernorm,rmsnorm", "seed=0,1"], tune=["optimizer.lr=1e-3,3e-3"])
    assert [arm.name for arm in planned.arms] == ["norm=layernorm", "norm=rmsnorm"]
    assert len(planned.tuning_cells()) == 2 * 2 * 2
    for bad in ("optimizer.lr", "optimizer.lr=1e-3"):
        with pytest.raises(ConfigError, match="^--tune "):
            plan_sweep(["norm=layernorm,rmsnorm"], tune=[bad])


def test_a_sweep_tunes_first_and_then_compares_at_the_best(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("to be, or not to be: that is the question. " * 40)
    tiny = [
        "size=tiny",
        "data.window=16",
        "train.batch_size=2",
        "eval.tokens=64",
        "wandb.mode=disabled",
        "budget.steps=8",
    ]
    words = [
        "norm=layernorm,rmsnorm",
        "seed=0,1",
        "name=s",
        "hydra/launcher=basic",
        "data=text",
        "data.path=t.txt",
        *tiny,
    ]
    tune = ["optimizer.lr=1e-5,1e-2"]
    assert sweep(words, tune=tune) == {"finished": 2 * 2 * 2 + 2 * 2}
    assert "norm=layernorm: optimizer.lr=0.01\n" in capsys.readouterr().out.replace("1e-2", "0.01")
    content = json.loads((tmp_path / "runs/s/sweep.yaml").read_text())
    assert content["tune"]["grid"] == {"optimizer.lr": ["1e-05", "0.01"]} or content["tune"]["seeds"] == [
        "1000",
        "1001",
    ]
    phases = [cell["phase"] for cell in content["cells"]]
    assert phases.count("tune") == 8 and phases.count(None) == 4
    assert all((tmp_path / "runs/s" / cell["folder"] / "summary.json").exists() for cell in content["cells"])
    assert sweep(words, tune=tune) == {"finished": 12}  # nothing is run twice, nothing chosen anew
