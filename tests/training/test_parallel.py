"""Several processes train a run as one does: the same losses, one record, one kind of checkpoint, one end."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import parallel_runs
from forked import GPTLAB, Started
from gptlab import build_model, load_config
from gptlab.cli.main import main
from gptlab.config import ConfigError
from gptlab.distributed import ProcessGroup, find_processes
from gptlab.model.loss import NextTokenLoss
from gptlab.runs.folder import run_dir
from gptlab.runs.lock import locked
from gptlab.runs.record import read_metrics, read_status, read_summary
from gptlab.training.prepare import prepare
from gptlab.training.trainer import Trainer
from paths import ROOT

STEPS = 8
TINY = [
    *("size=tiny", "size.dim=16", "data=text", "data.path=text.txt", "data.window=16", "train.batch_size=4"),
    *("wandb.mode=disabled", "device=cpu", "precision=float32"),
]
# Every step is clipped and split in two, the loss in more; the last window of val is shorter, and alone in its batch.
WHOLE = [
    *TINY,
    *(f"budget.steps={STEPS}", "train.log_every=1", "train.micro_batch_size=2", "train.checkpoint_every=2"),
    *("eval.every=4", "eval.tokens=200", "eval.batch_size=3", "eval.lengths=[1,2]"),
    *("train.grad_clip=0.5", "train.loss_chunk=10", "head.z_loss=0.01", "position=rope", "schedule.warmup=0.05"),
]
SHORT = [*WHOLE, "budget.steps=4"]
FROM = [*SHORT, "train.init_from=start"]
MUON = [*SHORT, "optimizer=muon"]
LION = [*SHORT, "optimizer=lion", "norm=dyt", "train.loss_chunk=null"]
DIVERGES = [*WHOLE, "optimizer=sgd", "optimizer.lr=1e9", "train.grad_clip=null"]
SECONDS = [*SHORT, "budget.steps=null", "budget.seconds=0.5", "eval.every=100000"]
FAILS = [*SHORT, "use=fails.py", "norm=fails"]
FAILS_PY = """
import torch
from torch import nn
from gptlab import register

@register("norm", "fails")
class Fails(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.gain, self.calls = nn.Parameter(torch.ones(dim)), 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 5 and torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            raise RuntimeError("on purpose")
        return x * self.gain
"""
# In this order: folder, overrides, after which step SIGTERM comes to the last process, what becomes of it.
BY_ONE = [
    ("one", WHOLE, None, f"finished at step {STEPS}"),
    ("one-then-fsdp", WHOLE, 5, "exit 143"),
    ("one-diverges", DIVERGES, None, "diverged at step "),
    ("one-from", FROM, None, "finished at step 4"),
    ("one-muon", MUON, None, "finished at step 4"),
    ("one-lion", LION, None, "finished at step 4"),
]
BY_TWO = [
    ("ddp", WHOLE, None, f"finished at step {STEPS}"),
    ("fsdp", [*WHOLE, "parallel=fsdp"], None, f"finished at step {STEPS}"),
    ("one-then-fsdp", [*WHOLE, "parallel=fsdp"], None, f"finished at step {STEPS}"),
    ("ddp-then-one", WHOLE, 5, "exit 143"),
    ("fsdp-then-ddp-then-one", [*WHOLE, "parallel=fsdp"], 3, "exit 143"),
    ("fsdp-then-ddp-then-one", [*WHOLE, "parallel=ddp"], 6, "exit 143"),
    ("diverges", DIVERGES, None, "diverged at step "),
    ("from", [*FROM, "parallel=fsdp"], None, "finished at step 4"),
    ("muon", [*MUON, "parallel=fsdp"], None, "finished at step 4"),
    ("lion", [*LION, "parallel=fsdp"], None, "finished at step 4"),
    ("seconds", SECONDS, None, "finished at step "),
    ("busy", SHORT, None, "Busy: busy"),
    ("fails", FAILS, None, ""),  # in each its own way. The last: then the two are no longer together
]
BY_ONE_AGAIN = [
    ("ddp-then-one", WHOLE, None, f"finished at step {STEPS}"),
    ("fsdp-then-ddp-then-one", WHOLE, None, f"finished at step {STEPS}"),
]
ALL = ["ddp", "fsdp", "one-then-fsdp", "ddp-then-one", "fsdp-then-ddp-then-one"]  # that came to the end of WHOLE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "text.txt").write_text("".join(f"{i} times {i} is {i * i}. " for i in range(600)))
    (folder / "fails.py").write_text(FAILS_PY)
    with pytest.MonkeyPatch.context() as m:
        m.chdir(folder)
        m.setenv("GPTLAB_CACHE", str(folder / "cache"))
        m.setattr(sys, "path", sys.path.copy())
        yield folder


@pytest.fixture(scope="module")
def became(folder):
    """Return each process's account of the runs above."""
    alone = [run_alone(*run) for run in BY_ONE[:1]]
    Path("start").symlink_to(run_of("one"))
    alone += [run_alone(*run) for run in BY_ONE[1:]]
    Path("jobs.json").write_text(json.dumps([[[*words, f"runs_dir={name}"], stop] for name, words, stop, _ in BY_TWO]))
    with locked(run_dir(load_config([*SHORT, "runs_dir=busy"]))):
        for code, _, err in run_two("import parallel_runs; parallel_runs.main()", "jobs.json"):
            assert code == 0, err
    first, second = (json.loads(Path(f"became{rank}.json").read_text()) for rank in (0, 1))
    return {"alone": alone + [run_alone(*run) for run in BY_ONE_AGAIN], "first": first, "second": second}


def run_alone(name, words, stop, _):
    return parallel_runs.run([*words, f"runs_dir={name}"], stop)


def run_two(code, *words):
    """Run two processes with the variables that torchrun gives them; return exit code, stdout and stderr of each."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in (0, 1)]
    both = [Started(code, *words, env=os.environ | shared | rank) for rank in ranks]
    try:
        if both[0].wait(timeout=300):
            both[1].send_signal(signal.SIGTERM)  # as torchrun ends the others of a process that fails
        outputs = [process.communicate(timeout=300) for process in both]
    finally:
        for process in both:  # one that waits for the other forever
            process.end()
    return [(process.returncode, *output) for process, output in zip(both, outputs, strict=True)]


def run_of(name):
    (config,) = Path(name).glob("*/*/config.yaml")
    return config.parent


def curve(name, key="train/loss"):
    return [line[key] for line in read_metrics(run_of(name)) if key in line]


@pytest.mark.parametrize("who", ["alone", "first", "second"])
def test_of_every_run_became_what_was_to_become_of_it(who, became):
    expected = [run[-1] for run in (BY_ONE + BY_ONE_AGAIN if who == "alone" else BY_TWO)]
    assert [outcome[: len(e)] for outcome, e in zip(became[who], expected, strict=True)] == expected


@pytest.mark.parametrize("key", ["train/loss", "train/grad_norm", "val/loss", "val/bpb", "val/loss_2x"])
@pytest.mark.parametrize("name", ALL)
def test_two_processes_or_now_one_and_now_two_give_the_curve_of_one(name, key, became):
    assert curve(name, key) == pytest.approx(curve("one", key), abs=1e-5)
    assert min(curve("one", "train/grad_norm")) > 0.5  # else nothing was clipped


def test_rank_0_writes_the_sample_unless_the_processes_hold_shards(became):
    assert len(Path(run_of("ddp"), "sample.txt").read_bytes()) > 100
    assert not Path(run_of("fsdp"), "sample.txt").exists()


@pytest.mark.parametrize("name", ALL)
def test_there_is_one_record_with_each_step_once(name, became):
    lines = read_metrics(run_of(name))
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines if "val/loss" in line] == [4, 8]
    assert read_status(run_of(name))["state"] == "finished"
    assert run_of(name).name == run_of("one").name


@pytest.mark.parametrize("name", ALL)
def test_the_blocks_of_the_final_evaluation_are_those_of_one_process(name, became):
    one, several = read_summary(run_of("one")), read_summary(run_of(name))
    for key in ("val/block_tokens", "val/block_bytes"):
        assert sum(one[key]) > 1000 and several[key] == one[key]
    assert several["val/block_nats"] == pytest.approx(one["val/block_nats"], rel=1e-4)


@pytest.mark.parametrize("file", ["last", "best"])
@pytest.mark.parametrize("name", ALL)
def test_the_checkpoint_is_that_of_one_process(name, file, became):
    a, b = (load_file(run_of(n) / f"checkpoint/{file}.safetensors") for n in ("one", name))
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "tolerance"), [("from", 1e-5), ("lion", 1e-5), ("muon", 1e-3)])  # Muon is in bf16
def test_in_parts_a_start_from_weights_and_other_optimizers_give_the_curve_of_one(name, tolerance, became):
    assert curve(name) == pytest.approx(curve(f"one-{name}"), abs=tolerance)
    assert abs(curve(name)[-1] - curve("one")[3]) > 0.01


def test_two_processes_diverge_at_the_step_at_which_one_does(became):
    at = [read_summary(run_of(name))["diverged_step"] for name in ("diverges", "one-diverges")]
    assert at[0] == at[1] > 1


def test_a_budget_in_seconds_ends_for_both_by_the_first_ones_clock(became):
    i = [name for name, *_ in BY_TWO].index("seconds")
    assert became["first"][i] == became["second"][i]
    assert 0.5 <= read_summary(run_of("seconds"))["seconds"] < 1.5


def test_the_end_of_a_process_that_fails_ends_the_other(became):
    assert became["first"][-1].startswith("RuntimeError: ")  # the connection was closed
    assert became["second"][-1] == "ComponentError: norm=fails: RuntimeError: on purpose (fails.py:15)"
    assert read_status(run_of("fails"))["state"] == "failed"


def test_a_mistake_is_told_once_and_the_exit_code_is_2(folder):
    first, second = run_two(GPTLAB, "train", *TINY, "train.batch_size=3", "runs_dir=wrong")
    assert first[::2] == (2, "gptlab: train.batch_size=3: must be a multiple of the 2 processes; set 4\n")
    assert second[0] in (2, -signal.SIGTERM) and first[2] not in second[2]  # SIGTERM may come before it knows
    assert not Path("wrong").exists()


def test_sigterm_leaves_a_checkpoint_and_an_interrupted_run(folder):
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "gptlab"]
    words += ["train", *TINY, "budget.steps=1000000", "train.log_every=1", "runs_dir=killed"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, env=environment)
    deadline = time.monotonic() + 200
    try:
        while not list(Path("killed").glob("*/*/metrics.jsonl")) or not curve("killed"):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=200)
    finally:
        process.terminate()
    assert read_status(run_of("killed"))["state"] == "interrupted"
    assert (run_of("killed") / "checkpoint/last.safetensors").exists()


@pytest.mark.parametrize(
    ("world", "words", "line"),
    [
        (2, "train.batch_size=5", "train.batch_size=5: must be a multiple of the 2 processes; set 6"),
        (4, "train.batch_size=8 train.micro_batch_size=2", "train.micro_batch_size=2: must be a multiple of the 4"),
        (1, "parallel=fsdp", "parallel=fsdp: there is one process; start several with `torchrun"),
        (1, "parallel=ddp", "parallel=ddp: there is one process; start several with `torchrun"),
    ],
)
def test_what_cannot_be_divided_is_refused(world, words, line, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    with pytest.raises(ConfigError, match=line):
        find_processes(load_config(words.split()))


def test_only_a_training_takes_several_processes(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as caught:
        main(["sweep", "seed=0,1"])
    assert caught.value.code == 2 and "sweep: runs in one process" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cuda:0", "mps"])
def test_several_processes_take_a_gpu_each(device):
    with pytest.raises(ConfigError, match=f"device={device}: "), ProcessGroup(0, 2, "ddp").joined(torch.device(device)):
        pass


def test_a_number_without_a_dimension_is_not_taken_in_parts():
    model = build_model(load_config(["size=tiny"]))
    model.head.temperature = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ConfigError, match=r"parallel=fsdp: head\.temperature has no dimension"):
        ProcessGroup(0, 2, "fsdp").wrap(NextTokenLoss(model, None), torch.device("cpu"))


def test_each_process_has_its_rows_and_its_own_dropout(folder):
    """On a text of one repeated line, two processes differ only in their dropout masks."""
    Path("a.txt").write_text("a" * 2000)

    def loss(rank, dropout):
        cfg = load_config([*TINY, "data.path=a.txt", "data.window=4", f"train.dropout={dropout}"])
        trainer = Trainer(dataclasses.replace(prepare(cfg), processes=ProcessGroup(rank, 2)))
        trainer.training_step()
        return float(trainer.losses)

    assert loss(0, 0.0) == loss(1, 0.0)
    assert loss(0, 0.5) == loss(0, 0.5) != loss(1, 0.5)
    rows = [ProcessGroup(rank, 2).rows(torch.arange(5)).tolist() for rank in (0, 1)]
    assert sorted(sum(rows, [])) == [0, 1, 2, 3, 4]
