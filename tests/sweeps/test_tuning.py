"""Tuning: each arm is compared at its own best value, chosen on seeds that the comparison does not use."""

import json
from dataclasses import dataclass
from math import inf

import pytest

from gptlab.config import ConfigError
from gptlab.sweeps.arms import CellSpec
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
class Ended:
    """The part of a Cell that best_values reads."""

    spec: CellSpec
    loss: float
    state: str


def ended(plan, losses, states=None):
    """Every cell of the tuning, with its loss and state given by (arm, learning rate)."""
    cells = []
    for spec in plan.tuning_cells:
        key = spec.arm.name, float(spec.tuned["optimizer.lr"])
        state = (states or {}).get(key, "diverged" if losses[key] == inf else "finished")
        cells.append(Ended(spec, losses[key], state))
    return cells


def test_every_arm_is_tuned_on_its_own_seeds(file):
    plan = plan_sweep([file])
    tuning = plan.tuning_cells
    assert len(tuning) == 2 * 3 * 2 and all("phase=tune" in cell.overrides for cell in tuning)
    assert {cell.seed for cell in tuning} == {"7", "8"}
    assert {cell.seed for cell in plan.cells} == {"0", "1"}
    assert tuning[0].label == "a optimizer.lr=1e-4 seed=7"


def test_each_arm_gets_its_own_best_value(file):
    plan = plan_sweep([file])
    losses = {
        ("a", 1e-4): 3.0,
        ("a", 1e-3): 2.0,
        ("a", 1e-2): 2.5,
        ("b", 1e-4): 3.0,
        ("b", 1e-3): 2.6,
        ("b", 1e-2): 2.5,
    }
    assert best_values(ended(plan, losses)) == {"a": {"optimizer.lr": "1e-3"}, "b": {"optimizer.lr": "1e-2"}}


def test_a_diverged_value_is_the_worst_and_an_unknown_one_leaves_the_arm_out(file):
    plan = plan_sweep([file])
    losses = {
        ("a", 1e-4): 9.0,
        ("a", 1e-3): inf,
        ("a", 1e-2): inf,
        ("b", 1e-4): 3.0,
        ("b", 1e-3): 2.6,
        ("b", 1e-2): 2.5,
    }
    states = {("b", 1e-2): "failed"}
    assert best_values(ended(plan, losses, states)) == {"a": {"optimizer.lr": "1e-4"}}


def test_a_seed_of_the_comparison_is_refused_for_tuning(file):
    with pytest.raises(ConfigError, match="^tune_seeds: 7 is also a seed of the comparison"):
        plan_sweep([file, "seed=0,7"])


def test_the_default_seed_of_a_comparison_is_refused_for_tuning_too(tmp_path):
    (tmp_path / "q.yaml").write_text("# Q?\nvariants: {a: []}\ntune: {optimizer.lr: [1e-4, 1e-3]}\ntune_seeds: [0]\n")
    with pytest.raises(ConfigError, match="^tune_seeds: 0 is also a seed of the comparison"):
        plan_sweep([str(tmp_path / "q.yaml")])


def test_a_setting_given_on_the_command_line_is_not_tuned(file):
    plan = plan_sweep([file, "optimizer.lr=5e-4"])
    assert not plan.tune and not plan.tuning_cells and len(plan.cells) == 4


@pytest.mark.parametrize(
    ("words", "tune", "refused"),
    [
        (["optimizer.lr=1e-3,3e-3"], ["optimizer.lr=1e-4,1e-2"], "optimizer.lr=1e-3: is tuned too"),
        (
            ["optimizer.lr=1e-3", "norm=layernorm,rmsnorm"],
            ["optimizer.lr=1e-4,1e-2"],
            "optimizer.lr=1e-3: is tuned too",
        ),
        (["norm=layernorm,rmsnorm"], ["norm=dyt,rmsnorm"], "norm=layernorm: is tuned too"),
        (["norm=layernorm,rmsnorm"], ["seed=5,6"], "tune seed: is no choice to make for an arm"),
        (["norm=layernorm,rmsnorm"], ["wandb.mode=offline,disabled"], "tune wandb.mode: is no choice"),
        (
            ["norm=layernorm,rmsnorm"],
            ["optimizer.lr=1,2", "optimizer.lr=3,4"],
            "--tune optimizer.lr=1,2: the setting has",
        ),
    ],
)
def test_what_an_arm_sets_is_not_tuned(words, tune, refused):
    with pytest.raises(ConfigError, match=f"^{refused}"):
        plan_sweep(words, tune=tune)


@pytest.mark.parametrize("place", ["base: [optimizer.lr=1e-2]", "variants: {a: [], b: [optimizer.lr=1e-2]}"])
def test_a_file_that_tunes_what_it_sets_is_refused(place, tmp_path):
    (tmp_path / "q.yaml").write_text(f"{place}\ntune: {{optimizer.lr: [1e-4, 1e-3]}}\n")
    with pytest.raises(ConfigError, match="^optimizer.lr=1e-2: is tuned too"):
        plan_sweep([str(tmp_path / "q.yaml")])


def test_the_arms_of_a_tuned_grid_are_named_by_their_overrides():
    plan = plan_sweep(["norm=layernorm,rmsnorm", "seed=0,1"], tune=["optimizer.lr=1e-3,3e-3"])
    assert [arm.name for arm in plan.arms] == ["norm=layernorm", "norm=rmsnorm"]
    assert len(plan.tuning_cells) == 2 * 2 * 2
    for bad in ("optimizer.lr", "optimizer.lr=1e-3"):
        with pytest.raises(ConfigError, match="^--tune "):
            plan_sweep(["norm=layernorm,rmsnorm"], tune=[bad])


def test_a_sweep_tunes_first_and_then_compares_at_the_best_values(tmp_path, monkeypatch, capsys):
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
    assert content["tune"]["grid"] == {"optimizer.lr": ["1e-5", "1e-2"]} or content["tune"]["seeds"] == [
        "1000",
        "1001",
    ]
    phases = [cell["phase"] for cell in content["cells"]]
    assert phases.count("tune") == 8 and phases.count(None) == 4
    assert all((tmp_path / "runs/s" / cell["folder"] / "summary.json").exists() for cell in content["cells"])
    assert sweep(words, tune=tune) == {"finished": 12}  # nothing is run or chosen again
