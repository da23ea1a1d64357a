"""Published findings beside those of the runs: each outcome, the order over all pairs, and every view."""

import json

import numpy as np
import pytest

from gptlab.compare import build_comparison, compare
from gptlab.compare.analysis.published import agreement, expected_word
from gptlab.compare.build_rungs import build_rungs, collect_rungs
from gptlab.compare.views.json_document import comparison_document
from gptlab.compare.views.markdown import render_markdown
from gptlab.compare.views.published_tables import order_summary, published_lines, summary
from gptlab.compare.views.report import render_report
from gptlab.compare.views.report.rungs import render_rungs_report
from gptlab.compare.views.rungs_markdown import render_rungs
from run_folders import one_line, shown, write_run, write_sweep

SEEDS = 5
NOISE = np.random.default_rng(0).normal(0, 0.002, (20, SEEDS))  # of the arms, in nats
BASE = [2.0, 2.1, 1.9, 2.05, 1.95]
FOUND = {  # arm -> its loss above the baseline's, in nats; the margin is 0.01 bits per byte, which is 0.03 here
    "base": 0.0,
    "better": -0.2,
    "worse": 0.2,
    "equal": 0.001,
    "small": 0.012,
}


def write(top, published, *, found=None, states=None, metric=None, constant=(), **plan):
    """Write a sweep whose arms end at BASE plus `found`, with a little noise; those in `constant` vary by 0.5."""
    found = found or FOUND
    for i, (arm, above) in enumerate(found.items()):
        noise = NOISE[i] * (200 if arm in constant else 1)
        for seed in range(SEEDS):
            loss = BASE[seed] + above + noise[seed] * bool(i)
            write_run(
                top / f"{arm}-{seed}",
                loss,
                seed=seed,
                variant=arm,
                norm={"name": arm},
                state=(states or {}).get(arm, "finished"),
                summary={"val/accuracy": 1 - loss / 5},
            )
    planned = {"seeds": list(range(SEEDS)), "arms": len(found), "metric": metric, "margin": "0.03", "baseline": "base"}
    folders = [[f"{arm}-{seed}" for seed in range(SEEDS)] for arm in found]
    variants = dict.fromkeys(found, [])
    write_sweep(
        top, variants=variants, baseline="base", arms=folders, planned=planned | plan, published=published, question="?"
    )
    return top


def outcome(top, arm="better"):
    (line,) = [line for line in build_comparison([top]).published.lines if line.arm == arm]
    return line.expected, line.found, line.agreement


@pytest.mark.parametrize(
    ("arm", "published", "expected", "found", "agrees"),
    [
        ("better", "better", "better", "better", "agrees"),
        ("better", "-0.05", "better", "better", "agrees"),
        ("better", "+0.05", "worse", "better", "disagrees"),
        ("better", "equivalent", "equivalent", "better", "disagrees"),
        ("worse", "worse", "worse", "worse", "agrees"),
        ("worse", "better", "better", "worse", "disagrees"),
        ("worse", "0", "equivalent", "worse", "disagrees"),
        ("equal", "equivalent", "equivalent", "equivalent", "agrees"),
        ("equal", "0.0", "equivalent", "equivalent", "agrees"),
        ("equal", "better", "better", "equivalent", "disagrees"),
        ("equal", "0.001", "worse", "equivalent", "disagrees"),
        ("small", "equivalent", "equivalent", "worse", "agrees"),  # it is worse within the margin
        ("small", "worse", "worse", "worse", "agrees"),
        ("small", "better", "better", "worse", "disagrees"),
    ],
)
def test_the_verdict_agrees_or_disagrees_with_what_was_published(tmp_path, arm, published, expected, found, agrees):
    assert outcome(write(tmp_path, {arm: published}), arm) == (expected, found, agrees)


@pytest.mark.parametrize("published", ["better", "worse", "equivalent", "0", "-0.1"])
def test_an_arm_that_shows_nothing_neither_agrees_nor_disagrees(tmp_path, published):
    write(tmp_path / "noisy", {"better": published}, constant=["better"], found={"base": 0.0, "better": -0.05})
    assert outcome(tmp_path / "noisy")[1:] == ("not shown", "not shown")
    write(tmp_path / "lost", {"better": published}, states={"better": "diverged"})
    (line,) = build_comparison([tmp_path / "lost"]).published.lines
    assert (line.agreement, line.found) == ("not shown", "unstable")
    assert line.reason == "unstable: seeds 0, 1, 2, 3, 4 diverged"


def test_an_arm_without_a_run_says_so(tmp_path):
    (line,) = build_comparison([write(tmp_path, {"gone": "better"})]).published.lines
    assert (line.agreement, line.found, line.reason) == ("not shown", "", "no run here")


def test_the_sign_of_a_difference_is_read_in_the_direction_of_the_metric(tmp_path):
    assert expected_word("-0.1", higher=False) == expected_word("0.1", higher=True) == "better"
    assert expected_word("-0.1", higher=True) == expected_word("1e-9", higher=False) == "worse"
    assert expected_word("-0", higher=True) == "equivalent" == expected_word("0e3", higher=False)
    assert outcome(write(tmp_path, {"better": "0.1"}, metric="val/accuracy"))[::2] == ("better", "agrees")
    assert agreement("better", None) == "not shown"


def test_of_another_baseline_or_metric_nothing_was_published(tmp_path):
    write(tmp_path, {"better": "-0.1"})
    assert build_comparison([tmp_path], metric="val/bpb").published  # the same words as those of val/loss
    assert build_comparison([tmp_path], metric="val/accuracy").published is None
    assert build_comparison([tmp_path], baseline="worse").published is None
    assert build_comparison([tmp_path], against="previous").published is None


# The order


ORDERED = {"a": -0.3, "b": -0.2, "c": -0.1999, "d": 0.1}  # what the runs find; b and c cannot be told apart


@pytest.mark.parametrize(
    ("published", "arms", "counts", "reversed_pairs"),
    [
        ({"a": "-3", "b": "-2", "c": "-1", "d": "1"}, ["a", "b", "c", "base", "d"], (10, 9, 0, 1), []),
        ({"a": "-3", "b": "-2", "c": "-2", "d": "1"}, ["a", "b", "c", "base", "d"], (9, 9, 0, 0), []),
        ({"a": "-1", "b": "-2", "d": "1"}, ["b", "a", "base", "d"], (6, 5, 1, 0), [("a", "b")]),
        ({"a": "1", "d": "-1", "b": "0"}, ["d", "base", "b", "a"], (5, 0, 5, 0), None),  # base and b: no order
        ({"a": "-1", "b": "-2", "d": "worse"}, None, None, None),  # two numbers only
    ],
)
def test_the_order_counts_the_pairs_that_are_shown_reversed_and_not_shown(
    tmp_path, published, arms, counts, reversed_pairs
):
    order = build_comparison([write(tmp_path, published, found={"base": 0.0, **ORDERED})]).published.order
    if arms is None:
        assert order is None
        return
    assert order.arms == arms
    assert (order.pairs, len(order.shown), len(order.reversed), order.not_shown) == counts
    assert reversed_pairs is None or order.reversed == reversed_pairs


def test_the_pairs_are_corrected_by_holm_and_leave_out_what_is_not_alike(tmp_path):
    published = {"a": "-3", "b": "-2", "c": "-1"}
    found = {"base": 0.0, "a": -0.3, "b": -0.2, "c": -0.1}
    write(tmp_path / "plain", published, found=found)
    assert build_comparison([tmp_path / "plain"]).published.order.pairs == 6
    assert len(build_comparison([tmp_path / "plain"]).published.order.shown) == 6
    write(tmp_path / "lost", published, found=found, states={"a": "diverged"})
    lost = build_comparison([tmp_path / "lost"]).published.order
    assert (len(lost.shown), len(lost.reversed), lost.not_shown) == (3, 0, 3)  # none of the three pairs with a
    write(tmp_path / "text", published, found=found)
    for path in (tmp_path / "text").glob("a-*/env.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data_hash": "other"}))
    for path in (tmp_path / "text").glob("b-*/env.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data_hash": "one"}))
    text = build_comparison([tmp_path / "text"]).published.order
    assert ("a", "b") not in text.shown and len(text.shown) == 5


def test_a_sequential_experiment_orders_its_arms_by_p_that_holds_at_any_look(tmp_path):
    found = {"base": 0.0, "a": -0.3, "b": -0.2, "c": -0.1}
    write(tmp_path, {"a": "-3", "b": "-2", "c": "-1"}, found=found, first_look=3)
    assert order_summary(build_comparison([tmp_path]).published) == (
        "of 6 pairs 6 are shown in the published order, 0 reversed, 0 not shown"
    )


# Views


def test_every_view_has_the_lines_and_their_summary(tmp_path):
    published = {"better": "-0.05", "worse": "-0.05", "equal": "0", "small": "equivalent"}
    write(tmp_path / "sweep", published)
    comparison = build_comparison([tmp_path / "sweep"])
    assert summary(comparison.published) == "of 4 findings 3 agree, 1 disagree, 0 not shown"
    frame, text = shown([tmp_path / "sweep"], keep=tmp_path / "kept.json")
    assert list(frame["agreement"]) == ["", "agrees", "disagrees", "agrees", "agrees"]
    assert list(frame["published"]) == ["", "-0.05", "-0.05", "0", "equivalent"]
    document = comparison_document(comparison)["published"]
    assert document["summary"] == summary(comparison.published)
    assert document["lines"][1] == {
        "arm": "worse",
        "published": "-0.05",
        "expected": "better",
        "found": "worse",
        "agreement": "disagrees",
        "reason": "",
    }
    assert document["order"]["arms"] == ["better", "worse", "base", "equal"] and document["order"]["pairs"] == 4
    assert ["worse", "better"] not in [list(pair) for pair in document["order"]["reversed"]]
    for view in (text, render_markdown(comparison), render_report(comparison)):
        assert "of 4 findings 3 agree, 1 disagree, 0 not shown" in one_line(view) and "disagrees" in view
    again = build_comparison([tmp_path / "kept.json"])
    assert again.published == comparison.published and list(published_lines(again))


def test_without_published_words_no_view_has_the_section(tmp_path):
    write(tmp_path, None)
    comparison = build_comparison([tmp_path])
    assert comparison.published is None and comparison_document(comparison)["published"] is None
    frame, text = shown([tmp_path])
    assert "agreement" not in frame
    for view in (text, render_markdown(comparison), render_report(comparison)):
        assert "Published and found" not in view


def test_at_each_rung_the_lines_are_those_of_its_runs(tmp_path):
    published = {"better": "-0.05", "worse": "better"}
    write(tmp_path / "one", published)
    write(tmp_path / "two", published, found={"base": 0.0, "better": 0.1})
    names = list(FOUND)
    entries = [
        {"name": name, "overrides": [f"size.dim={name}"], "flops": None, "arms": names} for name in ("one", "two")
    ]
    content = {"question": "Does it hold?", "literature": None, "command": None, "arms": names, "rungs": entries}
    (tmp_path / "rungs.yaml").write_text(json.dumps(content | {"published": published, "planned": ["one", "two"]}))
    comparison = build_rungs(collect_rungs([tmp_path]))
    assert [summary(rung.comparison.published) for rung in comparison.rungs] == [
        "of 2 findings 1 agree, 1 disagree, 0 not shown",
        "of 2 findings 0 agree, 1 disagree, 1 not shown",
    ]
    _, text = shown([tmp_path])
    for view in (text, render_rungs(comparison), render_rungs_report(comparison, {})):
        assert "At one: of 2 findings 1 agree, 1 disagree, 0 not shown." in one_line(view)
        assert "At two: No verdict on worse: no run here." in one_line(view)
    table = compare([tmp_path])
    assert list(table[table["rung"] == "one"]["agreement"])[:3] == ["", "agrees", "disagrees"]
