"""The files of a run: nothing logged is lost, nothing is half-written, and the outcome is always recorded."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gptlab.files import write_json
from gptlab.runs.environment import environment, git_state
from gptlab.runs.record import Recorder, read_metrics, read_status, read_summary, write_run_files
from gptlab.runs.signals import Stopped
from gptlab.runs.trackers import RunInfo
from gptlab.runs.wandb_tracker import WandbSettings
from paths import TESTS


def recorder(run_dir: Path, resume_step: int | None = None) -> Recorder:
    settings = WandbSettings("disabled", run_dir.parent)
    return Recorder(run_dir, config={}, settings=settings, info=RunInfo("name", "group"), resume_step=resume_step)


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Stands in for a full disk: a write beyond `size` bytes is cut off there and raises OSError."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def steps(run_dir: Path) -> list[float]:
    return [line["step"] for line in read_metrics(run_dir)]


def test_a_finished_run(tmp_path):
    with recorder(tmp_path) as record:
        assert read_status(tmp_path)["state"] == "running"
        record.log({"step": 1, "tokens": 768, "train/loss": 4.25})
        assert read_metrics(tmp_path) == [{"step": 1, "tokens": 768, "train/loss": 4.25}]
        record.finish("finished", {"val/loss": 4.0})
    status = read_status(tmp_path)
    assert (status["state"], status["reason"], status["pid"]) == ("finished", None, os.getpid())
    assert status["started"] <= status["updated"]
    assert read_summary(tmp_path) == {"val/loss": 4.0}


def test_divergence_is_an_outcome_and_nan_is_kept(tmp_path):
    with recorder(tmp_path) as record:
        record.log({"step": 1, "train/loss": math.nan, "train/grad_norm": math.inf})
        record.finish("diverged", {"val/loss": math.nan}, reason="train/loss is nan at step 1")
    [line] = read_metrics(tmp_path)
    assert math.isnan(line["train/loss"])
    assert line["train/grad_norm"] == math.inf
    assert math.isnan(read_summary(tmp_path)["val/loss"])
    status = read_status(tmp_path)
    assert (status["state"], status["reason"]) == ("diverged", "train/loss is nan at step 1")


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (RuntimeError("out of\n  memory"), "failed", "RuntimeError: out of memory"),
        (KeyboardInterrupt(), "interrupted", "SIGINT"),
        (Stopped(signal.SIGTERM, 143), "interrupted", "SIGTERM"),
        (SystemExit("stop"), "interrupted", "exit stop"),
    ],
)
def test_an_exception_is_recorded_and_raised_again(tmp_path, error, state, reason):
    with pytest.raises(type(error)), recorder(tmp_path) as record:
        record.log({"step": 1})
        raise error
    assert (read_status(tmp_path)["state"], read_status(tmp_path)["reason"]) == (state, reason)
    assert steps(tmp_path) == [1]
    assert read_summary(tmp_path) == {}


def test_an_error_after_finish_does_not_change_the_outcome(tmp_path):
    with pytest.raises(BrokenPipeError), recorder(tmp_path) as record:
        record.finish("finished", {"val/loss": 4.0})
        raise BrokenPipeError
    assert read_status(tmp_path)["state"] == "finished"


def test_leaving_without_an_outcome_is_refused(tmp_path):
    with pytest.raises(AssertionError, match="finish"), recorder(tmp_path):
        pass


def test_kill_9_loses_no_line(tmp_path):
    script = """
import os, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_record import recorder
with recorder(Path(sys.argv[1])) as record:
    for step in range(1, 101):
        record.log({"step": step})
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path, TESTS, TESTS / "runs"], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert steps(tmp_path) == list(range(1, 101))
    assert read_status(tmp_path)["state"] == "running"


def interrupted_after(run_dir: Path, last: int, torn: str = "") -> None:
    with pytest.raises(KeyboardInterrupt), recorder(run_dir) as record:
        for step in range(1, last + 1):
            record.log({"step": step, "train/loss": 1 / step})
        raise KeyboardInterrupt
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(torn)


def test_a_resumed_run_ends_with_the_same_file_as_one_never_killed(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    interrupted_after(whole, 9)
    interrupted_after(resumed, 5, torn='{"step": 6, "train/lo')
    before = read_status(resumed)
    assert steps(resumed) == [1, 2, 3, 4, 5]
    with recorder(resumed, resume_step=3) as record:
        assert steps(resumed) == [1, 2, 3]
        for step in range(4, 10):
            record.log({"step": step, "train/loss": 1 / step})
        record.finish("finished", {})
    assert (resumed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert read_status(resumed)["wandb_id"] == before["wandb_id"]
    assert read_status(resumed)["started"] == before["started"]


def test_a_run_started_from_scratch_keeps_nothing_of_the_previous_one(tmp_path):
    with recorder(tmp_path) as record:
        record.log({"step": 1})
        record.finish("finished", {"val/loss": 4.0})
    before = read_status(tmp_path)
    with recorder(tmp_path) as record:
        assert read_metrics(tmp_path) == []
        assert read_summary(tmp_path) == {}
        record.finish("finished", {})
    assert read_status(tmp_path)["wandb_id"] != before["wandb_id"]


def test_a_full_disk_is_a_failed_run_whose_lines_stay_readable(tmp_path):
    with files_limited_to(4096), pytest.raises(OSError, match="metrics.jsonl"), recorder(tmp_path) as record:
        for step in range(1, 1000):
            record.log({"step": step})
    status = read_status(tmp_path)
    assert status["state"] == "failed"
    assert status["reason"].startswith("OSError: [Errno 27] File too large: ")
    assert steps(tmp_path) == list(range(1, len(steps(tmp_path)) + 1))
    assert (tmp_path / "metrics.jsonl").stat().st_size == 4096


def test_a_disk_too_full_for_the_status_still_raises_the_first_error(tmp_path):
    with ExitStack() as stack, pytest.raises(OSError, match="metrics.jsonl"), recorder(tmp_path) as record:
        stack.enter_context(files_limited_to(0))
        record.log({"step": 1})
    assert read_status(tmp_path)["state"] == "running"


def test_a_reader_never_sees_a_half_written_file(tmp_path):
    path = tmp_path / "status.json"
    write_json(path, {"state": "running"})
    with path.open() as reader:
        write_json(path, {"state": "finished"})
        assert json.load(reader) == {"state": "running"}
    assert json.loads(path.read_text()) == {"state": "finished"}


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"val/loss": 1.0})
    with pytest.raises(TypeError):
        write_json(path, {"val/loss": object()})
    with files_limited_to(4096), pytest.raises(OSError):
        write_json(path, {"long": "x" * 10_000})
    assert json.loads(path.read_text()) == {"val/loss": 1.0}
    assert list(tmp_path.iterdir()) == [path]


def test_run_files_hold_config_overrides_environment_and_code(tmp_path):
    own = tmp_path / "my_norms.py"
    own.write_text("# café\n", encoding="utf-8")
    run_dir = tmp_path / "runs" / "demo" / "arm-1"
    write_run_files(run_dir, "seed: 1\n", ["norm=rmsnorm", "seed=1"], {"python": "3.11"}, {own.name: own.read_bytes()})
    assert (run_dir / "config.yaml").read_text() == "seed: 1\n"
    assert (run_dir / "overrides.txt").read_text() == "norm=rmsnorm\nseed=1\n"
    assert json.loads((run_dir / "env.json").read_text()) == {"python": "3.11"}
    assert (run_dir / "components" / "my_norms.py").read_bytes() == own.read_bytes()


def test_environment_names_versions_machine_and_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outside = environment("sha256:abc")
    assert outside["git"] is None
    assert outside["data_hash"] == "sha256:abc"
    assert {"gptlab", "torch", "numpy", "hydra-core", "wandb"} <= outside["packages"].keys()
    assert outside["cpu"]
    json.dumps(outside)

    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "file").write_text("one")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"]):
        subprocess.run(git + command, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    git_state.cache_clear()  # as in another process
    assert environment(None)["git"] == {"commit": commit, "dirty": False}
    (tmp_path / "file").write_text("two")
    assert environment(None)["git"] == {"commit": commit, "dirty": False}  # what was imported is that commit
    git_state.cache_clear()
    assert environment(None)["git"] == {"commit": commit, "dirty": True}
