"""The evaluation on the validation split: what it reads, and the sums that it keeps."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gptlab.runs.folder import open_config
from gptlab.runs.load import open_model
from gptlab.runs.record import read_metrics
from gptlab.training import train as training_run
from gptlab.training import trainer
from gptlab.training.evaluate import evaluate
from gptlab.training.prepare import open_dataset, prepare_matched

BLOCKS = ("val/block_nats", "val/block_tokens", "val/block_bytes")


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe tokenizer.vocab_size=270"])
@pytest.mark.parametrize("final_tokens", ["null", "10000000", "600"])
def test_blocks_add_up_to_the_final_loss(train_tiny, tmp_path, tokenizer, final_tokens):
    (tmp_path / "long.txt").write_text("".join(f"{n} naïve cafés of {n * n}.\n" for n in range(500)))
    longer = f"data.path={tmp_path / 'long.txt'} eval.final_tokens={final_tokens}"
    summary = train_tiny(longer, "eval.tokens=100", f"tokenizer={tokenizer}")
    nats, tokens, n_bytes = (summary[key] for key in BLOCKS)
    assert len(nats) == len(tokens) == len(n_bytes) == 32
    assert all(isinstance(n, int) for n in tokens + n_bytes)
    assert sum(nats) / sum(tokens) == pytest.approx(summary["val/loss"], rel=1e-12)
    assert sum(nats) / math.log(2) / sum(n_bytes) == pytest.approx(summary["val/bpb"], rel=1e-12)
    dataset = open_dataset(open_config(summary["run_dir"]))
    assert sum(tokens) == (600 // 16 * 16 if final_tokens == "600" else dataset.n_val - 1)
    assert json.loads(Path(summary["run_dir"], "summary.json").read_text())["val/block_nats"] == nats


@pytest.mark.parametrize("final_tokens", ["null", "128", "64"])
@pytest.mark.parametrize("lengths", ["[1]", "[1,2]"])
def test_the_tokens_that_a_run_evaluates_are_known_beforehand(train_tiny, monkeypatch, tmp_path, final_tokens, lengths):
    read, prepared = [], []
    monkeypatch.setattr(trainer, "evaluate", lambda *a, **k: read.append(found := evaluate(*a, **k)) or found)
    monkeypatch.setattr(
        training_run, "prepare_matched", lambda *a, **k: prepared.append(run := prepare_matched(*a, **k)) or run
    )
    (tmp_path / "long.txt").write_text("".join(f"{n} bottles of {n * n}.\n" for n in range(300)))
    tokens = "eval.every=4", "eval.tokens=64", f"eval.final_tokens={final_tokens}", f"eval.lengths={lengths}"
    train_tiny(f"data.path={tmp_path / 'long.txt'}", "position=rope", *tokens)
    [run] = prepared
    assert run.evaluated_tokens == pytest.approx(sum(evaluation.n_tokens for evaluation in read), abs=2)


def test_every_block_is_scored_by_the_model(train_tiny, tmp_path):
    (tmp_path / "long.txt").write_text("".join(f"{n} bottles of {n * n}.\n" for n in range(300)))
    summary = train_tiny(f"data.path={tmp_path / 'long.txt'}", "tokenizer=byte", "eval.tokens=64")
    folder = Path(summary["run_dir"])
    model, dataset = open_model(folder).eval(), open_dataset(open_config(folder))
    text = torch.from_numpy(dataset.val.astype(np.int64))
    nats = np.zeros(32)
    for start in range(0, len(text) - 1, 16):  # one window at a time; the last is shorter
        x, y = text[start : start + 17][:-1], text[start : start + 17][1:]
        losses = F.cross_entropy(model(x[None])[0], y, reduction="none").detach()
        for i, loss in enumerate(losses.tolist()):
            nats[(start + 1 + i) * 32 // len(text)] += loss  # of bytes, the offset is the position
    assert summary["val/block_nats"] == pytest.approx(nats.tolist(), rel=1e-4)


def test_the_curve_is_measured_on_eval_tokens_and_the_summary_on_all(train_tiny, tmp_path):
    (tmp_path / "long.txt").write_text("".join(f"{n} bottles of {n * n}.\n" for n in range(300)))
    data = f"data.path={tmp_path / 'long.txt'}", "tokenizer=byte", "eval.every=2", "schedule.warmup=0"
    summary = train_tiny(*data, "eval.tokens=64")
    curve = [line["val/loss"] for line in read_metrics(summary["run_dir"]) if "val/loss" in line]
    again = train_tiny(*data, "eval.tokens=64", "eval.final_tokens=64")
    assert curve == [line["val/loss"] for line in read_metrics(again["run_dir"]) if "val/loss" in line]
    assert again["val/loss"] == curve[-1] != summary["val/loss"]
    assert summary["val/loss_min"] == again["val/loss_min"] == min(curve)
    whole = train_tiny(*data, "eval.tokens=null")
    assert whole["val/loss"] == pytest.approx(summary["val/loss"], rel=1e-9)


def test_only_windows_as_long_as_in_training_have_blocks(train_tiny):
    summary = train_tiny("position=rope", "eval.lengths=[1,2]")
    assert "val/loss_2x" in summary and not any("block" in key and "2x" in key for key in summary)
