"""Tuning: each arm is compared at its own best value, chosen on seeds that the comparison does not use."""

import json
from dataclasses import dataclass
from math import inf

import pytest

from gptlab.compare import build_comparison
from gptlab.config import ConfigError
from gptlab.sweeps.arms import CellSpec
from gptlab.sweeps.grid import plan_sweep
from gptlab.sweeps.run_sweep import sweep
from gptlab.sweeps.tuning import best_values, recentred
from tiny import TINY_RUN

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


def test_the_variants_of_a_tuned_grid_have_names_of_their_own(file):
    plan = plan_sweep([file, "bias=true,false"])
    assert [arm.name for arm in plan.arms] == ["a bias=true", "a bias=false", "b bias=true", "b bias=false"]
    assert len(plan.grids) == 4 and len({cell.label for cell in plan.tuning_cells}) == 4 * 3 * 2


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


def judged(plan, chosen, losses):
    """Every cell of the comparison at and beside the values chosen, with its loss by (arm, learning rate, seed)."""
    specs = plan.cells_with(chosen)
    found = [losses[spec.arm.name, spec.tuned["optimizer.lr"], spec.seed] for spec in specs]
    return [Ended(spec, loss, "finished") for spec, loss in zip(specs, found, strict=True)]


def test_every_seed_runs_the_chosen_value_and_those_beside_it(file):
    plan = plan_sweep([file])
    cells = plan.cells_with({"a": {"optimizer.lr": "1e-3"}, "b": {"optimizer.lr": "1e-2"}})
    rates = [(cell.arm.name, cell.seed, cell.tuned["optimizer.lr"], cell.phase) for cell in cells]
    assert rates[:6] == [
        ("a", "0", "1e-3", None),
        ("a", "0", "1e-4", "neighbour"),
        ("a", "0", "1e-2", "neighbour"),
        ("b", "0", "1e-2", None),
        ("b", "0", "1e-4", "neighbour"),
        ("b", "0", "1e-3", "neighbour"),
    ]
    assert len(cells) == 12 and len({cell.label for cell in cells}) == 12


def test_a_neighbour_that_is_better_in_the_mean_over_the_seeds_becomes_the_centre(file):
    plan = plan_sweep([file])
    chosen = {"a": {"optimizer.lr": "1e-3"}}
    losses = {("a", rate, seed): loss for rate, loss in (("1e-4", 3.0), ("1e-3", 2.0)) for seed in "01"}
    noisy = losses | {("a", "1e-2", "0"): 1.9, ("a", "1e-2", "1"): 2.2}  # better for one seed, worse in the mean
    assert recentred(chosen, judged(plan, chosen, noisy)) == chosen
    better = losses | {("a", "1e-2", "0"): 1.9, ("a", "1e-2", "1"): 2.05}
    assert recentred(chosen, judged(plan, chosen, better)) == {"a": {"optimizer.lr": "1e-2"}}
    cells = judged(plan, chosen, better)
    cells[-1].state = "failed"  # so that seed 1 does not count
    assert recentred(chosen, cells) == {"a": {"optimizer.lr": "1e-2"}}
    cells[0].state = "running"
    assert recentred(chosen, cells) == chosen


def test_auto_starts_from_the_value_that_each_arm_has(tmp_path):
    plan = plan_sweep(["optimizer=adamw,lion", "seed=0,1"], tune=["optimizer.lr=auto"])
    own = {arm: grid.values["optimizer.lr"] for arm, grid in plan.grids.items()}
    assert own == {"optimizer=adamw": ("0.00125", "0.0025", "0.005"), "optimizer=lion": ("5e-05", "0.0001", "0.0002")}
    (tmp_path / "q.yaml").write_text(
        "# Q?\nbase: [optimizer.lr=1e-2]\nvariants: {a: [], b: [bias=false]}\ntune: {optimizer.lr: auto}\n"
    )
    assert plan_sweep([str(tmp_path / "q.yaml")]).grids["a"].values == {"optimizer.lr": ("0.005", "0.01", "0.02")}


@pytest.mark.parametrize(
    ("tuned", "line"),
    [
        ("ffn=auto", "tune ffn=auto: starts from a number above 0, and norm=layernorm has gelu; give"),
        ("optimizer.momentum=auto", "tune optimizer.momentum=auto: norm=layernorm has no such setting; tune one"),
        ("train.dropout=auto", "tune train.dropout=auto: starts from a number above 0, and norm=layernorm has 0.0"),
    ],
)
def test_auto_needs_a_number_above_zero(tuned, line):
    with pytest.raises(ConfigError, match=f"^{line}"):
        plan_sweep(["norm=layernorm,rmsnorm"], tune=[tuned])


GRID = ["norm=layernorm,rmsnorm", "seed=0,1", "name=s", "hydra.launcher.n_jobs=1", "data=text", "data.path=t.txt"]
GRID += [*TINY_RUN, "budget.steps=8"]


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("to be, or not to be: that is the question. " * 40)
    return tmp_path


def test_a_sweep_tunes_first_and_then_compares_around_the_best_values(text, capsys):
    tune = ["optimizer.lr=1e-5,1e-2"]
    assert sweep(GRID, tune=tune) == {"finished": 2 * 2 * 2 + 2 * 2 * 2}
    assert "norm=layernorm: optimizer.lr=1e-2\n" in capsys.readouterr().out
    content = json.loads((text / "runs/s/sweep.yaml").read_text())
    assert content["tune"] == {"grid": {"optimizer.lr": ["1e-5", "1e-2"]}, "seeds": ["1000", "1001"]}
    assert content["judged_at"]["norm=rmsnorm"] == {"optimizer.lr": ["1e-5", "1e-2"]}
    phases = [cell["phase"] for cell in content["cells"]]
    assert phases.count("tune") == 8 and phases.count(None) == 4 and phases.count("neighbour") == 4
    assert all((text / "runs/s" / cell["folder"] / "summary.json").exists() for cell in content["cells"])
    assert sweep(GRID, tune=tune) == {"finished": 16}  # nothing is run or chosen again


def test_an_automatic_grid_is_extended_until_its_best_value_is_inside(text):
    started_low = [*GRID, "optimizer.lr=1e-3", "seed=0,1"]
    sweep(started_low, tune=["optimizer.lr=auto"])
    content = json.loads((text / "runs/s/sweep.yaml").read_text())
    tried = sorted(map(float, content["tune"]["grid"]["optimizer.lr"]))
    assert tried[0] == 5e-4 and len(tried) > 3
    for arm in ("norm=layernorm", "norm=rmsnorm"):
        chosen = float(content["chosen"][arm][0].partition("=")[2])
        low, middle, high = map(float, content["judged_at"][arm]["optimizer.lr"])
        assert low < middle == chosen < high <= tried[-1]
    comparison = build_comparison([text / "runs/s"])
    table = comparison.runs
    assert (table["phase"] == "").sum() == 4 and (table["phase"] == "neighbour").sum() >= 8
    for result in comparison.results:  # each seed counts at the best of its values
        runs = table[(table["arm"] == result.name) & (table["phase"] != "tune")]
        assert dict(runs.groupby("seed")["val/loss"].min()) == dict(result.scores)
    assert not any(comparison.tuning[0].points["chosen"] & comparison.tuning[0].points["at_edge"])
