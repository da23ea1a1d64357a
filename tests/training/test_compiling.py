"""What torch.compile does in runs, with a backend that makes graphs without generating code."""

import functools
import json
from pathlib import Path

import pytest
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit

from gptlab.model import attention_kernels
from gptlab.model.attention_kernels import FLEX, ScoreRule
from gptlab.sweeps.job import run_cells
from gptlab.sweeps.launcher import encode
from gptlab.training import compiling

ARMS = ["norm=layernorm", "norm=rmsnorm", "ffn=swiglu", "position=rope", "placement=post", "qk_norm=rmsnorm"]


@pytest.fixture
def graphs_only(monkeypatch):
    """Let torch.compile trace functions without compiling what it finds."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    yield
    compiling._compiled_for.clear()
    torch._dynamo.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = False


def env(summary):
    return json.loads(Path(summary["run_dir"], "env.json").read_text())


def test_every_arm_of_a_process_is_compiled(train_tiny, graphs_only):
    """From the third arm on, Dynamo once ran models uncompiled."""
    summaries = [train_tiny("compile=true", "budget.steps=2", "size.n_layer=1", arm) for arm in ARMS[:4]]
    assert [s["compiled"] for s in summaries] == ["model"] * 4
    assert [s["compiled_graphs"] for s in summaries] == [2] * 4  # a training step: the stream, the loss
    assert {s["kernels"] for s in summaries} == {"scaled_dot_product_attention"}


@pytest.mark.slow
def test_many_seeds_of_an_arm_are_all_compiled(train_tiny, graphs_only):
    summaries = [train_tiny("compile=true", f"seed={seed}", "budget.steps=2") for seed in range(12)]
    assert all(s["compiled"] == "model" for s in summaries)
    assert sum(s["compiled_graphs"] for s in summaries) >= 2
    eager = train_tiny("compile=false", "seed=11", "budget.steps=2")
    assert eager["val/loss"] == pytest.approx(summaries[-1]["val/loss"], rel=1e-5)


def test_a_run_that_reaches_the_limit_fails(train_tiny, graphs_only, monkeypatch):
    monkeypatch.setattr(compiling, "MAX_VERSIONS", 1)
    with pytest.raises(FailOnRecompileLimitHit):
        train_tiny("compile=true", "train.loss_chunk=33")  # 64 tokens in two chunks of 32; then the rest
        train_tiny("compile=true", "train.loss_chunk=30")  # in chunks of 22 and 20: two versions of the loss


@pytest.mark.slow
def test_cells_of_a_job_are_all_compiled(text, tmp_path, graphs_only, monkeypatch):
    from omegaconf import OmegaConf

    from gptlab.runs.record import read_summary

    monkeypatch.chdir(tmp_path)
    words = [
        "size=tiny",
        "size.dim=16",
        "size.n_layer=1",
        *text,
        "data.window=16",
        "train.batch_size=4",
        "budget.steps=2",
    ]
    words += ["wandb.mode=disabled", "compile=true", "device=cpu", "precision=float32", "tokenizer=byte"]
    cells = encode([{"overrides": [*words, arm], "label": {"arm": arm, "name": arm}} for arm in ARMS[:5]])
    assert run_cells(OmegaConf.create({"cells": cells, "threads": None})) == [""] * 5
    summaries = [read_summary(p.parent) for p in tmp_path.glob("runs/*/*/summary.json")]
    assert [(s["compiled"], s["compiled_graphs"]) for s in summaries] == [("model", 2)] * 5


def test_a_model_that_loops_over_time_is_not_compiled(train_tiny, graphs_only):
    summary = train_tiny("compile=true", "model=rnn")
    assert (summary["compiled"], summary["compiled_graphs"]) == ("loss only", 1)
    assert env(summary)["compiled_why"] == "compile=true; the model loops over time, which torch.compile unrolls"


def test_the_record_says_why_a_run_is_not_compiled(train_tiny):
    summary = train_tiny()
    assert (summary["compiled"], summary["compiled_graphs"], summary["kernels"]) == (
        False,
        0,
        "scaled_dot_product_attention",
    )
    assert (env(summary)["compiled"], env(summary)["compiled_why"]) == (False, "compile=null, device=cpu")
    assert env(train_tiny("compile=false"))["compiled_why"] == "compile=false"


def test_evaluation_compiles_nothing(train_tiny, graphs_only):
    graphs = [
        train_tiny("compile=true", "position=rope", *words.split())["compiled_graphs"]
        for words in ("eval.every=100", "eval.every=1 eval.tokens=100", "eval.every=2 eval.lengths=[1,2,4]")
    ]
    assert graphs == [2, 0, 2]  # the second is the first's arm again


@pytest.mark.parametrize(
    ("rule", "D", "T_q", "kernel"),
    [
        ({"window": 4}, 16, 8, FLEX),
        ({"softcap": 2.0}, 64, 8, FLEX),
        ({"window": 4}, 8, 8, "scaled_dot_product_attention"),
        ({"softcap": 2.0}, 15, 8, "explicit"),
        ({"window": 4}, 64, 1, "scaled_dot_product_attention"),  # a step of generation with a cache
        ({}, 64, 8, "scaled_dot_product_attention"),
    ],
)
def test_on_a_gpu_flex_attention_computes_only_what_its_kernel_can(rule, D, T_q, kernel):
    class OnGPU:
        is_cuda, device, dtype, shape = True, torch.device("cuda"), torch.bfloat16, (2, 4, T_q, D)

    class Keys:
        shape = (2, 4, 8, D)

    assert attention_kernels._choose_kernel(OnGPU(), Keys(), ScoreRule(**rule), 0.0) == kernel


@pytest.mark.gpu
@pytest.mark.parametrize("arm", ["attention.window=4", "attention.softcap=2", "position=alibi"])
def test_narrow_heads_train_on_a_gpu(train_tiny, arm):
    assert train_tiny(arm, "device=cuda", "size.n_head=4", "compile=true")["state"] == "finished"


@pytest.mark.gpu
def test_flex_attention_stays_compiled_over_many_arms(train_tiny):
    for window in range(2, 14):
        words = f"size.dim=32 attention.window={window} attention.pattern=LG device=cuda compile=false"
        assert "flex_attention" in train_tiny(words)["kernels"]
