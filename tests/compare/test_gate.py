"""The gate over rungs: which word and p an arm gets from those at each rung."""

import json
from math import nan

import pytest
from test_over_rungs import arms, write

from gptlab.compare.analysis.gate import NOT_RUN, AtRung, gates
from gptlab.compare.build_rungs import build_rungs, collect_rungs


def better(p):
    return AtRung("better", -1.0, p)


def test_the_p_over_rungs_is_the_largest_and_is_corrected_over_all_planned_arms():
    left_out = [AtRung("not shown", -0.1, 0.5), None]
    found = gates({"a": [better(0.001), better(0.004)], "b": left_out, "c": left_out})
    assert (found["a"].word, found["a"].p, found["a"].p_holm) == ("better", 0.004, pytest.approx(3 * 0.004))
    assert (found["b"].word, found["b"].p, found["b"].p_holm) == (NOT_RUN, 1.0, 1.0)


def test_an_arm_that_is_better_at_each_rung_does_not_pass_if_the_correction_over_all_arms_forbids_it():
    """At a rung where few arms ran the correction is smaller than over all arms."""
    others = {name: [AtRung("not shown", 0.1, 0.5), None] for name in "bcde"}
    assert gates({"a": [better(0.001), better(0.02)], **others})["a"].word == "not shown"
    assert gates({"a": [better(0.001), better(0.009)], **others})["a"].word == "better"


@pytest.mark.parametrize(
    ("rungs", "word", "p"),
    [
        ([better(0.001), AtRung("worse", 1.0, 0.001)], "not shown", 1.0),
        ([better(0.001), AtRung("not shown", -0.1, 0.3)], "not shown", 0.3),
        ([better(0.001), AtRung("two seeds: no verdict", -0.1, nan)], "not shown", 1.0),
        ([AtRung("two seeds: no verdict", -0.1, nan)] * 2, "no verdict", 1.0),
        ([AtRung("worse", 1.0, 0.001), AtRung("worse", 2.0, 0.01)], "worse", 0.01),
        ([AtRung("equivalent", 0.1, 0.6), AtRung("equivalent", -0.1, 0.7)], "equivalent", 1.0),
    ],
)
def test_the_word_over_rungs_is_that_of_all_of_them(rungs, word, p):
    found = gates({"a": rungs})["a"]
    assert (found.word, found.p) == (word, p)


def test_no_arm_passes_before_all_rungs_have_runs():
    found = gates({"a": [better(0.001)]}, complete=False)["a"]
    assert (found.word, found.p_holm) == ("not shown", 1.0)


def test_in_a_sequential_experiment_the_gate_takes_the_p_that_holds_at_any_look(tmp_path):
    """With the p of the look that settled an arm, more than 5 % of experiments would let a wrong arm pass."""
    top = write(tmp_path / "x", arms(0.004, 0.003))
    for manifest in top.glob("*/sweep.yaml"):
        content = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(content | {"planned": content["planned"] | {"first_look": 3}}))
    found = build_rungs(collect_rungs([top]))
    effects = [rung.result("b").effect for rung in found.rungs]
    assert found.arms[0].p == max(effect.p_any_look for effect in effects) < 1
    assert all(effect.p_any_look > effect.p for effect in effects)
