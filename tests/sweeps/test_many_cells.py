"""Sweeps of thousands of cells: expensive work is done once for all cells that share its result."""

import json
import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch import nn

from gptlab import register
from gptlab.config import ConfigError
from gptlab.config.compose import load_config
from gptlab.model import cost as measure
from gptlab.model.roles import tag
from gptlab.runs.folder import run_dir
from gptlab.sweeps import status
from gptlab.sweeps.cell import check_cells, check_sweep
from gptlab.sweeps.grid import plan_sweep
from gptlab.sweeps.manifest import CellEntry
from gptlab.training import prepare
from gptlab.training.budget import make_budget

TINY = ["size=tiny", "data.window=16", "wandb.mode=disabled", "device=cpu"]
GRID = ["norm=layernorm,rmsnorm", "placement=pre,post,double", "optimizer.lr=range(1e-3,6e-3,1e-3)", "seed=range(10)"]
ARCHITECTURES, CELLS = 6, 300

CODE = """
import json, re, sys, time
from pathlib import Path
from gptlab.sweeps.cell import check_sweep
from gptlab.sweeps.grid import plan_sweep
started = time.perf_counter()
cells = check_sweep(plan_sweep(sys.argv[1:])).cells
folders = len({c.folder for c in cells})
status = Path("/proc/self/status").read_text()  # ru_maxrss would include the process that has started this one
gib = int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 2**20
print(json.dumps([folders, time.perf_counter() - started, gib]))
"""


@pytest.fixture
def calls(monkeypatch):
    """The number of calls of each expensive function."""
    measure._counted.cache_clear()
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
    for name in ("open_dataset", "tracker_settings", "choose_device"):
        counted(prepare, name)
    return counts


def test_an_architecture_is_built_and_counted_once_and_a_text_is_opened_once(text, calls):
    cells = check_cells(plan_sweep([*GRID, *TINY, *text, "data.window=17"]).cells)  # a window that no other test counts
    assert len(cells) == len({c.folder for c in cells}) == CELLS
    assert calls["build_model"] == calls["flops_per_token"] == ARCHITECTURES
    assert calls["open_dataset"] == calls["tracker_settings"] == calls["choose_device"] == 1


def test_matching_builds_three_more_models_per_architecture(text, calls):
    """Two widths give the line, and the third is the solution; a cell's seed and learning rate add none."""
    planned = plan_sweep([*GRID, *TINY, *text, "data.window=19", "match=params", "ffn.multiple_of=1"])
    assert len(check_sweep(planned).cells) == CELLS
    assert calls["build_model"] <= 4 * ARCHITECTURES and calls["flops_per_token"] <= ARCHITECTURES


def test_a_cell_is_the_same_run_as_its_overrides_alone_give(text):
    planned = plan_sweep([*GRID, *TINY, *text, "optimizer=adamw,sgd", "budget.tokens=1e5"])
    cells = check_cells(planned.cells)
    for found in cells[:: len(cells) // 12]:
        cfg = load_config(found.spec.overrides)
        assert found.folder == run_dir(cfg)
        budget = make_budget(cfg)
        assert (found.budget.cost, found.budget.steps) == (budget.cost, budget.steps)


def test_a_problem_is_reported_once_with_the_first_cell_that_has_it(text):
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


def test_costs_are_memoised_by_component_and_not_by_its_name(own_registry):
    def parameters(n):
        @register("norm", "gains_of_mine")
        class Gains(nn.Module):
            def __init__(self, dim: int):
                super().__init__()
                self.gains = tag(nn.Parameter(torch.ones(n, dim)), "gain")

            def forward(self, x):
                return x * self.gains.sum(0)

        return measure.cost(load_config([*TINY, "norm=gains_of_mine"]))["parameters"]

    assert parameters(2) == parameters(1) + 5 * 64  # two norms in each of two blocks and a final one


def test_cells_that_have_not_begun_cost_no_read(tmp_path, monkeypatch):
    entries = [CellEntry(str(i), str(i), None, 10, None, []) for i in range(100)]
    read = []
    original = status.read_status
    monkeypatch.setattr(status, "read_status", lambda folder: read.append(folder.name) or original(folder))
    assert {s.state for s in status.read_statuses(tmp_path / "nothing", entries)} == {"waiting"} and not read
    for name, state in {"3": "finished", "7": "running"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text(json.dumps({"state": state}))
    statuses = status.read_statuses(tmp_path, entries)
    assert read == ["3", "7"] and [s.state for s in statuses if s.state != "waiting"] == ["finished", "interrupted"]


def test_a_cell_with_an_outcome_is_not_read_again(tmp_path, monkeypatch):
    lines = []
    for name, state in {"a": "finished", "b": "diverged", "c": "failed", "d": "interrupted"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text(json.dumps({"state": state}))
        lines.append({"label": name, "folder": name, "phase": None, "steps": 10, "seconds": None, "overrides": []})
    (tmp_path / "sweep.yaml").write_text(json.dumps({"cells": lines}))
    first = status.statuses_in(tmp_path)
    read = []
    original = status.read_status
    monkeypatch.setattr(status, "read_status", lambda folder: read.append(folder.name) or original(folder))
    assert status.statuses_in(tmp_path, first) == first and read == ["c", "d"]


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
    assert folders > 10_000 and seconds < 100 and gib < 1  # 17 s and 0.3 GiB on an idle machine
