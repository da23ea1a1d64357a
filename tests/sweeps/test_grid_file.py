"""`grid:` in an experiment file makes the arms that the same values make on the command line."""

import json
import re
from pathlib import Path

import pytest
import yaml

from gptlab.compare import build_comparison
from gptlab.config import ConfigError
from gptlab.sweeps.experiment import read_experiment
from gptlab.sweeps.grid import plan_rungs, plan_sweep
from gptlab.sweeps.plan import Forecast, plan_document
from gptlab.sweeps.run_sweep import sweep
from gptlab.sweeps.status import status_document
from tiny import TINY_RUN

GRID = {"norm": ["layernorm", "rmsnorm"], "placement": ["pre", "post"]}
TYPED = ["norm=layernorm,rmsnorm", "placement=pre,post"]
RUN = [*TINY_RUN, "data=pystdlib", "diagnostics=none", "budget.steps=2"]
TWO = {"one": ["size.dim=16", "budget.steps=3"], "two": ["size.dim=32", "budget.steps=4"]}


@pytest.fixture
def write(tmp_path):
    """A function that writes an experiment file and returns its path as text."""

    def to(**keys):
        path = tmp_path / "q.yaml"
        kinds = {} if {"grid", "ladder"} & keys.keys() else {"grid": GRID}
        path.write_text(yaml.safe_dump(kinds | {"seeds": [0, 1, 2]} | keys, sort_keys=False))
        return str(path)

    return to


def same(plan, other):
    """Whether two plans have the same arms, baselines and cells."""
    facts = [
        (
            [(arm.name, arm.overrides, arm.varying, arm.baseline) for arm in one.arms],
            [(cell.label, cell.overrides) for cell in [*one.tuning_cells, *one.cells]],
            (one.seeds, one.first_look, one.budgets, one.tune),
        )
        for one in (plan, other)
    ]
    return facts[0] == facts[1]


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        ({}, {}),
        ({"fraction": 0.5, "grid": GRID | {"bias": ["true", "false"]}}, {"fraction": 0.5}),
        ({"seeds": {"first": 3, "last": 6}}, {"seeds": "3..6"}),
        ({"multiplier": True}, {"multiplier": True}),
        ({"tune": {"optimizer.lr": "auto"}}, {"tune": ["optimizer.lr=auto"]}),
        ({"base": ["match=params", "match.tolerance=0.5"], "grid": GRID | {"ffn": ["gelu", "swiglu"]}}, {}),
        ({"grid": {"preset": ["gpt2", "llama"], "size": ["tiny", "mini"]}}, {}),
        ({"grid": {"attention.n_kv_head": [None, 1], "optimizer.lr": ["1e-3", 0.002]}}, {}),
        ({"grid": {"eval.lengths": [[1, 2], [1, 2, 4]]}}, {}),
    ],
)
def test_the_arms_and_cells_are_those_of_the_command_line(write, keys, options):
    file = write(**keys)
    typed = [f"{key}={','.join(map(as_typed, values))}" for key, values in keys.get("grid", GRID).items()]
    seeds = [] if "seeds" in options else ["seed=0,1,2"]
    words = [*keys.get("base", []), *typed, *seeds, "name=q"]
    assert same(plan_sweep([file]), plan_sweep(words, **options))


def as_typed(value):
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value)


def test_the_last_key_varies_fastest_and_the_first_values_are_the_baseline(write):
    arms = [arm.name for arm in plan_sweep([write()]).arms]
    assert arms == [
        *("norm=layernorm placement=pre", "norm=layernorm placement=post"),
        *("norm=rmsnorm placement=pre", "norm=rmsnorm placement=post"),
    ]


def test_the_command_line_overrides_a_grid(write):
    assert [arm.name for arm in plan_sweep([write(), "norm=dyt"]).arms] == ["placement=pre", "placement=post"]
    eight = plan_sweep([write(fraction=0.5), "bias=true,false"])
    assert len(eight.arms) == 4 and len(plan_sweep([write(fraction=0.5), "bias=true,false"], fraction=0.9).arms) == 8


def test_a_grid_at_rungs_is_the_same_grid_at_each(write):
    one, two = plan_rungs([write(rungs=TWO), *TINY_RUN])
    names = [arm.name for arm in plan_sweep([write()]).arms]
    assert [arm.name for arm in one.arms] == [arm.name for arm in two.arms] == names
    assert {arm.overrides["size.dim"] for arm in two.arms} == {"32"}
    with pytest.raises(ConfigError, match=r"^size.dim=16,64: each rung sets it, so that an arm would not keep it"):
        plan_rungs([write(rungs=TWO, grid={"size.dim": [16, 64]})])
    with pytest.raises(ConfigError, match=r"^budget.steps=2,4: the rungs set the budget of all arms"):
        plan_rungs([write(rungs=TWO, grid={"budget.steps": [2, 4]})])


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ({"grid": ["norm"]}, "grid=[norm]: must be settings with lists of values"),
        ({"grid": None}, "grid=: is empty; write the arms, or leave it out"),
        ({"ladder": []}, "ladder=: is empty; write the arms, or leave it out"),
        ({"grid": {}}, "grid=: is empty; write the arms, or leave it out"),
        ({"grid": {}, "variants": {}}, "variants=: is empty; write the arms, or leave it out"),
        ({"grid": {"norm": "rmsnorm"}}, "grid={norm: rmsnorm}: norm must have a list of values"),
        ({"grid": {"norm": []}}, "grid={norm: []}: norm must have a list of values"),
        ({"grid": {"norm": [{"a": 1}]}}, "grid={norm: [{a: 1}]}: norm must have a list of values"),
        ({"grid": {"norm": ["dyt"]}}, "grid={norm: [dyt]}: norm has one value, which all arms would share; write it"),
        ({"grid": {"norm": ["dyt", "dyt"]}}, "grid={norm: [dyt, dyt]}: norm has dyt twice, which would be one arm"),
        ({"grid": {"seed": [0, 1]}}, "grid={seed: [0, 1]}: has seed; all arms have the same seeds"),
        ({"grid": {"name": ["a", "b"]}}, "grid={name: [a, b]}: has name, which is no setting of an arm; leave it"),
        ({"base": ["norm=dyt"]}, "grid={norm: [layernorm, rmsnorm], placement: [pre, post]}: norm is in base too"),
        ({"variants": {"a": []}}, "has arms of several kinds; keep one of variants, grid, ladder, knock_out"),
        ({"baseline": "a"}, "baseline=a: the baseline of a grid has the first of all values; write its values first"),
        ({"fraction": 1}, "fraction=1: must be between 0 and 1, such as 0.5"),
        ({"fraction": "half"}, "fraction=half: must be between 0 and 1, such as 0.5"),
        ({"fraction": "nan"}, "fraction=nan: must be between 0 and 1, such as 0.5"),
        (
            {"ladder": ["preset=gpt2", "preset=llama"], "fraction": 0.5},
            "fraction=0.5: is the share of a grid's arms to keep, and there is no grid",
        ),
        ({"published": {"norm=rmsnorm": -0.1}}, "published names variants, and a grid has none; write its arms as"),
        (
            {"ladder": ["preset=gpt2", "preset=llama"], "published": {"rmsnorm": "better"}},
            "published names variants, and a ladder has none; write its arms as",
        ),
    ],
)
def test_a_grid_that_cannot_be_read_is_refused_in_one_line(write, keys, rule):
    path = write(**keys)
    with pytest.raises(ConfigError, match=rf"^{re.escape(f'{path}: {rule}')}.*$"):
        read_experiment(Path(path))


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ({"fraction": 0.1}, "fraction=0.1: keeps 1 of 4 arms; the main effects alone need 3; raise it or leave it out"),
        ({"grid": {"norm": ["layernorm", "rmsnrm"]}}, "norm=rmsnrm: "),
        ({"grid": {"+norm": ["layernorm", "rmsnorm"]}}, "+norm=layernorm: "),
        ({"tune": {"norm": ["layernorm", "dyt"]}}, "norm=layernorm: is tuned too, so the arm would not keep it"),
    ],
)
def test_a_grid_that_cannot_be_planned_is_refused_before_anything_is_written(write, keys, rule, tmp_path):
    with pytest.raises(ConfigError, match=rf"^{re.escape(rule)}"):
        sweep([write(**keys), *RUN, f"runs_dir={tmp_path / 'runs'}"])
    assert not (tmp_path / "runs").exists()


def test_plan_status_and_compare_treat_it_as_a_grid(write, tmp_path):
    words = [write(multiplier=True), *RUN, f"runs_dir={tmp_path}", "hydra.launcher.n_jobs=1"]
    planned = plan_document(words, forecast=Forecast(timing=False))
    assert (planned["baseline"], planned["n_cells"]) == ("norm=layernorm placement=pre", 4 * 3 + 2 * 3)
    assert sweep(words) == {"finished": 18}
    content = json.loads((tmp_path / "q" / "sweep.yaml").read_text())
    assert (content["variants"], content["baseline"], len(content["arms"])) == ({}, planned["baseline"], 4)
    assert status_document(tmp_path / "q")["counts"]["finished"] == 18
    comparison = build_comparison([tmp_path / "q"])
    assert sorted(comparison.baseline.name.split()) == planned["baseline"].split() and comparison.family == 3
    assert [sorted(result.name.split()) for result in comparison.results[1:]] == [
        *(["placement=post"], ["norm=rmsnorm"], ["norm=rmsnorm", "placement=post"])
    ]
    assert set(comparison.factorial.effects["slots"]) == {"norm", "placement", "placement x norm"}
