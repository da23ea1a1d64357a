"""Experiments with rungs: the plan, one sweep after another, tuned values that are carried, arms that are left out."""

import io
import json
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from gptlab.compare import build_comparison
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
from gptlab.sweeps.rungs_status import document, show
from tiny import TINY_RUN

ARMS = {"a": [], "b": ["norm=rmsnorm"], "c": ["position=none"]}
TWO = {"one": ["size.dim=16", "budget.steps=3"], "two": ["size.dim=32", "budget.steps=4"]}

RUN = [*TINY_RUN, "data=pystdlib", "diagnostics=none", "hydra.launcher.n_jobs=1"]


@pytest.fixture
def write(tmp_path):
    """A function that writes an experiment file, without the keys that are None, and returns its path."""

    def to(**keys):
        path = tmp_path / "x.yaml"
        content = {"variants": ARMS, "seeds": [0, 1, 2], **keys}
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False))
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
        ({"rungs": {"one": [], "two": []}}, "one and two are the same rung"),
        ({"rungs": ["tiny"]}, "rungs=[tiny]: must be sizes with a budget"),
        ({"rungs": {}}, "rungs={}: must be sizes with a budget"),
        ({"rungs": {"size": ["tiny", "mini"], "budget.steps": [1]}}, "must have lists of one length"),
        ({"rungs": {"size": "tiny"}}, "must have lists of one length"),
        ({"rungs": {"size": ["tiny", "tiny"]}}, "tiny is given twice"),
        (
            {"rungs": {"One": ["size.dim=16"], "one": ["size.dim=32"]}},
            "is given twice, but for the case of its letters",
        ),
        ({"rungs": {"one": ["size.dim=16"], "two": ["size.dim=16"]}}, "one and two are the same rung; leave one out"),
        ({"rungs": {"rungs.yaml": ["size.dim=16"]}}, "rungs.yaml could be one of the experiment's own files"),
        ({"rungs": {"one": ["size.dim"], "two": ["size.dim=32"]}}, "one must have a list of overrides"),
        ({"rungs": {"one": None, "two": ["size.dim=32"]}}, "one must have a list of overrides"),
        ({"rungs": {"one": ["size.dim=16,32"]}}, "size.dim=16,32 has several values; give one"),
        ({"rungs": {"one": ["phase=tune"]}}, "has phase=tune, which no rung can set"),
        ({"rungs": {"one": ["runs_dir=elsewhere"]}}, "has runs_dir=elsewhere, which no rung can set"),
        ({"rungs": {"one": ["seed=1"]}}, "has seed=1, which no rung can set"),
        ({"isoflop": {"flops": ["1e9"]}}, "isoflop={flops: [1e9]}: must be lists"),
        ({"isoflop": {"flops": ["1e9", "1.0e9"], "sizes": ["tiny"]}}, "1000000000.0 is given twice"),
        ({"isoflop": {"flops": ["1e9"], "sizes": ["tiny", "tiny"]}}, "tiny is given twice"),
        ({"isoflop": {"flops": [], "sizes": []}}, "must be lists"),
        ({"isoflop": {"flops": ["many"], "sizes": ["tiny"]}}, "flops has many, which must be a number above 0"),
        ({"isoflop": {"flops": ["1e9"], "sizes": [["tiny"]]}}, "which must be a name"),
        (
            {"isoflop": {"flops": ["1e9"], "sizes": ["tiny"]}, "target_flops": "1e12"},
            "is for rungs that grow in compute",
        ),
        ({"rungs": TWO, "isoflop": {"flops": ["1e9"], "sizes": ["tiny"]}}, "has rungs and isoflop"),
        ({"promote": ["better"]}, "promote is about rungs, and there are none"),
        ({"rungs": TWO, "promote": ["better", "better"]}, "must be a list of verdicts"),
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
    sizes = write(rungs={"size": ["tiny", "mini"]}, variants={"a": [], "b": ["size.dim=64"]})
    with pytest.raises(ConfigError, match=r"^size.dim=64: each rung sets it"):
        plan_rungs([str(sizes)])
    with pytest.raises(ConfigError, match=r"^size.dim=8: each rung sets it"):
        plan_rungs([str(write(rungs=TWO)), *TINY_RUN, "size.dim=8"])
    with pytest.raises(ConfigError, match=r"^rung=one: each rung sets it"):  # both would be in one folder
        plan_rungs([str(write(rungs=TWO)), *TINY_RUN, "rung=one"])
    path = write(rungs=TWO, variants={"a": [], "b": ["budget.steps=9"]})
    with pytest.raises(ConfigError, match=r"^budget.steps=9: the rungs set the budget of all arms"):
        plan_rungs([str(path), *TINY_RUN])
    plans = plan_rungs([str(write(rungs=TWO)), *TINY_RUN, "budget.steps=2"])  # a quick try of all rungs
    assert {arm.overrides["budget.steps"] for plan in plans for arm in plan.arms} == {"2"}


@pytest.mark.parametrize("in_base", [False, True])
def test_every_arm_at_a_rung_has_the_tokens_of_its_baseline(write, in_base):
    budget = {} if in_base else {"tokens_per_param": 2}
    base = ["data=pystdlib", *["budget.tokens_per_param=2"] * in_base]
    path = write(base=base, rungs={"size.dim": [16, 32], **budget})
    for plan in plan_rungs([str(path), *TINY_RUN]):
        cells = check_sweep(plan).cells
        parameters = {cell.spec.arm.name: cell.budget.cost["parameters"] for cell in cells}
        assert len(set(parameters.values())) == 3
        assert {cell.budget.steps for cell in cells} == {-(-2 * parameters["a"] // 32)}


@pytest.mark.parametrize(
    ("keys", "seeds", "rule"),
    [({}, "0,1", "fewer than 3 seeds give no verdict"), ({"variants": None}, "0,1,2", "there is one arm")],
)
def test_promotion_needs_arms_that_can_have_a_verdict(write, keys, seeds, rule):
    with pytest.raises(ConfigError, match=rf"^promote=\[better\]: {rule}"):
        plan_rungs([str(write(rungs=TWO, promote=["better"], **keys)), *TINY_RUN, f"seed={seeds}"])


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


def test_a_name_is_not_used_again_for_other_rungs_nor_for_none(swept, tmp_path):
    folder, words = swept
    content = yaml.safe_load(Path(words[0]).read_text())
    path = tmp_path / "x.yaml"

    def start(**changes):
        keys = {key: value for key, value in (content | changes).items() if value is not None}
        path.write_text(yaml.safe_dump(keys, sort_keys=False))
        sweep([str(path), *words[1:]])

    with pytest.raises(ConfigError, match=r"^name=x: .* is an experiment with rungs, and this has none"):
        start(rungs=None, tune_at=None, target_flops=None)
    with pytest.raises(ConfigError, match=r"^rungs: one was run with size.dim=16 budget.steps=3 .* another name$"):
        start(rungs=TWO | {"one": ["size.dim=8", "budget.steps=3"]})
    with pytest.raises(ConfigError, match=r"^name=one: .* is a sweep without rungs, and this has some"):
        sweep([words[0], *RUN, f"runs_dir={folder}", "name=one"])
    assert not (folder / "one" / "rungs.yaml").exists()


def test_each_rung_is_a_sweep_of_its_own_and_a_second_start_runs_nothing(swept):
    folder, words = swept
    file = read_rungs_file(folder)
    written = Path(words[0]).read_text()
    assert file.experiment_file == written == json.loads((folder / "one" / "sweep.yaml").read_text())["experiment_file"]
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


def test_one_arm_runs_at_all_rungs(tmp_path, write):
    path = write(rungs=TWO, variants=None, seeds=[0])
    words = [str(path), *RUN, f"runs_dir={tmp_path}"]
    assert sweep(words) == {"finished": 2}
    path.write_text(path.read_text().replace("two", "three"))
    sweep(words)
    file = read_rungs_file(tmp_path / "x")
    assert [rung.name for rung in file.rungs] == ["one", "three"] and file.planned == ["one", "two"]


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
    plan = plan_document(words, Forecast(timing=False))
    assert ([rung["rung"] for rung in plan["rungs"]], plan["unreached"]) == (["one"], ["two"])
    ended = build_rungs(collect_rungs([tmp_path / "x"]))
    assert (ended.pending, ended.unreached) == ([], ["two"])
    assert {(arm.name, arm.word, arm.standing) for arm in ended.arms} == {(name, "left out", "") for name in "bc"}
    show(tmp_path / "x", Console(file=io.StringIO()), watch=True)  # which does not wait for the second rung
    for summary in (tmp_path / "x" / "one").glob("*norm-rms*/summary.json"):  # as if b were better
        content = json.loads(summary.read_text())
        summary.write_text(json.dumps(content | {"val/loss": content["val/loss"] - 1}))
    sweep(words)
    assert read_rungs_file(tmp_path / "x").rungs[1].arms == ["a", "b"]
    assert {p.name.split("_")[0] for p in (tmp_path / "x" / "two").glob("*norm-rms*")} == {"norm-rmsnorm"}
    assert build_comparison([tmp_path / "x" / "two"]).family == 2  # c counts, though it was left out
    planned = plan_document(words, forecast=Forecast(timing=False))["rungs"][1]
    assert planned["effect"]["comparisons"] == 2 and [arm["name"] for arm in planned["arms"]] == ["a", "b"]
    b, c = build_rungs(collect_rungs([tmp_path / "x"])).arms
    assert (b.words["one"], b.standing, c.words["two"], c.word) == ("better", "", "left out", "left out")
