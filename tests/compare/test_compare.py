"""`gptlab compare`: from run folders to the table, the files and the picture."""

import html
import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from gptlab.compare import build_comparison
from gptlab.compare.analysis.arms import differing
from gptlab.compare.analysis.verdict import DEFINITIONS
from gptlab.compare.formatting import p_value, percent, plus_minus, si
from gptlab.compare.read.runs import load_runs, read_curves
from gptlab.config import ConfigError
from paths import ROOT
from run_folders import CONFIG, POST, RMS, learning, one_line, rows, shown, write_arm, write_run, write_sweep

# Arms


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ([{"norm": "a", "norm.eps": "1"}, {"norm": "b", "norm.gain": "2"}], [{"norm": "a"}, {"norm": "b"}]),
        ([{"norm": "a", "norm.eps": "1"}, {"norm": "b", "norm.eps": "2"}], [{"norm": "a"}, {"norm": "b"}]),
        ([{"norm": "a", "norm.eps": "1"}, {"norm": "a", "norm.eps": "2"}], [{"norm.eps": "1"}, {"norm.eps": "2"}]),
        (
            [{"norm": "a", "norm.eps": "1"}, {"norm": "a", "norm.eps": "2"}, {"norm": "b", "norm.eps": "3"}],
            [{"norm": "a", "norm.eps": "1"}, {"norm": "a", "norm.eps": "2"}, {"norm": "b"}],
        ),
        ([{"size.dim": "64"}, {"size.dim": "96"}], [{"size.dim": "64"}, {"size.dim": "96"}]),
        ([{"train.clip": "1.0"}, {}], [{"train.clip": "1.0"}, {"train.clip": "null"}]),
        (
            [{"data": "a", "data.window": "64", "data.path": "x"}, {"data": "b", "data.window": "32"}],
            [{"data": "a", "data.window": "64"}, {"data": "b", "data.window": "32"}],
        ),
        (
            [{"data": d, "tokenizer": "byte", "model.vocab_size": v} for d, v in (("a", "17"), ("b", "64"))],
            [{"data": "a"}, {"data": "b"}],
        ),
        (
            [{"data": "a", "tokenizer": "byte", "model.vocab_size": v} for v in ("256", "320")],
            [{"model.vocab_size": "256"}, {"model.vocab_size": "320"}],
        ),
        ([{"bias": "true"}], [{}]),
    ],
    ids=[
        *("component", "its knobs", "knob", "knob within a component", "no component", "null", "of the slot"),
        *("vocabularies of texts", "vocabularies of one", "alone"),
    ],
)
def test_settings_of_a_component_differ_only_among_arms_that_chose_it(configs, expected):
    assert differing(configs) == expected


def test_seed_and_bookkeeping_do_not_make_an_arm(tmp_path):
    write_run(tmp_path / "a", 2.0, seed=0)
    write_run(tmp_path / "b", 2.1, seed=1, name="y", runs_dir="elsewhere", wandb={"mode": "offline", "project": "p"})
    frame, _ = shown([tmp_path])
    assert list(frame["arm"]) == ["all runs"]
    assert frame["seeds"][0] == 2


def test_device_makes_an_arm(tmp_path):
    write_run(tmp_path / "a", device="cpu")
    write_run(tmp_path / "b", device="cuda")
    assert list(shown([tmp_path])[0]["arm"]) == ["device=cpu", "device=cuda"]


def test_values_are_written_as_overrides(tmp_path):
    write_run(tmp_path / "a", bias=True)
    write_run(tmp_path / "b", bias=False, attention={"name": "softmax", "pattern": ["local", "global"]})
    frame, text = shown([tmp_path])
    wide = 'bias=false attention.pattern=["local", "global"]'
    assert list(frame["arm"]) == ["bias=true attention.pattern=null", wide]
    assert wide in text  # not taken for rich's markup


def test_arms_are_named_by_what_they_change_in_the_baseline(tmp_path):
    write_arm(tmp_path, "a", [2.0])
    write_arm(tmp_path, "b", [2.0], **RMS)
    write_arm(tmp_path, "c", [2.0], **POST)
    write_arm(tmp_path, "d", [2.0], **RMS, **POST)
    frame, _ = shown([tmp_path])
    expected = ["norm=layernorm placement=pre", "norm=rmsnorm", "placement=post", "norm=rmsnorm placement=post"]
    assert list(frame["arm"]) == expected


def test_labels_name_the_arms_in_the_order_of_the_experiment(tmp_path):
    for i, (label, place) in enumerate([("after", "post"), ("both", "double"), ("before", "pre")]):
        write_run(tmp_path / label, variant=label, placement={"name": place}, times=(str(i), ""))
    (tmp_path / "sweep.yaml").write_text("question: Where?\nvariants: {before: [], after: [], both: []}")
    frame, text = shown([tmp_path])
    assert list(frame["arm"]) == ["before", "after", "both"]
    assert text.startswith("Where?")
    assert "before (placement=pre)" in text and "after (placement=post)" in text


def test_a_label_used_for_two_configs_names_neither_alone(tmp_path):
    write_run(tmp_path / "0", variant="base")
    write_run(tmp_path / "1", variant="wide", size={"dim": 96})
    write_run(tmp_path / "2", variant="wide", size={"dim": 128})
    assert list(shown([tmp_path], baseline="base")[0]["arm"]) == ["base", "wide size.dim=96", "wide size.dim=128"]


# The baseline


@pytest.fixture
def grid(tmp_path):
    write_arm(tmp_path, "d", [2.3], **RMS, **POST, variant="both new")
    write_arm(tmp_path, "b", [2.1], **RMS)
    write_arm(tmp_path, "c", [2.2], **POST)
    write_arm(tmp_path, "a", [2.0])
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "mean"),
    [("both new", 2.3), ("norm=rmsnorm placement=pre", 2.1), ("placement=post norm=layernorm", 2.2), ("new", 2.3)],
)
def test_the_baseline_is_chosen_by_label_or_words(grid, wanted, mean):
    assert shown([grid], baseline=wanted)[0]["mean"][0] == mean


@pytest.mark.parametrize(
    ("wanted", "start", "listed", "absent"),
    [
        ("norm=rms", "baseline=norm=rms: fits none of the arms; name one of: ", "norm=layernorm placement=pre", "?"),
        ("norm=rmsnorm", "baseline=norm=rmsnorm: fits 2 of the arms; name one of: both new (", "; ", "=layernorm"),
    ],
)
def test_a_baseline_that_fits_none_or_several_lists_the_arms(grid, wanted, start, listed, absent):
    with pytest.raises(ConfigError) as e:
        shown([grid], baseline=wanted)
    line = str(e.value)
    assert line.startswith(start) and listed in line and absent not in line and "\n" not in line


def test_without_a_choice_the_baseline_is_nearest_to_the_defaults_else_the_first(grid):
    assert shown([grid], defaults=CONFIG)[0]["mean"][0] == 2.0
    assert shown([grid], defaults={"norm": "rmsnorm", "placement": "pre"})[0]["mean"][0] == 2.1
    assert shown([grid])[0]["mean"][0] == 2.3


@pytest.mark.parametrize(("said", "expected"), [("c", "c"), (None, "b")])
def test_the_baseline_of_the_experiment(tmp_path, said, expected):
    for i, label in enumerate("abc"):
        write_run(tmp_path / label, variant=label, size={"dim": i})
    (tmp_path / "sweep.yaml").write_text(json.dumps({"variants": {"b": [], "c": [], "a": []}, "baseline": said}))
    assert shown([tmp_path], defaults=CONFIG)[0]["arm"][0] == expected


# Outcomes


def test_divergence_is_an_outcome_not_a_missing_row(tmp_path):
    nan = float("nan")
    write_arm(tmp_path, "base", [2.0, 2.2])
    write_run(tmp_path / "some-0", 2.1, seed=0, **RMS)
    write_run(tmp_path / "some-1", nan, seed=1, state="diverged", **RMS)
    write_run(tmp_path / "all-0", nan, seed=0, state="diverged", **POST)
    write_run(tmp_path / "all-1", nan, seed=1, state="diverged", **POST)
    frame, text = shown([tmp_path], baseline="norm=layernorm placement=pre")
    found = rows(frame)
    some, lost = found["norm=rmsnorm"], found["placement=post"]
    assert (some["seeds"], some["diverged"], some["mean"], some["pairs"]) == (1, 1, 2.1, 1)
    assert (lost["seeds"], lost["diverged"], lost["parameters"]) == (0, 2, 809_536)
    assert math.isnan(lost["mean"]) and math.isnan(lost["difference"])
    assert "nan" not in text and "failed" not in text
    assert "unstable (seed 1 diverged)" in text and "unstable (seeds 0, 1 diverged)" in text


def test_a_reference_that_diverged_leaves_the_other_pairs_to_judge(tmp_path):
    write_arm(tmp_path, "base", [2.0, 2.2, 2.1])
    write_run(tmp_path / "base-3", float("nan"), seed=3, state="diverged")
    write_arm(tmp_path, "other", [1.0, 1.3, 1.1, 1.5], **RMS)
    frame, text = shown([tmp_path])
    assert (frame["verdict"][1], frame["pairs"][1]) == ("better", 3)
    assert "better [1]" in text and "[1] norm=rmsnorm: seed 3 of norm=layernorm diverged, judged on the others." in text
    assert "Diverged runs beside those of the reference: norm=rmsnorm 0 of 4 against 1 of 4 (p 1.000);" in text


def test_an_arm_that_diverges_as_often_as_its_reference_is_judged_on_the_other_pairs(tmp_path):
    for name, changes in (("base", {}), ("other", RMS)):
        write_arm(tmp_path, name, [2.0, 2.2, 2.1, 2.3] if name == "base" else [1.9, 2.1, 2.0, 2.21], **changes)
        write_run(tmp_path / f"{name}-4", float("nan"), seed=4, state="diverged", **changes)
    frame, _ = shown([tmp_path])
    assert (frame["verdict"][1], frame["pairs"][1]) == ("better", 4)


def test_an_arm_that_diverges_significantly_more_often_than_its_reference_is_unstable(tmp_path):
    nan = float("nan")
    for name, changes, lost in (("base", {}, 1), ("other", RMS, 9)):
        for seed in range(14):
            loss, state = (nan, "diverged") if seed >= 14 - lost else (2.0, "finished")
            write_run(tmp_path / f"{name}-{seed}", loss, seed=seed, state=state, **changes)
    frame, text = shown([tmp_path])
    assert frame["verdict"][1] == "unstable"
    assert "norm=rmsnorm 9 of 14 against 1 of 14 (p 0.004)" in text


def test_failed_and_unfinished_runs_are_counted(tmp_path):
    write_arm(tmp_path, "base", [2.0])
    for seed, state in enumerate(["failed", "running", "interrupted"]):
        write_run(tmp_path / state, seed=seed, state=state, **RMS)
    frame, text = shown([tmp_path])
    row = rows(frame)["norm=rmsnorm"]
    assert (row["seeds"], row["diverged"], row["failed"], row["unfinished"]) == (0, 0, 1, 2)
    assert math.isnan(row["parameters"])
    assert "failed" in text and "unfin-" in text and "no common seed: no verdict" in text


def test_the_last_run_that_ended_replaces_others_with_the_same_config_and_seed(tmp_path):
    write_run(tmp_path / "1" / "a", 2.0, times=("1", "2"))
    write_run(tmp_path / "2" / "a", 3.0, times=("0", "3"))
    write_run(tmp_path / "3" / "a", state="running", times=("2", "4"))
    frame, text = shown([tmp_path])
    assert (frame["seeds"][0], frame["mean"][0], frame["unfinished"][0]) == (1, 3.0, 0)
    assert "the same config and seed: 2." in one_line(text)


def test_any_number_of_the_summary_can_be_the_metric(tmp_path):
    write_arm(tmp_path, "base", [2.4, 3.0])
    frame, text = shown([tmp_path], metric="val/bpb")
    assert frame["mean"][0] == pytest.approx(0.9) and "0.9000 ± 0.1414" in text
    with pytest.raises(ConfigError, match=r"^metric=val/los: not in .*/summary.json; choose from val/loss, val/bpb, "):
        shown([tmp_path], metric="val/los")


def test_a_metric_that_the_runs_could_not_measure_compares_nothing(tmp_path):
    for name, changes in (("base", {}), ("other", RMS)):
        write_run(tmp_path / name, summary={"memory/peak_gib": None}, **changes)
    frame, text = shown([tmp_path], metric="memory/peak_gib")
    assert frame["verdict"][1] == "no common seed: no verdict" and "nan" not in text


def test_unequal_budgets_are_reported(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", tokens=153_600, **RMS)
    assert "Training tokens: 76.8K to 154K, not the same for all." in one_line(shown([tmp_path])[1])


def test_each_rung_of_a_ladder_is_compared_with_the_previous_one(tmp_path):
    for i, label in enumerate(("first", "second", "third")):
        losses = np.array([2.0, 2.3, 2.1, 2.2]) - 0.1 * i + 0.001 * np.arange(4) * i
        write_arm(tmp_path, label, losses, variant=label, size={"dim": i})
    write_sweep(tmp_path, variants=dict.fromkeys(("first", "second", "third"), []), against="previous")
    frame, text = shown([tmp_path])
    assert list(frame["reference"][1:]) == ["first", "second"]
    assert list(frame["difference"][1:]) == pytest.approx([-0.0985, -0.0985])
    assert "the arm minus the previous arm, paired by seed" in one_line(text)
    frame, text = shown([tmp_path], against="baseline")
    assert list(frame["difference"][1:]) == pytest.approx([-0.0985, -0.197])
    with pytest.raises(ConfigError, match="^against=next: choose from baseline, previous$"):
        shown([tmp_path], against="next")


# Loading


def test_runs_are_found_below_any_folder_once(tmp_path):
    inner = write_run(tmp_path / "sweep" / "a")
    write_run(tmp_path / "b", seed=1)
    wandb = tmp_path / "wandb" / "run-1" / "files"
    wandb.mkdir(parents=True)
    (wandb / "config.yaml").write_text("norm: {value: x}")
    assert [run.seed for run in load_runs([tmp_path, inner, tmp_path / "sweep"])] == [1, 0]


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_an_error_names_the_folder_without_runs(tmp_path, name):
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "a")
    with pytest.raises(ConfigError, match=rf"^compare .*/{name}: no runs here; name a run's folder or one above it$"):
        load_runs([tmp_path / "a", tmp_path / name])


def test_tuning_runs_alone_cannot_be_compared(tmp_path):
    write_run(tmp_path / "a", phase="tune")
    with pytest.raises(ConfigError, match=r"^compare .*: has only tuning runs so far; run `gptlab sweep` to its end$"):
        shown([tmp_path])


def test_a_curve_has_the_finite_values_up_to_a_last_line_that_was_cut_off(tmp_path):
    curve = [{"val/loss": 4.0}, {"train/loss": 3.0}, {"val/loss": float("nan"), "val/loss_min": 1.0}, {"val/loss": 3}]
    folder = write_run(tmp_path / "a", curve=curve)
    with (folder / "metrics.jsonl").open("a") as f:
        f.write('{"tokens": 400, "val/loss": 2.')
    (run,) = load_runs([folder])
    found = read_curves([run], "val/loss")
    assert list(found["tokens"]) == [0, 300] and list(found["val/loss"]) == [4.0, 3.0] and found["step"].isna().all()


WRITTEN = [
    yaml.safe_dump(CONFIG),
    "a: {b: 1,\nc: 2}\nd: 'x\n\ny'\n",  # what no program writes: values that go on at the margin
    "# a comment\n---\nuse:\n- a.py\n- b.py\nname: null\n",
    "text: |\n  key: value\n\n  b\nlast: 1e-3\n",
    "same: &x {a: 1}\nagain: *x\n",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_a_config_read_by_its_sections_is_the_config(text, tmp_path):
    folder = write_run(tmp_path / "a")
    text += "seed: 0\n" + "name: a\n" * ("name" not in text)  # which every config has
    (folder / "config.yaml").write_text(text)
    (run,) = load_runs([folder])
    assert run.config == yaml.safe_load(text) and list(run.config) == list(yaml.safe_load(text))


def test_a_damaged_line_elsewhere_is_an_error(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "metrics.jsonl").write_text('{"tokens": 0, "val/loss": 4\n{"tokens": 100, "val/loss": 3}\n')
    with pytest.raises(ConfigError, match="metrics.jsonl:1: not JSON"):
        read_curves(load_runs([folder]), "val/loss")


# What is printed and written


NUMBERS = ("2.1033 ± 0.0950  +0.0033 ± 0.0207   0.845", "+25.0 %  +0.0 %  +0.0 %  -50.0 %      0       1")


@pytest.fixture
def three_arms(tmp_path):
    """Three arms; the second is larger and slower, and one of its seeds diverged."""
    top = tmp_path / "runs"
    for i, label in enumerate(("pre", "post", "double")):
        losses = [{"val/loss": v} for v in (100.0, 2.5 + i / 10, 2.1, 2.05, 2.0, 2.0)]
        changes = {"placement": {"name": label}, "variant": label}
        costs = {"parameters_non_embedding": 1_000_000, "speed/tokens_per_s": 7670.5} if label == "post" else {}
        write_arm(top, label, [2.0 + i / 100, 2.1, 2.2], curve=losses, summary=costs, **changes)
    lost = {"seed": 3, "state": "diverged", "tokens": 300, "curve": losses[:2]}
    write_run(top / "post-3", float("nan"), **lost, **POST, variant="post")
    write_sweep(top, question="Where do the norms belong?", variants={"pre": [], "post": [], "double": []})
    return top


@pytest.mark.parametrize("width", [80, 100])
def test_three_arms_fit_a_terminal(three_arms, width):
    _, text = shown([three_arms], width=width)
    assert max(map(len, text.splitlines())) <= width
    assert all(numbers in text for numbers in NUMBERS)


def test_numbers_are_cut_neither_in_a_narrow_terminal_nor_in_a_pipe(three_arms):
    assert all(numbers in shown([three_arms])[1] for numbers in NUMBERS)
    narrow = shown([three_arms], width=40)[1]  # in which an interval has a line of its own
    assert all(number in narrow for numbers in NUMBERS for number in re.split(r" {2,}| (?=±)", numbers))
    assert "double (placement=double)  3" in shown([three_arms])[1]  # a pipe has no width to fold for


def test_the_captions_say_noise_margin_power_and_seeds(three_arms):
    text = one_line(shown([three_arms], margin=0.0105)[1])
    for said in (
        "lower is better.",
        "with simultaneous 95% t intervals; p: the paired t test, with Holm's correction over 2 comparisons.",
        "Intervals and p cover the seeds only, not the choice of the validation text.",
        "These runs have no plan of one sweep",
        "Noise floor: 0.1000, the standard deviation of the baseline over its seeds.",
        "Margin: 0.0105 nats per token. An arm is equivalent",
        "Holm's first step over 2: post 0.0267 (0.0154 to 0.1179), double 0.0534 (0.0309 to 0.2358).",
        "Shown differences below that tend to be over-stated.",
        "To settle whether the difference is as large as the margin, with 80% power: double 7 to 227 seeds.",
    ):
        assert said in text, said
    default = "Margin: 0.03 nats per token, which is 0.01 bits per byte."  # a token of these runs is 4.3 bytes
    assert default in one_line(shown([three_arms])[1])
    assert "Margin: 0.2 nats per token." in one_line(shown([three_arms], margin=0.2)[1])
    for wrong in (-1, "0", "a", "nan", "inf", "-5%", "%", ""):
        with pytest.raises(ConfigError, match="^margin=.*: must be a number above 0 in the metric's unit, or a share"):
            shown([three_arms], margin=wrong)


def test_csv_holds_the_raw_numbers(three_arms, tmp_path):
    frame, text = shown([three_arms], csv=tmp_path / "new" / "table.csv")
    again = pd.read_csv(tmp_path / "new" / "table.csv", keep_default_na=False, na_values={c: [""] for c in NUMERIC})
    pd.testing.assert_frame_equal(again, frame, check_dtype=False)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["table.csv"]
    assert text.endswith("new/table.csv\n")


NUMERIC = ("difference", "low", "high", "confidence", "error", "df", "sd_difference", "sd_unpaired", "p")
NUMERIC += (
    "p_any_look",
    "p_holm",
    "p_equivalent",
    "text_share",
    "detectable",
    "detectable_low",
    "detectable_high",
    "steps",
)
NUMERIC += ("seeds_needed", "seeds_low", "seeds_high", "difference_without_stuck", "chance")
NUMERIC += tuple(f"multiplier_{unit}{end}" for unit in ("tokens", "flops", "seconds") for end in ("", "_low", "_high"))


def test_markdown_holds_question_tables_words_and_provenance(three_arms, tmp_path):
    out = tmp_path / "out"
    said = json.loads((three_arms / "sweep.yaml").read_text())
    more = {"literature": "Xiong et al. 2020: before.", "command": "gptlab sweep x.yaml runs_dir=/home/jane/runs"}
    write_sweep(three_arms, **said, **more)
    shown([three_arms], markdown=out / "RESULTS.md", png=out / "pictures" / "it.png")
    text = (out / "RESULTS.md").read_text()
    assert text.startswith("# Where do the norms belong?\n\nWhat others found: Xiong et al. 2020: before.\n")
    assert "| post (placement=post) | 3 | 2.1033 ± 0.0950 | +0.0033 ± 0.0207 | 0.845 | unstable (seed 3 di" in text
    assert "| post | +25.0 % | +0.0 % | +0.0 % | -50.0 % | 0 | 1 |" in text
    assert "![Effects and curves](<pictures/it.png>)" in text and (out / "pictures" / "it.png").exists()
    assert "    gptlab sweep x.yaml runs_dir=runs\n" in text
    assert "10 runs, 600 seconds of training in all." in text
    assert "Some CPU, 2 threads, cpu, float32, Python 3.11.7, torch 2.13.0, gptlab 0.1.0 (10 runs)" in text
    assert all(f"**{word}**" in text for word in DEFINITIONS)
    assert "jane" not in text and "secret-host" not in text
    widths = {len(line.replace("\\|", "").split("|")) for line in text.splitlines() if line.startswith("| post (")}
    assert widths == {8}


def test_names_cannot_break_the_markdown(tmp_path):
    for i, label in enumerate(("a|b", "<b>c*d")):
        write_run(tmp_path / str(i), variant=label, size={"dim": i})
    shown([tmp_path], markdown=tmp_path / "x.md")
    text = (tmp_path / "x.md").read_text()
    assert "| a\\|b" in text and "\\<b>c\\*d" in text and "\n| <b>" not in text


def test_the_picture_grows_with_the_arms(three_arms, tmp_path):
    sizes = []
    for arms in (0, 30):
        for dim in range(arms):
            write_run(three_arms / str(dim), size={"dim": dim})
        shown([three_arms], png=tmp_path / "it.png")
        head = (tmp_path / "it.png").read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        sizes.append((int.from_bytes(head[16:20]), int.from_bytes(head[20:24])))
    assert 1200 < sizes[0][0] < 2200 and sizes[1][1] > 1.5 * sizes[0][1]


def drawn_texts(path: Path) -> list[str]:
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())]


def test_the_picture_names_question_units_arms_verdicts_and_what_diverged(three_arms, tmp_path):
    shown([three_arms], png=tmp_path / "curves.svg", margin=0.01)
    texts = drawn_texts(tmp_path / "curves.svg")
    assert {"Where do the norms belong?", "training tokens", "validation loss (nats per token)"} <= set(texts)
    assert {"pre, the baseline", "post", "double", "not shown", "unstable"} <= set(texts)
    assert any("a cross: diverged" in text for text in texts)


def test_the_initial_loss_does_not_flatten_the_curves(three_arms, tmp_path):
    shown([three_arms], png=tmp_path / "curves.svg")
    heights = [float(t) for t in drawn_texts(tmp_path / "curves.svg") if "." in t and t.replace(".", "").isdigit()]
    assert heights and max(heights) < 3


def test_without_evaluations_the_picture_shows_the_training_loss(tmp_path):
    write_run(tmp_path / "a", curve=[{"train/loss": 3.0}, {"train/loss": 2.0}, {"val/loss": 2.0}])
    write_run(tmp_path / "b", curve=[], state="running", **RMS)
    shown([tmp_path], png=tmp_path / "curves.svg")
    assert "training loss (nats per token)" in drawn_texts(tmp_path / "curves.svg")


def test_a_picture_of_nothing_and_files_of_an_unknown_kind_are_refused(tmp_path):
    write_run(tmp_path / "a")
    with pytest.raises(ConfigError, match="^metric=val/loss: no run has logged it or a loss twice"):
        shown([tmp_path], png=tmp_path / "curves.png")
    with pytest.raises(ConfigError, match=r"^png=curves.txt: the name must end in .png or .pdf or .svg$"):
        shown([tmp_path], png="curves.txt")
    with pytest.raises(ConfigError, match=r"^keep=kept.txt: the name must end in .json$"):
        shown([tmp_path], keep="kept.txt")


@pytest.mark.parametrize("state", ["diverged", "running"])
def test_arms_without_a_finished_run_are_shown(tmp_path, state):
    curve = [{"val/loss": v} for v in (4.0, 3.0, float("inf"), float("nan"))]
    write_run(tmp_path / "a", float("nan"), state=state, curve=curve)
    write_run(tmp_path / "b", float("nan"), state=state, **RMS)
    _, text = shown([tmp_path], png=tmp_path / "curves.png", markdown=tmp_path / "text.md")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert "nan" not in text and "nan" not in (tmp_path / "text.md").read_text()


def test_more_arms_than_named_colours_are_drawn(tmp_path):
    for dim in range(14):
        write_run(tmp_path / str(dim), size={"dim": dim}, curve=[{"val/loss": 3.0}, {"val/loss": 2.0 + dim}])
    shown([tmp_path], png=tmp_path / "curves.svg")
    assert "dim=13" in drawn_texts(tmp_path / "curves.svg")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (999.7, "1K"), (809_536, "810K"), (999_999, "1M"), (4_857_216, "4.86M"), (3e20, "300E")],
)
def test_three_digits_with_a_prefix(value, text):
    assert si(value) == text


def test_numbers_have_as_many_digits_as_they_need():
    nan = float("nan")
    assert [percent(102.0, 100), percent(99.996, 100), percent(1, nan), percent(1, 0)] == ["+2.0 %", "+0.0 %", "-", "-"]
    assert [p_value(0.0), p_value(0.0421), p_value(1.0), p_value(nan)] == ["<0.001", "0.042", "1.000", "-"]
    assert plus_minus(15_340.2, 12.7, "+") == "+15,340 ± 13" and plus_minus(0.5, nan) == "0.5000"


def test_comparing_imports_neither_torch_nor_libraries_that_only_some_views_need():
    heavy = "torch matplotlib statsmodels plotly jinja2 scipy.stats"
    code = f"import sys, gptlab.compare; sys.exit(' '.join(m for m in '{heavy}'.split() if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == ""
    code = (
        "import sys, gptlab.compare.views.charts.picture, gptlab.compare.views.report; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_comparison_is_data(tmp_path):
    top = tmp_path / "runs"
    for seed in (0, 1, 2):
        write_run(top / f"a{seed}", 2.0, seed=seed, **learning(2.0, seed=seed))
        write_run(top / f"b{seed}", 1.9, seed=seed, where="https://wandb.ai/x/y/runs/z", **learning(1.9), **RMS)
    comparison = build_comparison([top], defaults=CONFIG, margin=0.2)
    assert [r.name for r in comparison.results] == ["norm=layernorm", "norm=rmsnorm"]
    assert comparison.results[1].effect.verdict == "better" and comparison.results[1].effect.note == "within the margin"
    assert list(comparison.curves["norm=rmsnorm"]) == ["seed", "step", "tokens", "flops", "seconds", "val/loss"]
    assert list(comparison.runs["where"]) == ["", "", "", *["https://wandb.ai/x/y/runs/z"] * 3]
    assert comparison.results[0].costs["steps"] == 400


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_of_a_table_is_wider_than_the_terminal_and_no_word_or_number_is_broken(tmp_path, width):
    ends = {"norm": ("layernorm", "rmsnorm"), "ffn": ("gelu", "swiglu"), "position": ("learned", "rope")}
    for place, chosen in enumerate(itertools.product(*ends.values())):
        settings = {slot: {"name": name} for slot, name in zip(ends, chosen, strict=True)}
        for seed in range(3):
            write_run(tmp_path / f"{place}-{seed}", 2.0 + place / 100 + seed / 1000, seed=seed, **settings)
    _, text = shown([tmp_path], width)
    assert max(len(line.rstrip()) for line in text.split("\n")) <= width
    assert text.index("effect of") < text.index("mean ± sd")  # what a grid is made for comes first
    assert re.search(r"swiglu( \+ | norm=)rmsnorm", text) and "not\n" not in text
    for cell in ("2.0010 ± 0.0010", "equivalent", "worse"):
        assert cell in text


def test_tables_over_rungs_fit_a_terminal_of_80_columns():
    _, text = shown([ROOT / "experiments" / "scale" / "kept.json"], 80)
    lines = text.split("\n")
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert any(re.match(r"rmsnorm .* 0\.993 ", line) for line in lines)
    assert any(re.match(r" +.*\(0\.938 to 1\.08\)", line) for line in lines)
