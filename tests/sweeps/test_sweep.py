"""Sweeps: their cells, and that none is lost, run twice or skipped."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

import forked
from forked import GPTLAB, Started
from gptlab.config import ConfigError
from gptlab.files import write_json
from gptlab.runs.record import read_metrics, read_status
from gptlab.runs.states import RunState
from gptlab.sweeps.cell import check_cells
from gptlab.sweeps.display import SweepDisplay
from gptlab.sweeps.experiment import read_experiment
from gptlab.sweeps.grid import plan_sweep, split_arguments
from gptlab.sweeps.run_sweep import _run_until_settled, sweep
from tiny import TINY_RUN

FAILS_WHEN_IT_TRAINS = '''
import torch
from torch import nn
from gptlab import register


@register("norm", "broken")
class Broken(nn.Module):
    """Fails in training, which no earlier check can detect."""

    def forward(self, x):
        if torch.is_grad_enabled() and x.any():  # it is tried on zeros before
            raise RuntimeError("out of memory, or so")
        return x
'''


def varying(arguments):
    return [dict(arm.varying) for arm in plan_sweep(arguments).arms]


def test_a_grid_is_every_combination_and_the_last_key_varies_fastest():
    assert varying(["norm=layernorm,rmsnorm", "placement=pre,post", "size=tiny"]) == [
        {"norm": "layernorm", "placement": "pre"},
        {"norm": "layernorm", "placement": "post"},
        {"norm": "rmsnorm", "placement": "pre"},
        {"norm": "rmsnorm", "placement": "post"},
    ]


def test_cells_are_ordered_by_seed_so_that_an_interrupted_sweep_leaves_complete_pairs():
    cells = plan_sweep(["norm=layernorm,rmsnorm", "seed=0,1"]).cells
    assert [cell.label for cell in cells] == [
        *("norm=layernorm seed=0", "norm=rmsnorm seed=0", "norm=layernorm seed=1", "norm=rmsnorm seed=1")
    ]


def test_range_and_glob_are_expanded():
    assert plan_sweep(["seed=range(3)"]).seeds == ["0", "1", "2"]
    assert {"layernorm", "rmsnorm"} <= {arm["norm"] for arm in varying(["norm=glob(*)"])}
    with pytest.raises(ConfigError, match="optimizer.lr=interval"):
        plan_sweep(["optimizer.lr=interval(0,1)"])


@pytest.mark.parametrize(
    ("argument", "rule"),
    [
        ("norm=glob(zz*)", "matches no option; choose from batchnorm"),
        ("optimizer.lr=glob(*)", "only options that are chosen by name have a glob"),
        ("seed=range(0,0)", "has no values"),
        ("norm=shuffle(rmsnorm,layernorm)", "has no fixed order, and the first arm is the baseline"),
        ("+norm=layernorm,rmsnorm", "nothing can be added; write norm=layernorm,rmsnorm"),
        ("+seed=0,1", "nothing can be added; write seed=0,1"),
        ("++name=x", "nothing can be added; write name=x"),
        ("name=a,b", "a sweep has one name"),
        ("seed=0,1,0", "0 is given twice"),
        ("seed=1,1e0", "1 is given twice"),
    ],
)
def test_values_that_make_no_grid_are_refused(argument, rule):
    with pytest.raises(ConfigError) as e:
        plan_sweep([argument, "size=tiny"])
    assert str(e.value).startswith(f"{argument}: " if "twice" not in rule else "seed=") and rule in str(e.value)


@pytest.mark.parametrize("words", ["norm=rmsnorm,rmsnorm", "optimizer.lr=1e-3,0.001", "variant=a,b"])
def test_two_arms_with_one_config_are_refused(words, text):
    with pytest.raises(ConfigError, match="two arms with the same config, which are one run; leave one out"):
        check_cells(plan_sweep([*TINY_RUN, *text, "budget.steps=1", words]).cells)


def test_matching_may_leave_the_arm_that_it_matches_to_as_it_is(text):
    words = [*TINY_RUN, *text, "budget.steps=1", "ffn=gelu,swiglu", "match=none,flops"]
    plan = plan_sweep(words)
    assert len(plan.arms) == 4 and {cell.spec.arm.name for cell in check_cells(plan.cells)} == {
        *("ffn=gelu match=none", "ffn=swiglu match=none")  # at this size both widths cost the same already
    }


def test_two_variants_with_one_config_are_refused_by_name(tmp_path, text):
    path = tmp_path / "q.yaml"
    path.write_text("variants: {baseline: [], layernorm: [norm=layernorm], rmsnorm: [norm=rmsnorm]}\n")
    with pytest.raises(ConfigError, match="^baseline, layernorm: two arms with the same config"):
        check_cells(plan_sweep([str(path), *TINY_RUN, *text, "budget.steps=1"]).cells)


def test_names_and_values_of_a_file_are_text_as_written(tmp_path):
    path = tmp_path / "q.yaml"
    path.write_text(
        "\ufeff# Does it help?\nname: 2024_01_15\n"
        "variants: {on: , off: [norm=rmsnorm], 010: [ffn=swiglu], 1e3: [placement=post], null: [norm=dyt]}\n"
        "tune: {optimizer.lr: [1e-3, 010, null, a b]}\nseeds: [0, 07]\n",
        encoding="utf-8",
    )
    experiment = read_experiment(path)
    assert (experiment.question, experiment.name) == ("Does it help?", "2024_01_15")
    assert list(experiment.variants) == ["on", "off", "010", "1e3", "null"]
    assert experiment.tune == {"optimizer.lr": ["1e-3", "010", "null", "'a b'"]} and experiment.seeds.seeds == (0, 7)


@pytest.mark.parametrize("name", ["sweep.yaml", "hydra.yaml", "lr=1/x.yml"])
def test_every_file_of_yaml_is_an_experiment(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("variants: {a: [], b: [norm=rmsnorm]}\n")
    assert split_arguments([name, "sweep.per_gpu=2"]) == ([], ["sweep.per_gpu=2"], [name])
    assert [arm.name for arm in plan_sweep([name]).arms] == ["a", "b"]


@pytest.mark.parametrize("text", ["norm", "~norm", "size=tiny'", "+norm=rmsnorm"])
def test_an_argument_that_is_no_override_is_refused(text):
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}: "):
        check_cells(plan_sweep([text, "device=cpu"]).cells)


def test_an_experiment_is_variants_times_seeds_and_the_command_line_has_the_last_word(tmp_path):
    path = tmp_path / "norms.yaml"
    path.write_text(
        "# Which norm?\nbase: [size=tiny, budget.steps=9]\nvariants: {ln: [], rms: [norm=rmsnorm]}\nseeds: [0, 1]\n"
    )
    experiment = read_experiment(path)
    assert (experiment.name, experiment.question) == ("norms", "Which norm?")
    plan = plan_sweep([str(path)])
    assert plan.name == "norms" and len(plan.cells) == 4
    assert {"variant='rms'", "seed=1", "norm=rmsnorm"} <= set(plan.cells[-1].overrides)
    shorter = [cell.overrides for cell in plan_sweep([str(path), "seed=7", "budget.steps=5"]).cells]
    assert len(shorter) == 2
    assert all("seed=7" in c and "budget.steps=5" in c and "budget.steps=9" not in c for c in shorter)
    by_tokens = [cell.overrides for cell in plan_sweep([str(path), "budget.tokens=1e4"]).cells]
    assert all("budget.tokens=1e4" in c and "budget.steps=9" not in c for c in by_tokens)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("arms: {a: []}\n", "no such key: arms; choose from name, "),
        ("variants: {a: []}\nseeds: 3\n", "seeds=3: must be a list of whole numbers, such as [0, 1, 2]"),
        ("- a\n", "must be a mapping with keys among name, "),
        ("variants: {a: [], a: []}\n", "not readable as YAML (a is given twice"),
        ("variants: {? [a] : []}\n", "not readable as YAML (a key must be text"),
        ("seeds: [1e0]\n", "seeds=[1e0]: must be a list of whole numbers"),
        ("seeds: [true]\n", "seeds=[true]: must be a list of whole numbers"),
        ("seeds: [99999999999999999999]\n", "seeds=[99999999999999999999]: must be a list of whole numbers"),
        ("name: [a]\n", "name=[a]: must be text"),
        ("use: {a: b}\n", "use={a: b}: must be a file or a list of files"),
        ("variants: {a: [], b: []}\nbaseline: c\n", "baseline=c: no such variant; choose from a, b"),
        ("variants: {a: []}\nbaseline: [a]\n", "baseline=[a]: must be text"),
        ("base: [norm=layernorm,rmsnorm]\nbaseline: a\n", "baseline=a: names a variant, and there are none"),
        ("ladder: [preset=gpt2, preset=llama]\nbaseline: a\n", "baseline=a: each arm of a ladder is compared with"),
        ("knock_out: [preset=gpt2, preset=llama]\nbaseline: a\n", "baseline=a: the baseline of a knock_out is its"),
        ("base: [\n", "not readable as YAML"),
        ("", "must be a mapping"),
    ],
)
def test_a_refused_experiment_file_says_the_rule(tmp_path, content, rule):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as e:
        read_experiment(path)
    assert str(e.value).startswith(f"{path}: {rule}")


@pytest.mark.parametrize("content", ["variants: [a, b]", "arms: {}", "base: size=tiny", "seeds: 3", "- 1", "a: ["])
def test_a_file_that_is_not_an_experiment_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match="x.yaml") as caught:
        plan_sweep([str(path)])
    assert "\n" not in str(caught.value)


def test_the_name_of_a_grid_does_not_depend_on_its_seeds():
    assert (
        plan_sweep(["norm=layernorm,rmsnorm", "seed=0"]).name == plan_sweep(["norm=layernorm,rmsnorm", "seed=0,1"]).name
    )
    assert plan_sweep(["norm=layernorm,rmsnorm"]).name != plan_sweep(["norm=layernorm,rmsnorm", "size=tiny"]).name


def test_every_bad_cell_is_reported_before_anything_is_written(tmp_path, text):
    done = forked.run(GPTLAB, "sweep", "attention.n_kv_head=1,3,5", *TINY_RUN, *text, cwd=tmp_path)
    assert done.returncode == 2
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == [
        "attention.n_kv_head=3",
        "attention.n_kv_head=5",
    ]
    assert not (tmp_path / "runs").exists()


def test_a_killed_sweep_continues_and_a_failed_cell_is_reported_with_its_log(tmp_path, text):
    (tmp_path / "broken.py").write_text(FAILS_WHEN_IT_TRAINS)
    words = ["sweep", "norm=layernorm,broken", "seed=0,1", "use=broken.py", "name=s", "budget.steps=40"]
    words += ["eval.every=20", "train.log_every=1", *TINY_RUN, *text]
    first = Started(GPTLAB, *words, "hydra.launcher.n_jobs=1", cwd=tmp_path)
    folder = tmp_path / "runs" / "s"
    deadline = time.monotonic() + 120
    while sum(read_status(p.parent).get("state") == "finished" for p in folder.glob("*/status.json")) < 1:
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    finished = {p.parent for p in folder.glob("*/summary.json")}
    written = {p: p.joinpath("summary.json").stat().st_mtime_ns for p in finished}

    second = forked.run(GPTLAB, *words, "hydra.launcher.n_jobs=2", cwd=tmp_path)
    assert second.returncode == 1, second.stderr
    states = [read_status(p.parent)["state"] for p in folder.glob("*/status.json")]
    assert sorted(states) == ["failed"] * 2 + ["finished"] * 2
    assert "4 cells: 2 finished, 2 failed" in second.stdout
    failed = next(p.parent for p in folder.glob("*/status.json") if read_status(p.parent)["state"] == "failed")
    assert str(failed.relative_to(tmp_path) / "log.txt") in second.stdout
    assert "RuntimeError: out of memory, or so" in (failed / "log.txt").read_text()
    assert {p: p.joinpath("summary.json").stat().st_mtime_ns for p in finished} == written  # not run twice
    for run in {p.parent for p in folder.glob("*/summary.json")}:
        steps = [line["step"] for line in read_metrics(run) if "train/loss" in line]
        assert steps == list(range(1, 41))
    record = json.loads((folder / "sweep.yaml").read_text())
    assert len(record["cells"]) == 4

    stopped = [(failed / "log.txt").read_text(), *(p.stat().st_mtime_ns for p in folder.rglob("summary.json"))]
    fixed = FAILS_WHEN_IT_TRAINS.replace("if torch.is_grad_enabled() and x.any()", "if False")
    (tmp_path / "broken.py").write_text(fixed)  # new content makes new runs; earlier ones stay as they are
    third = forked.run(GPTLAB, *words, "norm=broken", "seed=0", cwd=tmp_path)
    assert third.returncode == 0 and "1 cell: 1 finished" in third.stdout, third.stdout
    assert stopped[0] == (failed / "log.txt").read_text()


def test_retry_runs_a_failed_cell_again(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["seed=0", "name=s", "budget.steps=2", "hydra.launcher.n_jobs=1", *TINY_RUN, *text]
    assert sweep(words) == {"finished": 1}
    (folder,) = (tmp_path / "runs" / "s").glob("*/")
    write_json(folder / "status.json", read_status(folder) | {"state": "failed"})
    assert sweep(words) == {"failed": 1}
    assert sweep(words, retry=True) == {"finished": 1}


def test_a_sweep_waits_for_a_cell_that_another_process_runs(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["seed=0", "name=s", "budget.steps=2", "hydra.launcher.n_jobs=1", *TINY_RUN, *text]
    (cell,) = check_cells(plan_sweep([w for w in words if not w.startswith("hydra")]).cells)
    other = "import sys, time; from gptlab.runs.lock import locked\nfrom pathlib import Path\n"
    other += "with locked(Path(sys.argv[1])): print(flush=True); time.sleep(2)"
    process = subprocess.Popen([sys.executable, "-c", other, str(cell.folder)], stdout=subprocess.PIPE)
    process.stdout.readline()
    started = time.monotonic()
    assert sweep(words) == {"finished": 1} and time.monotonic() - started > 1.5
    process.wait()


def test_cells_for_a_cluster_may_name_a_device_that_this_machine_lacks(text):
    cells = plan_sweep(["seed=0,1", *TINY_RUN, "device=cuda", *text]).cells
    assert {c.device for c in check_cells(cells, device_is_here=False)} == {"cuda"}
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device=cuda: not available on this machine"):
            check_cells(cells)


def test_a_cell_that_comes_back_without_an_outcome_fails_with_a_reason(tmp_path, text):
    words = [*TINY_RUN, *text, f"runs_dir={tmp_path / 'runs'}", "budget.steps=1", "seed=0,1"]
    cells = check_cells(plan_sweep(words).cells)
    launched = []

    def launch(overrides):
        launched.append(len(overrides))
        return [""] * len(overrides)

    with SweepDisplay(Console(quiet=True), cells[0].folder.parent, cells) as display:
        _run_until_settled(cells, launch, display)
    assert launched == [2, 2]
    assert {cell.state for cell in cells} == {RunState.FAILED}
    assert cells[0].reason.startswith("came back 2 times without an outcome")


@pytest.mark.slow
def test_workers_end_with_their_sweep_and_save_their_checkpoints(tmp_path, text):
    long = ["budget.steps=1000000", "eval.every=1000000", "name=x", "seed=0,1", "hydra.launcher.n_jobs=2"]
    parent = Started(GPTLAB, "sweep", *TINY_RUN, *text, *long, cwd=tmp_path)
    folders = wait_for(lambda: [p.parent for p in (tmp_path / "runs/x").glob("*/metrics.jsonl") if p.stat().st_size])
    pids = [read_status(folder)["pid"] for folder in folders]
    parent.kill()
    wait_for(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()])
    assert all(read_status(folder)["reason"] == "SIGTERM" for folder in folders)
    assert all((folder / "checkpoint/last.safetensors").exists() for folder in folders)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not so within {seconds} s")
