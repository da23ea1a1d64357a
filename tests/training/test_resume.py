"""A run that was killed and started again ends as one that never was: bit by bit."""

import signal
import time
from pathlib import Path

import pytest

from forked import GPTLAB, Started
from gptlab.runs.record import read_metrics, read_snapshots, read_status, read_summary

TIMES = ("seconds", "speed/tokens_per_s")


@pytest.fixture
def words(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} times {i} is {i * i}. " for i in range(600)))
    return [
        *("train", "size=tiny", "data=text", f"data.path={text}", "data.window=16", "train.batch_size=4"),
        *("train.dropout=0.1", "train.micro_batch_size=2", "budget.steps=120", "eval.every=40", "eval.tokens=500"),
        *("train.checkpoint_every=7", "train.log_every=3", "wandb.mode=disabled"),
        *("diagnostics=full", "diagnostics_every=5", "precision=float32"),
    ]


def start(words: list[str], runs: Path) -> Started:
    return Started(GPTLAB, *words, f"runs_dir={runs}")


def wait_for_step(process: Started, runs: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while not any(f'"step": {step},' in p.read_text() for p in runs.glob("*/*/metrics.jsonl")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.005)


def run_of(runs: Path) -> Path:
    (config,) = runs.glob("*/*/config.yaml")
    return config.parent


def without_times(lines: list[dict]) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def test_killed_twice_and_started_again_it_ends_bit_identical_and_is_not_run_again(words, tmp_path):
    whole = start(words, tmp_path / "whole")
    killed = tmp_path / "killed"
    for step, how, code, state in ((30, signal.SIGKILL, -9, "running"), (81, signal.SIGTERM, 143, "interrupted")):
        process = start(words, killed)
        wait_for_step(process, killed, step)
        process.send_signal(how)
        _, err = process.communicate()
        assert process.returncode == code, err
        assert read_status(run_of(killed))["state"] == state
    last = start(words, killed)
    out, err = last.communicate()
    assert last.returncode == 0 and "resumed  after step" in out, err
    assert whole.wait() == 0
    a, b = run_of(tmp_path / "whole"), run_of(killed)
    assert a.name == b.name
    for name in ("last", "best"):
        content = [_tensors(run / "checkpoint" / f"{name}.safetensors") for run in (a, b)]
        assert content[0] == content[1]
    assert without_times(read_metrics(a)) == without_times(read_metrics(b))
    assert without_times(read_snapshots(a)) == without_times(read_snapshots(b))
    assert [look["step"] for look in read_snapshots(b)] == [1, *range(5, 121, 5)]
    assert without_times([read_summary(a)]) == without_times([read_summary(b)])
    assert len((a / "sample.txt").read_bytes()) > 100
    assert (a / "sample.txt").read_bytes() == (b / "sample.txt").read_bytes()

    before = {p: p.stat().st_mtime_ns for p in b.rglob("*") if p.is_file()}
    again = start(words, killed)
    out, _ = again.communicate()
    assert again.returncode == 0 and "has ended already" in out
    assert {p: p.stat().st_mtime_ns for p in b.rglob("*") if p.is_file()} == before


def _tensors(path: Path) -> dict[str, bytes]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return {k: file.get_tensor(k).tobytes() for k in file.keys()}  # noqa: SIM118


def test_two_processes_do_not_write_one_run(words, tmp_path):
    runs = tmp_path / "runs"
    first = start([*words, "budget.steps=100000"], runs)
    wait_for_step(first, runs, 3)
    second = start([*words, "budget.steps=100000"], runs)
    _, err = second.communicate()
    first.kill()
    first.wait()
    assert second.returncode == 2 and "another process is running this" in err
