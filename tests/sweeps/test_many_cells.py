"""Thousands of cells: what costs something is done once for all that are alike in it, however many there are."""

import json
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import nn

from gptlab import register
from gptlab.config import ConfigError
from gptlab.config.compose import load_config, load_settings
from gptlab.model import cost as measure
from gptlab.runs.folder import run_dir
from gptlab.sweeps import cell, status
from gptlab.sweeps.cell import check_cells, with_references
from gptlab.sweeps.grid import plan_sweep
from gptlab.sweeps.progress import SweepDisplay
from gptlab.training.budget import make_plan

TINY = ["size=tiny", "data.window=16", "wandb.mode=disabled", "device=cpu"]
GRID = ["norm=layernorm,rmsnorm", "placement=pre,post,double", "optimizer.lr=range(1e-3,6e-3,1e-3)", "seed=range(10)"]
ARCHITECTURES, CELLS = 6, 300

CODE = """
import json, resource, sys, time
from gptlab.sweeps.cell import check_cells, with_references
from gptlab.sweeps.grid import plan_sweep
started = time.perf_counter()
cells = check_cells(with_references(plan_sweep(sys.argv[1:])).cells)
folders = len({c.folder for c in cells})
print(json.dumps([folders, time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
"""


@pytest.fixture
def calls(monkeypatch):
    """How often each of these is called."""
    measure._counted.cache_clear()
    measure._last_model.cache_clear()
    counts: Counter[str] = Counter()

    def counted(module, name):
        original = getattr(module, name)

        def wrapper(*args, **kwargs):
            counts[name] += 1
            return original(*args, **kwargs)

        wrapper.__name__ = name
        monkeypatch.setattr(module, name, wrapper)

    for name in ("build_model", "flops_per_token"):
        counted(measure, name)
    for name in ("open_dataset", "tracker_settings", "choose_machine"):
        counted(cell, name)
    return counts


def test_an_architecture_is_built_and_counted_once_and_a_text_opened_once(text, calls):
    cells = check_cells(plan_sweep([*GRID, *TINY, *text]).cells)
    assert len(cells) == len({c.folder for c in cells}) == CELLS
    assert calls["build_model"] == calls["flops_per_token"] == ARCHITECTURES
    assert calls["open_dataset"] == calls["tracker_settings"] == calls["choose_machine"] == 1


def test_matching_builds_three_more_of_an_architecture(text, calls):
    """With two widths that give the line, and the one that is solved for; none for a cell's seed or learning rate."""
    planned = with_references(plan_sweep([*GRID, *TINY, *text, "match=params", "ffn.multiple_of=1"]))
    assert len(check_cells(planned.cells)) == CELLS
    assert calls["build_model"] <= 4 * ARCHITECTURES and calls["flops_per_token"] <= ARCHITECTURES


def test_each_cell_is_what_its_words_alone_come_to(text):
    planned = plan_sweep([*GRID, *TINY, *text, "optimizer=adamw,sgd", "budget.tokens=1e5"])
    cells = check_cells(planned.cells)
    for found in cells[:: len(cells) // 12]:
        cfg = load_config(found.overrides)
        assert found.folder == run_dir(cfg)
        plan = make_plan(cfg)
        assert (found.plan.cost, found.plan.steps) == (plan.cost, plan.steps)


def test_what_is_wrong_is_told_once_and_with_the_first_cell_that_has_it(text):
    words = [*TINY, *text, "seed=range(50)", "optimizer.lr=1e-3,-1", "attention.n_kv_head=1,3", "wandb.mode=online"]
    with pytest.raises(ConfigError) as caught:
        check_cells(plan_sweep([w for w in words if w != "wandb.mode=disabled"]).cells)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("wandb.mode=online: no API key") and lines[0].endswith("seed=0]") and len(lines) == 1
    with pytest.raises(ConfigError) as caught:
        check_cells(plan_sweep(words[:-1]).cells)
    assert [(line.split(":")[0], line.split()[-1]) for line in str(caught.value).splitlines()] == [
        ("attention.n_kv_head=3", "seed=0]"),
        ("optimizer.lr=-1.0", "seed=0]"),
    ]


def test_what_is_counted_goes_by_the_component_not_by_its_name(own_registry):
    def parameters(n):
        @register("norm", "gains_of_mine")
        class Gains(nn.Module):
            def __init__(self, dim: int):
                super().__init__()
                self.gains = nn.Parameter(torch.ones(n, dim))

            def forward(self, x):
                return x * self.gains.sum(0)

        return measure.cost(load_settings([*TINY, "norm=gains_of_mine"]))["parameters"]

    assert parameters(2) == parameters(1) + 5 * 64  # two norms in each of two blocks and a final one


class Looked(SimpleNamespace):
    """A cell that counts how often its state is asked for."""

    @property
    def state(self):
        self.asked += 1
        return "finished" if (self.folder / "done").exists() else "running"


def test_a_running_sweep_looks_at_cells_that_have_begun_and_not_ended(tmp_path):
    plan = SimpleNamespace(progress=lambda step, seconds: 0.5)
    cells = [Looked(label=str(i), folder=tmp_path / str(i), plan=plan, failure="", asked=0) for i in range(100)]
    display = SweepDisplay(Console(quiet=True), cells)
    for i in (3, 7):
        (tmp_path / str(i)).mkdir()
    asked = [c.asked for c in cells]
    display._look()
    assert [c.asked - before for c, before in zip(cells, asked, strict=True)] == [int(i in (3, 7)) for i in range(100)]
    (tmp_path / "3" / "done").touch()
    display._look()
    assert display.n_ended == 1
    asked = cells[3].asked
    display._look()
    assert cells[3].asked == asked


def test_watching_does_not_look_again_at_what_is_done(tmp_path, monkeypatch):
    lines = []
    for name, state in {"a": "finished", "b": "diverged", "c": "failed", "d": "interrupted"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text(json.dumps({"state": state}))
        lines.append({"label": name, "folder": name, "phase": None, "steps": 10, "seconds": None, "overrides": []})
    (tmp_path / "sweep.yaml").write_text(json.dumps({"cells": lines}))
    first = status.look(tmp_path)
    read = []
    original = status.read_status
    monkeypatch.setattr(status, "read_status", lambda folder: read.append(folder.name) or original(folder))
    assert status.look(tmp_path, first) == first and read == ["c", "d"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["norm=layernorm,rmsnorm", "placement=pre,post,double", "ffn=gelu,swiglu", "match=params", "seed=range(10)"]
        + ["match.tolerance=0.02", "optimizer.lr=range(1e-3,9.4e-3,1e-4)"],
        [
            "norm=layernorm,rmsnorm",
            "optimizer.lr=range(1e-4,5.04e-1,1e-4)",
        ],  # no two of an arm differ in the seed alone
    ],
)
def test_10_000_cells_are_planned_in_a_hundredth_of_a_second_each(words, text):
    command = [sys.executable, "-c", CODE, *words, *TINY, *text]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    folders, seconds, gib = json.loads(out)
    print(f"{folders} cells: {seconds:.1f} s, {gib:.2f} GiB")
    assert folders > 10_000 and seconds < 100 and gib < 1  # 15 s and 0.3 GiB on a machine that does nothing else
