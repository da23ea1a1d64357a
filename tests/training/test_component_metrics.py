"""A component's metrics() reach the record, the summary, the comparison and the terminal."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from gptlab.compare import compare
from gptlab.config import registry
from gptlab.training import progress
from gptlab.training.progress import Display

FILE = '''
import torch

from gptlab import register
from gptlab.model.ffn import SwiGLU


@register("ffn", "watched_swiglu")
class WatchedSwiGLU(SwiGLU):
    """SwiGLU that reports the mean of its gate and how often it ran."""

    calls = 0

    def forward(self, x):
        self.gate_mean = torch.nn.functional.silu(self.gate(x)).mean().detach()
        self.calls += 1
        return super().forward(x)

    def metrics(self):
        return {"gate_mean": self.gate_mean, "calls": float(self.calls)}
'''
GATES = ["ffn/gate_mean", "ffn/gate_mean/00", "ffn/gate_mean/01"]


@pytest.fixture
def train_watched(tmp_path, own_registry, train_tiny):
    file = tmp_path / "watched_ffn.py"
    file.write_text(FILE)
    registry.load(file)
    return lambda *overrides: train_tiny("ffn=watched_swiglu", *overrides)


def logged(summary):
    lines = [json.loads(line) for line in Path(summary["run_dir"], "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "train/loss" in line]


@pytest.mark.parametrize("precision", ["float32", "bf16_weights"])
def test_the_record_has_the_mean_over_the_layers_and_each_layers_own(train_watched, precision):
    summary = train_watched("train.log_every=3", f"precision={precision}")
    lines = logged(summary)
    assert [line["step"] for line in lines] == [1, 3, 6]
    for line in lines:
        mean, *by_layer = (line[key] for key in GATES)
        assert by_layer[0] != by_layer[1] and mean == pytest.approx(sum(by_layer) / 2, abs=1e-7)
    assert {key: summary[key] for key in GATES} == {key: lines[-1][key] for key in GATES}
    assert summary["ffn/calls"] >= 6


def test_compare_reads_it_as_any_metric(train_watched, tmp_path):
    for seed in (0, 1):
        for act in ("", "ffn.hidden=64"):
            train_watched(act, f"seed={seed}")
    table = compare([tmp_path / "runs"], metric="ffn/gate_mean")
    assert table["arm"].tolist() and table["mean"].notna().all()


def test_the_terminal_shows_the_mean_alone(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    console = Console(file=io.StringIO(), width=200)
    metrics = {"step": 3, "train/loss": 2.0}
    with Display(console, 10) as display:
        display.logged(3, metrics, {"ffn/gate_mean": 0.25, "ffn/gate_mean/00": 0.5, "ffn/gate_mean/01": 0.0})
    line = console.file.getvalue()
    assert "train/loss 2.0000  ffn/gate_mean 0.25" in line and "/00" not in line


def test_without_such_a_component_nothing_is_added(train_tiny):
    keys = logged(train_tiny())[-1].keys()
    usual = {
        "step",
        "tokens",
        "seconds",
        "cost/flops",
        "train/loss",
        "train/grad_norm",
        "train/lr",
        "speed/tokens_per_s",
    }
    assert keys <= usual
