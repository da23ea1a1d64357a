"""The baseline's cells at other budgets, from which compute multipliers are computed."""

import json

import pytest

from gptlab.compare import build_comparison
from gptlab.config import ConfigError
from gptlab.sweeps.experiment import read_experiment
from gptlab.sweeps.grid import plan_sweep
from gptlab.sweeps.run_sweep import sweep
from tiny import TINY_RUN

ARMS = "norm=layernorm,rmsnorm"
BUDGETS = {
    "budget.steps=101": ("budget.steps=50", "budget.steps=202"),
    "budget.tokens=2e6": ("budget.tokens=1000000.0", "budget.tokens=4000000.0"),
    "budget.tokens_per_param=20": ("budget.tokens_per_param=10.0", "budget.tokens_per_param=40.0"),
    "budget.seconds=30": ("budget.seconds=15.0", "budget.seconds=60.0"),
    "size=tiny": ("budget.steps=500", "budget.steps=2000"),  # the default budget
}


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_baseline_runs_half_and_twice_its_budget_on_three_seeds(budget):
    plan = plan_sweep([ARMS, budget, "seed=0,1,2,3"], multiplier=True)
    found = [[text for text in cell.overrides if text.startswith("budget.")] for cell in plan.budget_cells()]
    assert found == [[text] for text in BUDGETS[budget]] * 3
    assert [cell.label for cell in plan.budget_cells()][:2] == [
        "norm=layernorm at half the budget seed=0",
        "norm=layernorm at twice the budget seed=0",
    ]
    assert not plan_sweep([ARMS, budget, "seed=0,1,2,3"]).budget_cells()


def test_a_tuned_baseline_runs_the_values_around_its_best_at_each_budget():
    plan = plan_sweep([ARMS, "optimizer.lr=1e-3", "seed=0,1"], tune=["optimizer.lr=auto"], multiplier=True)
    cells = plan.budget_cells({arm.name: {"optimizer.lr": "0.001"} for arm in plan.arms})
    assert len(cells) == 2 * 2 * 3 and {cell.tuned["optimizer.lr"] for cell in cells} == {"0.0005", "0.001", "0.002"}


def test_the_file_asks_for_it(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("variants: {a: [], b: [norm=rmsnorm]}\nseeds: [0, 1, 2]\nmultiplier: true\n")
    assert len(plan_sweep([str(file)]).budget_cells()) == 6
    file.write_text("variants: {a: []}\nmultiplier: 1.5\n")
    with pytest.raises(ConfigError, match=r"multiplier=1.5: must be true or false$"):
        read_experiment(file)


def test_a_sweep_runs_them_and_compare_keeps_them_apart(tmp_path):
    (tmp_path / "text.txt").write_text("to be, or not to be: that is the question. " * 40)
    fixed = [*TINY_RUN, "data=text", f"data.path={tmp_path / 'text.txt'}", f"runs_dir={tmp_path}", "name=m"]
    match = ["match=params", "match.tolerance=0.5"]
    sweep([*fixed, *match, ARMS, "seed=0,1,2", "budget.steps=4", "eval.every=4"], multiplier=True)
    said = json.loads((tmp_path / "m" / "sweep.yaml").read_text())
    assert {share: len(folders) for share, folders in said["budgets"].items()} == {"0.5": 3, "2": 3}
    assert said["planned"]["arms"] == 2 and [len(folders) for folders in said["arms"]] == [3, 3]
    assert [entry["arm"] for entry in said["matched"]] == ["norm=layernorm", "norm=rmsnorm"]
    comparison = build_comparison([tmp_path / "m"])
    assert len(comparison.results) == 2 and not comparison.standing
    assert comparison.results[1].multiplier is not None
    assert sorted(comparison.runs["phase"]) == [""] * 6 + ["budget"] * 6


def test_a_margin_in_compute_needs_the_baseline_at_several_budgets(tmp_path):
    file = tmp_path / "x.yaml"
    head = "seeds: {first: 3, last: 5}\nmargin: 5%\n"
    file.write_text(head + "variants: {a: [], b: [norm=rmsnorm]}\n")
    with pytest.raises(ConfigError, match=r"^margin=5%: a share of compute .* add multiplier: true, or give it in"):
        plan_sweep([str(file)])
    assert plan_sweep([str(file)], multiplier=True).budgets
    file.write_text(head + "variants: {a: [budget.steps=5], b: [budget.steps=10]}\n")
    assert len(plan_sweep([str(file)]).arms) == 2
