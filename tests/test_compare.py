"""`gptlab compare`: from run folders to the table, the file and the picture."""

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from rich.console import Console

from gptlab.compare import compare
from gptlab.compare.arms import differing
from gptlab.compare.runs import load_runs, read_curve
from gptlab.compare.table import si
from gptlab.config import ConfigError

CONFIG = {
    "norm": {"name": "layernorm", "eps": 1e-5},
    "placement": {"name": "pre"},
    "attention": {"name": "softmax", "pattern": None},
    "bias": True,
    "seed": 0,
    "name": "x",
    "variant": None,
    "runs_dir": "runs",
    "wandb": {"mode": None},
}
RMS = {"norm": {"name": "rmsnorm", "eps": 1e-5, "learnable": True}}
POST = {"placement": {"name": "post"}}


def write_run(folder: Path, loss=2.0, *, seed=0, state="finished", curve=(), times=("", ""), tokens=76800, **changes):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "seed": seed, **changes}))
    (folder / "status.json").write_text(json.dumps({"state": state, "started": times[0], "updated": times[1]}))
    records = [{"tokens": 100 * i, **point} for i, point in enumerate(curve)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    summary = {"val/loss": loss, "val/bpb": loss / 3, "tokens": tokens, "parameters": 809_536}
    summary |= {"flops_per_token": 4_857_216, "speed/tokens_per_s": 15_340.0 + seed}
    if state in ("finished", "diverged"):
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_arm(top: Path, name: str, losses, **changes):
    for seed, loss in enumerate(losses):
        write_run(top / f"{name}-{seed}", loss, seed=seed, times=(f"{len(list(top.glob('*'))):04}", ""), **changes)


def shown(paths, width=None, **options) -> tuple[pd.DataFrame, str]:
    """The frame and what a terminal of that width, or a pipe, is given."""
    out = io.StringIO()
    console = Console(file=out, width=width or 80, force_terminal=width is not None, color_system=None)
    return compare(paths, console=console, **options), out.getvalue()


def rows(frame: pd.DataFrame) -> dict:
    return frame.set_index("arm").to_dict("index")


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
        ([{"bias": "true"}], [{}]),
    ],
    ids=["component", "its knobs", "knob", "knob within a component", "no component", "null", "of the slot", "alone"],
)
def test_only_what_differs_beyond_the_choice_of_component_is_told(configs, expected):
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


def test_values_are_written_as_one_types_them(tmp_path):
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


# Statistics


def test_differences_are_paired_by_seed(tmp_path):
    base, other = [2.0, 2.5, 3.1, 2.2], [1.99, 2.48, 3.09, 2.17]
    write_arm(tmp_path, "base", base)
    write_arm(tmp_path, "other", other, **RMS)
    row = rows(shown([tmp_path])[0])["norm=rmsnorm"]
    half = 3.182446 * 0.00957427 / 4**0.5  # t(0.975, 3 degrees of freedom), deviation of -0.01, -0.02, -0.01, -0.03
    assert row["mean"] == pytest.approx(2.4325)
    assert row["std"] == pytest.approx(pd.Series(other).std(ddof=1))
    assert row["difference"] == pytest.approx(-0.0175) and row["pairs"] == 4
    assert (row["low"], row["high"]) == pytest.approx((-0.0175 - half, -0.0175 + half), abs=1e-6)
    assert row["high"] < 0  # though the seeds differ fifty times as much as the arms


def test_only_common_seeds_enter_the_difference(tmp_path):
    for seed, loss in ((0, 2.0), (1, 2.2), (2, 9.0)):
        write_run(tmp_path / f"base-{seed}", loss, seed=seed)
    for seed, loss in ((0, 2.1), (1, 2.4), (3, 1.0)):
        write_run(tmp_path / f"other-{seed}", loss, seed=seed, **RMS)
    frame, text = shown([tmp_path])
    row = rows(frame)["norm=rmsnorm"]
    assert (row["seeds"], row["pairs"], row["difference"]) == (3, 2, pytest.approx(0.15))
    assert "+0.1500 ± 0.6353 (2 of 3)" in text


def test_one_pair_has_no_interval_and_one_seed_no_deviation(tmp_path):
    write_arm(tmp_path, "base", [2.0])
    write_arm(tmp_path, "other", [1.9], **RMS)
    frame, text = shown([tmp_path])
    row = rows(frame)["norm=rmsnorm"]
    assert row["difference"] == pytest.approx(-0.1)
    assert all(math.isnan(row[key]) for key in ("std", "low", "high"))
    assert "norm=rmsnorm    1      1.9000     -0.1000    810K" in text


def test_without_a_common_seed_there_is_no_difference(tmp_path):
    write_run(tmp_path / "base", seed=0)
    write_run(tmp_path / "other", seed=1, **RMS)
    frame, text = shown([tmp_path])
    assert math.isnan(frame["difference"][1]) and frame["pairs"][1] == 0
    assert "no common seed" in text


def test_equal_arms_differ_by_exactly_nothing(tmp_path):
    write_arm(tmp_path, "base", [2.0, 2.1])
    write_arm(tmp_path, "other", [2.0, 2.1], **RMS)
    assert "+0.0000 ± 0.0000" in shown([tmp_path])[1]


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


def test_failed_and_unfinished_runs_are_counted(tmp_path):
    write_arm(tmp_path, "base", [2.0])
    for seed, state in enumerate(["failed", "running", "interrupted"]):
        write_run(tmp_path / state, seed=seed, state=state, **RMS)
    frame, text = shown([tmp_path])
    row = rows(frame)["norm=rmsnorm"]
    assert (row["seeds"], row["diverged"], row["failed"], row["unfinished"]) == (0, 0, 1, 2)
    assert math.isnan(row["parameters"])
    assert "failed" in text and "unfinished" in text


def test_of_runs_with_one_config_and_seed_the_last_that_ended_counts(tmp_path):
    write_run(tmp_path / "1" / "a", 2.0, times=("1", "2"))
    write_run(tmp_path / "2" / "a", 3.0, times=("0", "3"))
    write_run(tmp_path / "3" / "a", state="running", times=("2", "4"))
    frame, text = shown([tmp_path])
    assert (frame["seeds"][0], frame["mean"][0], frame["unfinished"][0]) == (1, 3.0, 0)
    assert "the same config and seed: 2." in " ".join(text.split())


def test_any_number_of_the_summary_can_be_the_metric(tmp_path):
    write_arm(tmp_path, "base", [2.4, 3.0])
    frame, text = shown([tmp_path], metric="val/bpb")
    assert frame["mean"][0] == pytest.approx(0.9) and "0.9000 ± 0.1414" in text
    with pytest.raises(ConfigError, match=r"^metric=val/los: not in .*/summary.json; choose from val/loss, val/bpb, "):
        shown([tmp_path], metric="val/los")


def test_unequal_budgets_are_said(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", tokens=153_600, **RMS)
    assert "Tokens trained on: 76.8K to 154K, not equal." in " ".join(shown([tmp_path])[1].split())


# Loading


def test_runs_are_found_below_any_folder_once(tmp_path):
    inner = write_run(tmp_path / "sweep" / "a")
    write_run(tmp_path / "b", seed=1)
    wandb = tmp_path / "wandb" / "run-1" / "files"
    wandb.mkdir(parents=True)
    (wandb / "config.yaml").write_text("norm: {value: x}")
    assert [run.seed for run in load_runs([tmp_path, inner, tmp_path / "sweep"])] == [1, 0]


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_place_without_runs_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "a")
    with pytest.raises(ConfigError, match=rf"^compare .*/{name}: no runs here; name a run's folder or one above it$"):
        load_runs([tmp_path / "a", tmp_path / name])


def test_a_curve_is_read_up_to_a_torn_last_line(tmp_path):
    curve = [{"val/loss": 4.0}, {"train/loss": 3.0}, {"val/loss": float("nan"), "val/loss_min": 1.0}]
    folder = write_run(tmp_path / "a", curve=curve)
    with (folder / "metrics.jsonl").open("a") as f:
        f.write('{"tokens": 300, "val/loss": 2.')
    (run,) = load_runs([folder])
    found = read_curve(run, "val/loss")
    assert list(found.index) == [0, 200] and found[0] == 4.0 and math.isnan(found[200])


def test_a_line_torn_elsewhere_is_an_error(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "metrics.jsonl").write_text('{"tokens": 0, "val/loss": 4\n{"tokens": 100, "val/loss": 3}\n')
    with pytest.raises(ConfigError, match="metrics.jsonl:1: not JSON"):
        read_curve(load_runs([folder])[0], "val/loss")


# What is printed and written


NUMBERS = "2.1033 ± 0.0950  +0.0033 ± 0.0143    810K   4.86M   15.3K       1"


@pytest.fixture
def three_arms(tmp_path):
    top = tmp_path / "runs"
    for i, label in enumerate(("pre", "post", "double")):
        losses = [{"val/loss": v} for v in (100.0, 2.5 + i / 10, 2.1, 2.05, 2.0, 2.0)]
        changes = {"placement": {"name": label}, "variant": label}
        write_arm(top, label, [2.0 + i / 100, 2.1, 2.2], curve=losses, **changes)
    lost = {"seed": 3, "state": "diverged", "tokens": 300, "curve": losses[:2]}
    write_run(top / "post-3", float("nan"), **lost, **POST, variant="post")
    (top / "sweep.yaml").write_text("question: Where do the norms belong?\nvariants: {pre: [], post: [], double: []}")
    return top


@pytest.mark.parametrize("width", [80, 100])
def test_three_arms_fit_a_terminal(three_arms, width):
    _, text = shown([three_arms], width=width)
    assert max(map(len, text.splitlines())) <= width
    assert NUMBERS in text


def test_numbers_are_cut_neither_in_a_narrow_terminal_nor_in_a_pipe(three_arms):
    for width in (40, None):
        assert NUMBERS in shown([three_arms], width=width)[1]
    assert "double (placement=double)  3" in shown([three_arms])[1]  # a pipe has no width to fold for


def test_csv_holds_the_raw_numbers(three_arms, tmp_path):
    frame, text = shown([three_arms], csv=tmp_path / "new" / "table.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new" / "table.csv"), frame)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["table.csv"]
    assert text.endswith("new/table.csv\n")


def test_the_plot_is_a_picture_of_1000_by_600(three_arms, tmp_path):
    shown([three_arms], plot=tmp_path / "curves.png")
    head = (tmp_path / "curves.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(head[16:20]), int.from_bytes(head[20:24])) == (1000, 600)


def drawn_texts(path: Path) -> list[str]:
    """matplotlib draws letters as paths in an SVG and leaves the words in comments."""
    return [line[5:-4] for line in map(str.strip, path.read_text().splitlines()) if line.startswith("<!-- ")]


def test_the_plot_names_question_units_arms_and_what_diverged(three_arms, tmp_path):
    shown([three_arms], plot=tmp_path / "curves.svg")
    texts = drawn_texts(tmp_path / "curves.svg")
    assert texts[-4:] == ["pre", "post", "double", "diverged"]
    assert {"Where do the norms belong?", "training tokens", "validation loss (nats per token)"} <= set(texts)


def test_the_initial_loss_does_not_flatten_the_curves(three_arms, tmp_path):
    shown([three_arms], plot=tmp_path / "curves.svg")
    heights = [float(t) for t in drawn_texts(tmp_path / "curves.svg") if "." in t and t.replace(".", "").isdigit()]
    assert heights and max(heights) < 3


def test_without_evaluations_the_plot_shows_the_training_loss(tmp_path):
    write_run(tmp_path / "a", curve=[{"train/loss": 3.0}, {"train/loss": 2.0}, {"val/loss": 2.0}])
    write_run(tmp_path / "b", curve=[], state="running", **RMS)
    shown([tmp_path], plot=tmp_path / "curves.svg")
    assert "training loss (nats per token)" in drawn_texts(tmp_path / "curves.svg")


def test_a_plot_of_nothing_or_of_an_unknown_kind_is_refused(tmp_path):
    write_run(tmp_path / "a")
    with pytest.raises(ConfigError, match="^metric=val/loss: no run has logged it twice"):
        shown([tmp_path], plot=tmp_path / "curves.png")
    with pytest.raises(ConfigError, match=r"^plot=curves.txt: the name must end in one of .png, .pdf, .svg$"):
        shown([tmp_path], plot="curves.txt")


@pytest.mark.parametrize("state", ["diverged", "running"])
def test_arms_none_of_which_finished_are_drawn(tmp_path, state):
    curve = [{"val/loss": v} for v in (4.0, 3.0, float("inf"), float("nan"))]
    write_run(tmp_path / "a", float("nan"), state=state, curve=curve)
    write_run(tmp_path / "b", float("nan"), state=state, **RMS)
    shown([tmp_path], plot=tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_more_arms_than_named_colours_are_drawn(tmp_path):
    for dim in range(14):
        write_run(tmp_path / str(dim), size={"dim": dim}, curve=[{"val/loss": 3.0}, {"val/loss": 2.0 + dim}])
    shown([tmp_path], plot=tmp_path / "curves.svg")
    assert "size.dim=13" in drawn_texts(tmp_path / "curves.svg")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (999.7, "1K"), (809_536, "810K"), (999_999, "1M"), (4_857_216, "4.86M"), (3e20, "300E")],
)
def test_three_digits_with_a_prefix(value, text):
    assert si(value) == text


def test_comparing_does_not_import_torch():
    code = "import sys, gptlab.compare, gptlab.compare.plot; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
