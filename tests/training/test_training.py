"""The training loop: what a step does, and what comes of a run."""

import math
from pathlib import Path

import pytest
import torch

from gptlab.config import ConfigError, registry
from gptlab.config.compose import load_config
from gptlab.files import write_json
from gptlab.runs.folder import run_dir
from gptlab.runs.record import read_metrics, read_status, read_summary
from gptlab.training.prepare import prepare
from gptlab.training.train import train
from gptlab.training.trainer import Trainer

TINY = [
    "size=tiny",
    "data=text",
    "data.window=16",
    "train.batch_size=4",
    "eval.tokens=200",
    "eval.final_tokens=200",
    "wandb.mode=disabled",
]


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("".join(f"{i} and {i + 1} are {2 * i + 1}. " for i in range(400)))
    return [*TINY, "data.path=text.txt", "precision=float32"]  # whatever this machine is fastest at


def trainer_of(words: list[str]) -> Trainer:
    return Trainer(prepare(load_config(words)))


def run_folder(tmp_path):
    (folder,) = tmp_path.glob("runs/default/*/")
    return folder


def test_a_run_learns_and_its_folder_tells_everything(words, tmp_path):
    summary = train(load_config([*words, "budget.steps=60", "eval.every=20", "tokenizer=char"]), quiet=True)
    assert summary["state"] == "finished" and summary["val/loss"] < summary["train/loss_initial"] - 0.3
    folder = run_folder(tmp_path)
    assert str(folder.relative_to(tmp_path)) == summary["run_dir"]
    names = {p.name for p in folder.iterdir()}
    assert {"config.yaml", "overrides.txt", "env.json", "metrics.jsonl", "summary.json", "status.json"} <= names
    assert read_summary(folder)["val/loss"] == summary["val/loss"] and read_status(folder)["state"] == "finished"
    lines = read_metrics(folder)
    assert [line["step"] for line in lines if "val/loss" in line] == [20, 40, 60]
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 10, 20, 30, 40, 50, 60]
    assert lines[-1]["tokens"] == 60 * 4 * 16
    assert summary["ln_vocab"] == pytest.approx(math.log(len(set((tmp_path / "text.txt").read_text()))))
    assert lines[-1]["val/loss"] == summary["val/loss"] and summary["val/loss_min"] <= summary["val/loss"]


def test_bits_per_byte_is_loss_over_bytes(words):
    summary = train(load_config([*words, "budget.steps=2", "tokenizer=byte"]), quiet=True)
    assert summary["val/bpb"] == pytest.approx(summary["val/loss"] / math.log(2))


def test_micro_batches_give_the_gradient_of_the_whole_batch(words):
    whole, split = trainer_of(words), trainer_of([*words, "train.micro_batch_size=1"])
    for _ in range(3):
        whole.training_step()
        split.training_step()
    assert float(split.losses) == pytest.approx(float(whole.losses), rel=1e-6)
    for a, b in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_clipping_bounds_the_gradient_and_null_leaves_it(words):
    free, clipped = trainer_of([*words, "train.grad_clip=null"]), trainer_of([*words, "train.grad_clip=0.01"])
    for trainer in (free, clipped):
        for optimizer in trainer.optimizers:
            optimizer.zero_grad = lambda: None  # keep the gradients to look at
        trainer.training_step()
    norms = [float(torch.nn.utils.get_total_norm([p.grad for p in t.model.parameters()])) for t in (free, clipped)]
    assert norms[0] == pytest.approx(float(free.grad_norm)) and norms[0] > 0.1
    assert norms[1] == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_not_finite_is_an_outcome_with_its_step(words, tmp_path):
    summary = train(load_config([*words, "optimizer=sgd", "optimizer.lr=1e9", "train.grad_clip=null"]), quiet=True)
    assert summary["state"] == "diverged" and 2 <= summary["diverged_step"] <= 20
    assert summary["val/loss"] is None and summary["parameters"] > 0
    assert read_status(run_folder(tmp_path))["state"] == "diverged"
    again = train(load_config([*words, "optimizer=sgd", "optimizer.lr=1e9", "train.grad_clip=null"]), quiet=True)
    assert again["diverged_step"] == summary["diverged_step"] and again["state"] == "diverged"


def test_the_initial_loss_is_told_beside_ln_v_with_a_warning_when_far_off(words, capsys):
    train(load_config([*words, "budget.steps=1"]))
    assert "initial loss 5.5" in (out := capsys.readouterr().out) and "ln V = 5.5452" in out and "warning" not in out
    train(load_config([*words, "budget.steps=1", "init=torch"]))
    assert "warning: initial loss" in capsys.readouterr().out


def test_a_budget_in_seconds_ends_by_the_clock(words):
    summary = train(load_config([*words, "budget.seconds=0.5", "eval.every=1000000"]), quiet=True)
    assert summary["state"] == "finished" and 0.5 <= summary["seconds"] < 2 and summary["step"] > 1


@pytest.mark.parametrize("precision", ["bf16", "bf16_weights"])
def test_bf16_trains_close_to_float32(words, precision):
    losses = [
        train(load_config([*words, "budget.steps=20", f"precision={p}"]), quiet=True)["val/loss"]
        for p in ("float32", precision)
    ]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.03)  # 2.3 % on a CPU with AMX


@pytest.mark.slow
def test_a_compiled_model_trains_as_the_eager_one(words):
    losses = [
        train(load_config([*words, "budget.steps=5", f"compile={c}"]), quiet=True)["val/loss"]
        for c in ("false", "true")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_vocabulary_may_be_padded_but_not_cut(words):
    assert train(load_config([*words, "budget.steps=1", "model.vocab_size=320"]), quiet=True)["state"] == "finished"
    with pytest.raises(ConfigError, match="model.vocab_size=100"):
        train(load_config([*words, "model.vocab_size=100"]), quiet=True)


def test_overrides_txt_gives_the_config_again(words, tmp_path):
    given = [*words, "budget.steps=1", "bias=false", "ffn=swiglu", "train.grad_clip=null", "optimizer.lr=3e-4"]
    train(load_config(given), quiet=True)
    again = (run_folder(tmp_path) / "overrides.txt").read_text().splitlines()
    assert run_dir(load_config(again)).name == run_folder(tmp_path).name


def test_a_run_on_a_text_that_was_replaced_starts_anew_in_another_folder(words, tmp_path):
    cfg = load_config([*words, "budget.steps=4", "eval.every=2"])
    train(cfg, quiet=True)
    first = run_folder(tmp_path)
    write_json(first / "status.json", read_status(first) | {"state": "running"})  # as if it had been killed
    (tmp_path / "text.txt").write_text("another text " * 200)
    second = Path(train(cfg, quiet=True)["run_dir"])
    assert second != first and read_metrics(second)[0]["step"] == 1
    assert read_status(first)["state"] == "running"


INITS = [name for name in registry.names("init") if name != "torch"]


@pytest.mark.parametrize("head", ["head.tied=true", "head.tied=false"])
@pytest.mark.parametrize("init", [*INITS, "torch"])
def test_only_a_start_that_is_far_off_is_warned_of(init, head, words, capsys):
    train(load_config([*words, "budget.steps=1", f"init={init}", head, "size.dim=128", "tokenizer=byte"]))
    warned = "warning: initial loss" in capsys.readouterr().out
    assert warned == (init == "torch" and head == "head.tied=true")
