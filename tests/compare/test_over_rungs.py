"""Experiments with rungs: gates, trends, profiles, what is missing, and the same words in every view."""

import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gptlab.compare import compare
from gptlab.compare.analysis.over_rungs import RungsComparison
from gptlab.compare.build_rungs import build_rungs, collect_rungs
from gptlab.compare.views.charts.rungs import draw_rungs, rungs_charts
from gptlab.compare.views.charts.theme import style
from gptlab.compare.views.report import render_report
from gptlab.compare.views.report.rungs import render_rungs_report
from gptlab.compare.views.rungs_document import rungs_document
from gptlab.compare.views.rungs_markdown import render_rungs
from gptlab.compare.views.rungs_tables import profile_cells
from gptlab.files import FileError
from run_folders import FLOPS, one_line, shown, write_run, write_sweep

RUNGS = ("one", "two", "three")
SEEDS = 5
GROWTH = 3  # of tokens and of FLOPs per token from rung to rung
SLOPE = 0.25  # nats per e-fold of tokens


def scores(mean: float, seed: int = 0, sd: float = 0.002) -> list[float]:
    return list(mean + np.random.default_rng([seed, round(abs(mean) * 1e6)]).normal(0, sd, SEEDS))


def level(i: int) -> float:
    """Return the loss of the baseline at a rung."""
    return 3 - 0.5 * i


def arms(*gains: float, name: str = "b") -> dict[str, dict[str, list[float]]]:
    """Return the losses of a baseline, and of an arm that is better by `gains` at the rungs."""
    return {
        rung: {"a": scores(level(i)), name: scores(level(i) - gain, 1)}
        for i, (rung, gain) in enumerate(zip(RUNGS, gains, strict=False))
    }


def write(top: Path, losses, *, multiplier=False, states=None, file=None, entries=None) -> Path:
    """Write an experiment: rung -> arm -> losses by seed. A rung without arms has no run."""
    names = list(dict.fromkeys(arm for by_arm in losses.values() for arm in by_arm))
    for i, (rung, by_arm) in enumerate(losses.items()):
        tokens, flops = 76_800 * GROWTH**i, FLOPS * GROWTH**i
        common = {"rung": rung, "summary": {"flops_per_token": flops, "parameters": 1000 * GROWTH**i}}
        folders = []
        for arm, own in by_arm.items():
            settings = {"norm": {"name": arm}, "variant": arm, "tokens": tokens, **common}
            for seed, loss in enumerate(own):
                state = (states or {}).get((rung, arm), "finished")
                write_run(top / rung / f"{arm}-{seed}", loss, seed=seed, state=state, **settings)
            folders.append([f"{arm}-{seed}" for seed in range(len(own))])
        budgets = {}
        for share in (0.5, 2) if multiplier and by_arm else ():
            budgets[str(share)] = [f"at-{share}-{seed}" for seed in range(SEEDS)]
            for seed, loss in enumerate(by_arm["a"]):
                settings = {"norm": {"name": "a"}, "phase": "budget", "tokens": int(tokens * share), **common}
                shifted = loss - SLOPE * math.log(share) + 1e-4 * (seed % 2)
                write_run(top / rung / f"at-{share}-{seed}", shifted, seed=seed, **settings)
        if by_arm:
            planned = {"seeds": list(range(SEEDS)), "arms": len(by_arm), "metric": "val/loss", "baseline": names[0]}
            plan = {"variants": dict.fromkeys(by_arm, []), "arms": folders, "budgets": budgets, "planned": planned}
            write_sweep(top / rung, **plan)
    rungs = [
        {"name": rung, "overrides": [f"size.dim={i}"], "flops": None, "arms": list(by_arm) or names}
        | (entries or {}).get(rung, {})
        for i, (rung, by_arm) in enumerate(losses.items())
    ]
    content = {"question": "Does it hold?", "literature": None, "command": None, "arms": names, "rungs": rungs}
    content |= {"against": "baseline", "planned": list(losses)} | (file or {})
    top.mkdir(exist_ok=True)
    (top / "rungs.yaml").write_text(json.dumps(content))
    return top


def built(top: Path, **options) -> RungsComparison:
    collected = collect_rungs([top])
    assert collected is not None
    return build_rungs(collected, **options)


def the_arm(top: Path, **options):
    (arm,) = built(top, **options).arms
    return arm


# The gate


def test_an_arm_is_better_at_all_rungs_only_if_it_is_so_at_each_and_p_is_the_largest(tmp_path):
    arm = the_arm(write(tmp_path / "all", arms(0.1, 0.1, 0.01)))
    p = [rung.result("b").effect.p for rung in built(tmp_path / "all").rungs]
    assert (arm.word, arm.standing, arm.passes) == ("better", "", True) and arm.p == max(p) == arm.p_holm
    arm = the_arm(write(tmp_path / "some", arms(0.1, 0.1, 0.0)))
    assert arm.words["two"] == "better" and arm.words["three"] != "better" and not arm.passes
    assert arm.word == "not shown"


def test_opposite_directions_are_no_evidence_of_any(tmp_path):
    arm = the_arm(write(tmp_path, arms(0.1, -0.1, 0.1)))
    assert list(arm.words.values()) == ["better", "worse", "better"]
    assert (arm.word, arm.p, arm.p_holm) == ("not shown", 1.0, 1.0)


def test_holms_correction_goes_over_all_arms_of_the_experiment(tmp_path):
    losses = arms(0.1, 0.1)
    for i, rung in enumerate(losses):
        losses[rung] |= {f"c{k}": scores(level(i), 5 + k) for k in range(3)}
    found = {arm.name: arm for arm in built(write(tmp_path, losses)).arms}
    assert found["b"].p_holm == pytest.approx(4 * found["b"].p)


def test_an_arm_that_was_left_out_of_a_rung_does_not_pass(tmp_path):
    losses = arms(0.1, 0.1, 0.1)
    losses["one"]["c"] = scores(level(0) + 0.1, 7)
    c = next(arm for arm in built(write(tmp_path, losses, file={"promote": ["better"]})).arms if arm.name == "c")
    assert c.words == {"one": "worse", "two": "left out", "three": "left out"} and not c.passes and c.p == 1


@pytest.mark.parametrize("missing", ["no run", "unfinished runs", "runs of a tuning"])
def test_a_rung_that_waits_makes_the_words_interim(tmp_path, missing):
    losses = arms(0.1, 0.1, 0.1) if missing == "unfinished runs" else arms(0.1, 0.1) | {"three": {}}
    states = {("three", name): "running" for name in "ab"}
    top = write(tmp_path, losses, states=states, multiplier=True)
    if missing == "runs of a tuning":
        write_run(top / "three" / "tune", 3.0, seed=1000, variant="a", phase="tune", rung="three")
        write_sweep(top / "three", tune={"grid": {"norm": ["a", "b"]}, "seeds": [1000]})
    arm = the_arm(top)
    assert (arm.word, arm.standing, arm.passes) == ("not shown", "interim", False)
    text = one_line(shown([top], html=tmp_path / "x.html", png=tmp_path / "x.png")[1])
    assert "INTERIM" in text and "three" in text


def test_an_arm_whose_runs_are_yet_to_come_is_not_called_left_out(tmp_path):
    losses = arms(0.1, 0.1)
    del losses["two"]["b"]
    arm = the_arm(write(tmp_path, losses, entries={"two": {"arms": ["a", "b"]}}))
    assert arm.words["two"] == "no run yet" and arm.standing == "interim"


def test_an_experiment_is_at_its_end_when_no_arm_goes_on(tmp_path):
    later = {"two": {"arms": ["a"]}, "three": {"arms": None}}
    losses = arms(-0.1) | {"two": {}, "three": {}}
    comparison = built(top := write(tmp_path, losses, entries=later, file={"promote": ["better"]}))
    (arm,) = comparison.arms
    assert (comparison.pending, comparison.unreached) == ([], ["two", "three"])
    assert (arm.standing, arm.passes, arm.words["three"]) == ("", False, "left out")
    assert "No arm went on to two, three." in one_line(shown([top])[1])


def test_a_rung_that_was_planned_and_is_gone_makes_the_words_exploratory(tmp_path):
    arm = the_arm(top := write(tmp_path, arms(0.1, 0.1), file={"planned": list(RUNGS)}))
    assert (arm.word, arm.standing) == ("better", "exploratory")
    assert "EXPLORATORY: three was planned as a rung" in one_line(shown([top])[1])


def test_where_the_baseline_diverged_at_a_rung_there_is_no_trend_and_every_view_is_made(tmp_path):
    losses = arms(0.1, 0.1, 0.1)
    losses["three"]["a"] = [math.nan] * SEEDS
    top = write(tmp_path / "x", losses, states={("three", "a"): "diverged"})
    comparison = built(top)
    assert comparison.arms[0].word == "not shown" and comparison.power_law is None
    assert "no run of the baseline has finished at three" in comparison.arms[0].trend.reason
    json.dumps(rungs_document(comparison), allow_nan=False)
    files = {kind: tmp_path / f"x.{kind}" for kind in ("html", "png", "csv")}
    assert "No run of the baseline has finished at three" in one_line(shown([top], **files)[1])


def test_runs_that_failed_or_diverged_are_said_of_each_rung(tmp_path):
    losses = arms(0.1, 0.1, 0.1)
    top = write(tmp_path / "x", losses, states={("one", "b"): "failed", ("two", "b"): "diverged"})
    page = tmp_path / "x.html"
    text = one_line(shown([top], html=page)[1])
    for said in (
        "At one: 5 failed runs; `gptlab sweep --retry`",
        "At two: Diverged runs beside those of the reference",
    ):
        assert said in text and said in page.read_text()
    assert the_arm(top).words == {"one": "no common seed: no verdict", "two": "unstable", "three": "better"}


def test_another_baseline_is_compared_with_all_other_arms(tmp_path):
    comparison = built(write(tmp_path, arms(0.1, 0.1)), baseline="b")
    assert comparison.baseline == "b" and [arm.name for arm in comparison.arms] == ["a"]
    assert (comparison.arms[0].word, comparison.arms[0].standing) == ("worse", "exploratory")


def test_two_rungs_with_the_same_compute_have_no_trend(tmp_path):
    top = write(tmp_path, arms(0.1, 0.1, 0.1), multiplier=True)
    for path in (top / "two").glob("*/summary.json"):
        number = {"flops_per_token": FLOPS * GROWTH**3}
        path.write_text(json.dumps(json.loads(path.read_text()) | number))
    comparison = built(top)
    assert comparison.rungs[1].flops == comparison.rungs[2].flops
    assert comparison.arms[0].trend.reason == comparison.power_law.reason == "two rungs have the same compute"


# The trend


@pytest.mark.parametrize(
    ("worths", "word"), [((1.1, 1.3, 1.5), "grows"), ((1.3,) * 3, "holds"), ((1.5, 1.3, 1.1), "fades")]
)
def test_the_trend_of_the_worth_in_compute(tmp_path, worths, word):
    top = write(tmp_path, arms(*(SLOPE * math.log(worth) for worth in worths)), multiplier=True)
    arm = the_arm(top)
    assert arm.trend.word == word
    decades = 2 * math.log10(GROWTH**2)
    assert arm.trend.per_decade[0] == pytest.approx((worths[2] / worths[0]) ** (1 / decades), rel=0.02)
    assert f"{word}: " in shown([top])[1]


def test_a_projection_needs_three_rungs(tmp_path):
    target = {"target_flops": 1e15}
    worth = SLOPE * math.log(1.3)
    three = the_arm(write(tmp_path / "three", arms(worth, worth, worth), multiplier=True, file=target))
    assert three.projection.value == pytest.approx(1.3, rel=0.05) and three.projection.low < 1.3 < three.projection.high
    two = the_arm(top := write(tmp_path / "two", arms(worth, worth), multiplier=True, file=target))
    assert math.isnan(two.projection.value) and two.trend.reason == "fewer than 3 rungs"
    assert "A projection needs 3 rungs." in shown([top])[1]


# Isoflop profiles


def test_an_isoflop_experiment_finds_the_best_size(tmp_path):
    flops = {f"{size}-1e12": {"flops": 1e12} for size in RUNGS}
    best = {"a": 2500.0, "b": 4000.0}  # parameters
    losses = {
        rung: {
            arm: scores(2 + 0.1 * math.log(1000 * GROWTH**i / size) ** 2, k)
            for k, (arm, size) in enumerate(best.items())
        }
        for i, rung in enumerate(flops)
    }
    comparison = built(top := write(tmp_path, losses, entries=flops, multiplier=True))
    for arm, size in best.items():
        found = comparison.profiles[1e12][arm]
        assert found.best == pytest.approx(size, rel=0.1) and found.low < size < found.high
    assert comparison.power_law is None and "isoflop" in comparison.arms[0].trend.reason
    text = shown([top])[1]
    assert "at 1e+12 FLOPs" in text and "Per tenfold" not in text
    assert list(rungs_charts(comparison)) == ["profiles"]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (1e3, 4e3, "2K (1K to 4K)"),
        (0.0, 4e3, "2K (below 4K)"),
        (1e3, math.inf, "2K (above 1K)"),
        (math.nan, math.nan, "2K (no interval)"),
    ],
)
def test_an_end_of_an_interval_beyond_the_sizes_is_said(tmp_path, low, high, text):
    flops = {f"{size}-1e12": {"flops": 1e12} for size in RUNGS}
    comparison = built(write(tmp_path, {rung: {"a": scores(2.0)} for rung in flops}, entries=flops))
    found = replace(comparison.profiles[1e12]["a"], best=2e3, low=low, high=high, edge="", reason="")
    assert profile_cells(replace(comparison, profiles={1e12: {"a": found}}))[1e12]["best size"] == [text]


# Views


def test_all_views_have_the_same_words(tmp_path):
    losses = arms(0.1, 0.1, 0.1)
    for i, rung in enumerate(losses):
        losses[rung]["c"] = scores(level(i) + 0.1 * (i - 1), 9)
    top = write(tmp_path / "x", losses, multiplier=True, file={"target_flops": 1e15})
    comparison = built(top)
    said = {arm.name: [*arm.words.values(), arm.word] for arm in comparison.arms}
    assert said == {"b": ["better"] * 4, "c": ["better", said["c"][1], "worse", "not shown"]}
    document = rungs_document(comparison)
    assert {arm["name"]: [*arm["words"].values(), arm["word"]] for arm in document["arms"]} == said
    trends = {arm["name"]: arm["trend"]["word"] for arm in document["arms"]}
    frame, text = shown([top])
    markdown, page = render_rungs(comparison), render_rungs_report(comparison, {})
    for name, words in said.items():
        row = next(line for line in markdown.splitlines() if line.startswith(f"| {name} |"))
        assert re.findall(r"<br>([a-z ]+) \|", row) == words[:-1] and row.startswith(f"| {name} | {words[-1]} |")
        own = frame[frame["arm"] == name]
        assert list(own["verdict"]) == words[:-1] and set(own["at_all_rungs"]) == {words[-1]}
        assert set(own["trend"]) == {trends[name]} and f"{trends[name]}: " in markdown and f"{trends[name]}: " in text
        assert trends[name] in page


def test_a_kept_file_makes_the_same_tables_and_has_no_path_of_the_machine(tmp_path):
    losses = arms(0.1, 0.05, 0.1) | {"four": {}}
    said = {"target_flops": 1e15, "command": "gptlab sweep /home/jane/secret/x.yaml"}
    top, kept = write(tmp_path / "x", losses, multiplier=True, file=said), tmp_path / "kept.json"
    compare([top], keep=kept)
    assert "jane" not in kept.read_text()
    before, after = shown([top])[0], shown([kept])[0]
    pd.testing.assert_frame_equal(before, after, check_exact=True)
    one, two = (rungs_document(built(path)) for path in (top, kept))
    assert one["command"] == "gptlab sweep x.yaml"
    assert {key: value for key, value in one.items() if key != "rungs"} == {
        k: v for k, v in two.items() if k != "rungs"
    }
    assert render_rungs(built(top)) == render_rungs(built(kept))
    compare([kept], keep=tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == kept.read_text()


def test_one_arm_has_a_curve_and_no_verdict(tmp_path):
    losses = {rung: {"a": own["a"]} for rung, own in arms(0, 0, 0).items()}
    top = write(tmp_path / "x", losses)
    files = {kind: tmp_path / f"x.{kind}" for kind in ("html", "markdown", "png", "csv")} | {"png": tmp_path / "x.png"}
    text = shown([top], **files)[1]
    assert "at all" not in text and "1 arm at 3 rungs" in one_line(files["html"].read_text())


def test_an_accuracy_of_zero_can_be_drawn(tmp_path):
    losses = arms(0.1, 0.1)
    top = write(tmp_path, losses)
    for path in top.glob("*/*/summary.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"val/accuracy": 0.0}))
    chart = rungs_charts(built(top, metric="val/accuracy"))["loss"]
    assert (
        '"y", "type": "quantitative"' in (text := json.dumps(chart.view))
        and '"type": "log"' not in text.split('"y"')[1]
    )


def test_the_legend_of_the_picture_has_room_for_long_names(tmp_path):
    long = [f"{'an arm with a long name ' * 2}{i}" for i in range(9)]
    losses = {rung: {name: scores(level(i), k) for k, name in enumerate(["a", *long])} for i, rung in enumerate(RUNGS)}
    comparison = built(write(tmp_path / "x", losses))
    picture = draw_rungs(comparison, "svg").decode()
    places = {name: re.search(rf'translate\(([\d.]+),([\d.]+)\)"[^>]*>{name}<', picture) for name in long}
    assert all(places.values())
    at = sorted((float(found[2]), float(found[1])) for found in places.values() if found)
    assert all(y1 < y2 or x2 - x1 > 6 * len(long[0]) for (y1, x1), (y2, x2) in pairwise(at))


def test_names_of_rungs_are_escaped_in_links_and_commands(tmp_path):
    name = "50% a#b"
    top = write(tmp_path / "x", {name: arms(0.1)["one"]})
    page = tmp_path / "page.html"
    text = shown([top], html=page)[1]
    assert 'href="page-50%25%20a%23b.html"' in page.read_text() and (tmp_path / f"page-{name}.html").is_file()
    assert f"gptlab compare '{top}/{name}'" in text


def test_a_damaged_file_of_rungs_is_refused_in_one_line(tmp_path):
    top = write(tmp_path, arms(0.1))
    (top / "rungs.yaml").write_text('{"question": null}')
    with pytest.raises(FileError, match=r"rungs.yaml: lacks what a sweep writes"):
        built(top)


def test_an_arm_has_the_same_colour_at_every_rung_whatever_arms_are_left_out(tmp_path):
    losses = arms(0.1, 0.1)
    for rung in ("one", "two"):
        losses[rung]["c"] = scores(level(RUNGS.index(rung)) - 0.2, 2)
    del losses["two"]["b"]
    comparison = built(write(tmp_path, losses, entries={"two": {"arms": ["a", "c"]}}))
    colours = [
        {result.name: style(rung.comparison.places[result.name]).colour for result in rung.comparison.results}
        for rung in comparison.rungs
    ]
    assert colours[1]["c"] == colours[0]["c"] != colours[0]["b"] and set(colours[1]) == {"a", "c"}
    page = render_report(comparison.rungs[1].comparison)
    assert f"var(--{colours[0]['c']})" in page and f"var(--{colours[0]['b']})" not in page
