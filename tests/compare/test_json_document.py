"""The JSON document of a comparison: every field that the module names, and nothing that JSON cannot hold."""

import json
import re

import pytest

from comparisons import make_comparison
from gptlab.compare import build_comparison
from gptlab.compare.columns import COLUMNS
from gptlab.compare.views import json_document
from gptlab.compare.views.json_document import comparison_document
from run_folders import POST, RMS, learning, write_run, write_sweep


def as_json(comparison):
    return json.loads(json.dumps(comparison_document(comparison), allow_nan=False))


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Two arms with three seeds, a third that diverged, a tuning run."""
    monkeypatch.chdir(tmp_path)
    top = tmp_path / "runs" / "norms"
    for seed in (0, 1, 2):
        write_run(top / f"a{seed}", 2.0, seed=seed, variant="a", **learning(2.0, seed=seed))
        where = "https://wandb.ai/x/y/runs/z"
        write_run(top / f"b{seed}", 1.9, seed=seed, variant="b", where=where, **learning(1.9, seed=seed), **RMS)
        write_run(top / f"c{seed}", float("nan"), seed=seed, variant="c", state="diverged", **POST)
    write_run(top / "t", 2.5, seed=9, phase="tune", variant="a")
    write_sweep(top, question="Which?", command="gptlab sweep x.yaml", variants={"a": [], "b": [], "c": []})
    return top


def test_an_arm_has_its_overrides_numbers_verdict_and_the_folders_of_its_runs(sweep):
    document = as_json(build_comparison([sweep], margin=0.2))
    assert document["metric"] == {
        "key": "val/loss",
        "label": "validation loss",
        "unit": "nats per token",
        "better": "lower",
    }
    assert document["question"] == "Which?" and document["command"] == "gptlab sweep x.yaml"
    assert document["baseline"] == "a" and document["margin"] == 0.2 and document["confidence"] == 0.95
    first, second, third = document["arms"]
    assert first["overrides"] == ["norm=layernorm", "placement=pre"] and second["overrides"] == ["norm=rmsnorm"]
    assert first["effect"] is None and first["verdict"] is None and first["reference"] is None
    assert second["reference"] == "a" and second["n_seeds"] == 3 and second["mean"] == pytest.approx(1.9)
    assert second["verdict"] == "better" and second["note"] == "within the margin"
    assert second["effect"]["mean"] == pytest.approx(-0.1) and second["effect"]["p_holm"] <= 0.05
    assert set(second["scores"]) == {"0", "1", "2"}
    assert [run["folder"] for run in second["runs"]] == ["runs/norms/b0", "runs/norms/b1", "runs/norms/b2"]
    assert {run["wandb"] for run in second["runs"]} == {"https://wandb.ai/x/y/runs/z"}
    assert third["states"] == {"finished": 0, "diverged": 3, "failed": 0, "unfinished": 0}
    assert third["verdict"] == "unstable" and third["mean"] is None
    assert [run["state"] for run in third["runs"]] == ["diverged"] * 3
    assert [run["arm"] for run in document["tuning_runs"]] == ["a"]


def test_a_folder_outside_the_current_one_can_be_opened(sweep, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    document = comparison_document(build_comparison([sweep]))
    assert document["arms"][0]["runs"][0]["folder"] == str(sweep / "a0")


def test_equal_budgets_tuning_and_the_grid_are_in_it():
    document = as_json(make_comparison())
    assert [equal["axis"] for equal in document["equal_budgets"]] == ["steps", "tokens", "flops", "seconds"]
    last = document["equal_budgets"][-1]
    reading = last["readings"]["swiglu"]
    assert not reading["reliable"] and reading["verdict"] is None and "machine was shared" in reading["why"]
    assert document["equal_budgets"][0]["readings"]["swiglu"]["verdict"] in document["verdicts"]
    assert reading["shift"]["mean"] == pytest.approx(0.02) and "layernorm" not in last["readings"]
    (tuning,) = document["tuning"]
    assert tuning["setting"] == "optimizer.lr" and any(point["at_edge"] for point in tuning["points"])
    diverged = [point for point in tuning["points"] if point["diverged"]]
    assert diverged and all(point["mean"] is None for point in diverged)
    effects, means = document["factorial"]["effects"], document["factorial"]["means"]
    assert {effect["kind"] for effect in effects} == {"main", "interaction"}
    assert all(len(table["means"]) == len(table["row_levels"]) for table in means)


def test_every_field_is_documented():
    document = comparison_document(make_comparison())
    documented = set(re.findall(r"\w+", json_document.__doc__))
    arm = document["arms"][1]
    for fields in (document, document["metric"], arm, arm["effect"], arm["costs"], arm["states"], arm["runs"][0]):
        assert set(fields) <= documented
    for fields in (arm["rates"]["diverged"], document["equal_budgets"][2]["readings"][arm["name"]]):
        assert set(fields) <= documented
    for fields in (document["equal_budgets"][0], document["tuning"][0], document["tuning"][0]["points"][0]):
        assert set(fields) <= documented
    for fields in (document["factorial"], document["factorial"]["effects"][0], document["factorial"]["means"][0]):
        assert set(fields) <= documented
    assert set(arm["costs"]) == {column.key for column in COLUMNS}
