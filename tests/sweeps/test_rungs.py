"""Experiments with rungs: the plan, one sweep after another, tuned values that are carried, arms that are left out."""

import json
import re

import pytest
import yaml

from gptlab.compare.build_rungs import build_rungs, collect_rungs
from gptlab.compare.read.rungs_file import read_rungs_file
from gptlab.config import ConfigError
from gptlab.sweeps.cell import check_sweep
from gptlab.sweeps.experiment import read_experiment
from gptlab.sweeps.grid import plan_rungs
from gptlab.sweeps.next_rung import next_plan
from gptlab.sweeps.plan import Forecast, plan_document
from gptlab.sweeps.run_sweep import sweep
from gptlab.sweeps.rungs import Rung
from gptlab.sweeps.rungs_status import document
from tiny import TINY_RUN

ARMS = {"a": [], "b": ["norm=rmsnorm"], "c": ["position=none"]}
TWO = {"one": ["size.dim=16", "budget.steps=3"], "two": ["size.dim=32", "budget.steps=4"]}

RUN = [*TINY_RUN, "data=pystdlib", "diagnostics=none", "hydra.launcher.n_jobs=1"]


@pytest.fixture
def write(tmp_path):
    """A function that writes an experiment file and returns its path."""

    def to(**keys):
        path = tmp_path / "x.yaml"
        path.write_text(yaml.safe_dump({"variants": ARMS, "seeds": [0, 1, 2], **keys}, sort_keys=False))
        return path

    return to


def rungs_of(path):
    return [(rung.name, rung.overrides) for rung in read_experiment(path).rungs]


def test_rungs_are_named_lists_of_overrides_or_settings_with_a_value_for_each(write):
    assert rungs_of(write(rungs=TWO)) == [(name, tuple(texts)) for name, texts in TWO.items()]
    assert rungs_of(write(rungs={"size": ["tiny", "mini"], "tokens_per_param": 20})) == [
        ("tiny", ("size=tiny", "budget.tokens_per_param=20")),
        ("mini", ("size=mini", "budget.tokens_per_param=20")),
    ]
    assert rungs_of(write(rungs={"size.dim": [16, 32], "budget.steps": [3, 4]})) == [
        ("dim-16", ("size.dim=16", "budget.steps=3")),
        ("dim-32", ("size.dim=32", "budget.steps=4")),
    ]


def test_an_isoflop_experiment_has_every_size_at_every_number_of_flops(write):
    found = read_experiment(write(isoflop={"flops": ["1e9", "1e10"], "sizes": ["tiny", "mini"]})).rungs
    assert [rung.name for rung in found] == ["tiny-1e9", "mini-1e9", "tiny-1e10", "mini-1e10"]
    assert found[2] == Rung("tiny-1e10", ("size=tiny", "budget.flops=1e10"), "1e10")


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"rungs": ["tiny"]}, "rungs=[tiny]: must be sizes with a budget"),
        ({"rungs": {}}, "rungs={}: must be sizes with a budget"),
        ({"rungs": {"size": ["tiny", "mini"], "budget.steps": [1]}}, "must have lists of one length"),
        ({"rungs": {"size": "tiny"}}, "must have lists of one length"),
        ({"rungs": {"size": ["tiny", "tiny"]}}, "tiny is given twice"),
        ({"rungs": {"one": ["seed=1"]}}, "has seed=1, which no rung can set"),
        ({"isoflop": {"flops": ["1e9"]}}, "isoflop={flops: [1e9]}: must be lists"),
        ({"isoflop": {"flops": ["1e9", "1e9"], "sizes": ["tiny"]}}, "must be lists"),
        ({"rungs": TWO, "isoflop": {"flops": ["1e9"], "sizes": ["tiny"]}}, "has rungs and isoflop"),
        ({"promote": ["better"]}, "promote is about rungs, and there are none"),
        ({"rungs": TWO, "promote": ["good"]}, "promote=[good]: must be a list of verdicts"),
        ({"rungs": TWO, "tune_at": "last"}, "tune_at=last: must be each or first"),
        ({"rungs": TWO, "target_flops": "many"}, "target_flops=many: must be a number above 0"),
        ({"rungs": TWO, "promote": ["better"], "variants": None, "ladder": ["preset=gpt2", "preset=llama"]}, "ladder"),
    ],
)
def test_rungs_that_cannot_be_read_are_refused(write, keys, reason):
    with pytest.raises(ConfigError, match=re.escape(reason)):
        read_experiment(write(**keys))


def test_what_the_rungs_set_cannot_be_set_beside_them(write):
    path = write(rungs=TWO, variants={"a": [], "b": ["size.dim=64"]})
    with pytest.raises(ConfigError, match=r"^size.dim=64: each rung sets it, so that an arm would not keep it"):
        plan_rungs([str(path), *TINY_RUN])
    with pytest.raises(ConfigError, match=r"^size.dim=8: each rung sets it"):
        plan_rungs([str(write(rungs=TWO)), *TINY_RUN, "size.dim=8"])
    plans = plan_rungs([str(write(rungs=TWO)), *TINY_RUN, "budget.steps=2"])  # a quick try of all rungs
    assert {arm.overrides["budget.steps"] for plan in plans for arm in plan.arms} == {"2"}


def test_every_arm_at_a_rung_has_the_tokens_of_its_baseline(write):
    path = write(base=["data=pystdlib"], rungs={"size.dim": [16, 32], "tokens_per_param": 2})
    for plan in plan_rungs([str(path), *TINY_RUN]):
        cells = check_sweep(plan).cells
        parameters = {cell.spec.arm.name: cell.budget.cost["parameters"] for cell in cells}
        assert len(set(parameters.values())) == 3
        assert {cell.budget.steps for cell in cells} == {-(-2 * parameters["a"] // 32)}


def test_tuned_values_are_carried_as_multiples_of_the_own_value_at_each_rung(write):
    path = write(rungs={"size": ["tiny", "mini"]}, tune={"optimizer.lr": "auto"}, tune_at="first")
    first, second = plan_rungs([str(path), "budget.steps=2"])
    assert (len(first.tuning_cells), len(second.tuning_cells)) == (3 * 3 * 2, 0)
    found = next_plan(second, ["a", "b"], first, {name: {"optimizer.lr": "0.014"} for name in "abc"})
    assert [arm.name for arm in found.arms] == ["a", "b"]
    assert found.carried == {name: {"optimizer.lr": "0.01"} for name in "ab"}  # twice mini's own 0.005
    assert found.grids["a"].values == {"optimizer.lr": ("0.005", "0.01", "0.02")}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """An experiment with two rungs, tuned at the first, that was swept, stopped and started again."""
    folder = tmp_path_factory.mktemp("swept")
    path = folder / "x.yaml"
    arms = {name: ARMS[name] for name in "ab"}
    keys = {"variants": arms, "seeds": {"first": 3, "last": 4}, "rungs": TWO, "target_flops": "1e12"}
    keys |= {"tune": {"optimizer.lr": "auto"}, "tune_at": "first"}
    path.write_text(yaml.safe_dump(keys, sort_keys=False))
    words = [str(path), *RUN, f"runs_dir={folder}"]
    sweep(words)
    return folder / "x", words


def test_each_rung_is_a_sweep_of_its_own_and_a_second_start_runs_nothing(swept):
    folder, words = swept
    file = read_rungs_file(folder)
    assert [(rung.name, rung.arms) for rung in file.rungs] == [("one", ["a", "b"]), ("two", ["a", "b"])]
    assert (file.tune_at, file.target_flops, file.promote) == ("first", 1e12, [])
    status = document(folder)
    assert [rung["name"] for rung in status["rungs"]] == ["one", "two"]
    assert status["counts"]["finished"] == status["n_cells"] == sum(r["status"]["n_cells"] for r in status["rungs"])
    phases = {rung["name"]: {cell["phase"] for cell in rung["status"]["cells"]} for rung in status["rungs"]}
    assert phases["two"] == phases["one"] - {"tune"}  # nothing is searched there
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/summary.json")}
    sweep(words)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*/summary.json")} == before


def compared(folder):
    return build_rungs(collect_rungs([folder]))


def test_an_arm_goes_on_to_the_next_rung_with_one_of_the_words_alone(tmp_path, write):
    path = write(rungs=TWO, promote=["better"])
    words = [
        str(path),
        *TINY_RUN,
        "data=pystdlib",
        "diagnostics=none",
        f"runs_dir={tmp_path}",
        "hydra.launcher.n_jobs=1",
    ]
    sweep(words)
    file = read_rungs_file(tmp_path / "x")
    assert file.rungs[1].arms == ["a"] and not (tmp_path / "x" / "two").exists()
    assert document(tmp_path / "x")["rungs"][1] == {"name": "two", "arms": ["a"], "status": None}
    ended = compared(tmp_path / "x")
    assert (ended.pending, ended.unreached) == ([], ["two"])
    assert {(arm.name, arm.word, arm.standing) for arm in ended.arms} == {(name, "left out", "") for name in "bc"}
    assert plan_document(words, forecast=Forecast(timing=False))["unreached"] == ["two"]
    for summary in (tmp_path / "x" / "one").glob("*norm-rms*/summary.json"):  # as if b were better
        content = json.loads(summary.read_text())
        summary.write_text(json.dumps(content | {"val/loss": content["val/loss"] - 1}))
    sweep(words)
    assert read_rungs_file(tmp_path / "x").rungs[1].arms == ["a", "b"]
    assert {p.name.split("_")[0] for p in (tmp_path / "x" / "two").glob("*norm-rms*")} == {"norm-rmsnorm"}
    b, c = compared(tmp_path / "x").arms
    assert (b.words["one"], b.standing, c.words["two"], c.word) == ("better", "", "left out", "left out")
