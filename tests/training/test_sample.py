"""The text that a run leaves in sample.txt: what it begins with, and that nothing else depends on it."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gptlab import load_config, train
from gptlab.model import attention_kernels
from gptlab.model.attention_kernels import ScoreRule, any_length
from gptlab.model.generate import generate
from gptlab.model.init import seed_number
from gptlab.runs.load import open_run
from gptlab.runs.record import read_metrics, read_status, read_summary

N = 40  # tokens: more than the window of 16 holds
NO_CACHE_PY = """
from torch import nn
from gptlab import register

@register("norm", "fails_alone")
class FailsAlone(nn.Module):
    '''A norm that cannot read one token.'''
    def __init__(self, dim: int):
        super().__init__()

    def forward(self, x):
        if x.shape[1] == 1:
            raise RuntimeError("on purpose")
        return x
"""


def sample_of(summary: dict) -> Path:
    return Path(summary["run_dir"], "sample.txt")


def train_and_tell(words: list[str], capsys) -> tuple[dict, str]:
    summary = train(load_config(words))
    return summary, capsys.readouterr().out


@pytest.fixture
def words(text, tmp_path, monkeypatch):
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    small = ["size=tiny", "size.dim=16", "size.n_layer=1", "size.n_head=2", "data.window=16", "train.batch_size=4"]
    run = ["budget.steps=4", "eval.tokens=100", "eval.final_tokens=100", "wandb.mode=disabled", "device=cpu"]
    return [*small, *run, *text, f"runs_dir={tmp_path / 'runs'}", f"eval.sample_tokens={N}"]


def test_it_is_what_the_trained_model_writes_after_a_line_break(words):
    summary = train(load_config([*words, "precision=float32", "seed=3"]), quiet=True)
    model, tokenizer = open_run(summary["run_dir"])  # the last weights are the best ones
    assert read_summary(summary["run_dir"])["val/loss_min"] == summary["val/loss"]
    tokens = generate(model, tokenizer.encode("\n").tolist(), N, seed=seed_number(3, "sample"))
    assert len(tokens) == 1 + N
    assert sample_of(summary).read_bytes().decode() == tokenizer.decode(tokens)


def test_where_no_token_is_a_line_break_it_begins_as_the_validation_text(words):
    summary = train(load_config([*words, "tokenizer=char"]), quiet=True)
    text = sample_of(summary).read_text()
    whole = "to be, or not to be: that is the question. " * 40
    assert len(text) == 1 + N
    assert text[0] == whole[int(0.9 * len(whole))]
    assert set(text) <= set(whole)  # no padding of the vocabulary


@pytest.mark.parametrize("precision", ["float32", "bf16", "bf16_weights"])
def test_nothing_else_depends_on_it(words, precision, tmp_path):
    """The same folder, losses and weights with any length, in one process after the other."""
    found = {}
    for n in ("null", "0", "7", str(N)):
        cfg = load_config([*words, "train.dropout=0.1", f"precision={precision}", f"eval.sample_tokens={n}"])
        summary = train(cfg, quiet=True)
        folder = Path(summary["run_dir"])
        files = [load_file(folder / "checkpoint" / f"{name}.safetensors") for name in ("best", "last")]
        weights = [{name: x.numpy().tobytes() for name, x in file.items()} for file in files]
        losses = [[value for key, value in line.items() if "/loss" in key] for line in read_metrics(folder)]
        kept = {k: v for k, v in summary.items() if k not in ("seconds", "speed/tokens_per_s")}
        found[n] = (kept, losses, weights)
        assert sample_of(summary).exists() == (n not in ("null", "0"))
        shutil.rmtree(folder)
    assert found["null"] == found["0"] == found["7"] == found[str(N)]


@pytest.mark.parametrize(
    "choice",
    [
        "model=bigram",
        "model=mlp model.context=3",
        "model=rnn",
        "model=rnn model.cell=lstm",
        "position=learned",
        "position=alibi attention.window=4",
        "norm=batchnorm norm.allow_leak=true",
        "compile=true precision=bf16",
        "diagnostics=full diagnostics_every=2",
    ],
)
def test_every_kind_of_model_writes(words, choice, monkeypatch):
    if "compile" in choice:
        monkeypatch.setattr(
            torch, "compile", lambda f, **_: f
        )  # what it does to the code that runs, without a compiler
    kept = words if "model=" not in choice else [w for w in words if not w.startswith(("size.n_head", "size.n_layer"))]
    summary = train(load_config([*kept, "tokenizer=char", *choice.split()]), quiet=True)
    assert len(sample_of(summary).read_text()) == 1 + N


def test_a_component_that_fails_while_writing_costs_one_line(words, own_registry, tmp_path, capsys):
    (tmp_path / "fails_alone.py").write_text(NO_CACHE_PY)
    summary, out = train_and_tell([*words, f"use={tmp_path / 'fails_alone.py'}", "norm=fails_alone"], capsys)
    [line] = [line for line in out.splitlines() if line.startswith("sample ")]
    assert line == "sample   none: norm=fails_alone: RuntimeError: on purpose (fails_alone.py:13)"
    assert read_status(summary["run_dir"])["state"] == "finished"
    assert not sample_of(summary).exists()


def test_tasks_and_diverged_runs_write_none(words, capsys):
    task = [w for w in words if not w.startswith("data")]
    summary, out = train_and_tell([*task, "data=copy"], capsys)
    assert summary["state"] == "finished" and "sample" not in out and not sample_of(summary).exists()
    diverging = [*words, "optimizer=sgd", "optimizer.lr=1e30", "train.grad_clip=null", "schedule.warmup=0"]
    summary, out = train_and_tell(diverging, capsys)
    assert summary["state"] == "diverged" and "sample" not in out and not sample_of(summary).exists()


def test_generation_on_a_gpu_compiles_no_kernel_for_its_many_lengths():
    class OnGPU:
        is_cuda, device, dtype, shape = True, torch.device("cuda"), torch.bfloat16, (1, 4, 8, 64)

    def chosen() -> str:
        return attention_kernels._choose_kernel(OnGPU(), OnGPU(), ScoreRule(window=4), 0.0)

    with any_length():
        assert chosen() == "scaled_dot_product_attention"
    assert chosen() == "flex_attention"
