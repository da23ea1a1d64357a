"""A signal stops a run between steps, and reaches its previous handler after the checkpoint was saved."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from forked import GPTLAB, Started
from gptlab.runs.record import read_metrics, read_status
from gptlab.runs.signals import Stopped
from gptlab.training.trainer import Trainer


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """Undo that SIGINT is ignored, as in the background of a script, which processes started here would inherit."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def signals_at_step_3(monkeypatch):
    """Sends itself the given signals within the third step of a run."""

    def send(*numbers):
        step = Trainer.training_step

        def training_step(self):
            step(self)
            if self.step == 3:
                for number in numbers:
                    os.kill(os.getpid(), number)

        monkeypatch.setattr(Trainer, "training_step", training_step)

    return send


@pytest.fixture
def listening():
    """Installs a handler and takes it away after the test."""
    before = {}

    def listen(number, handler):
        before[number] = signal.signal(number, handler)

    yield listen
    for number, handler in before.items():
        signal.signal(number, handler)


def saved_step(runs) -> str:
    (last,) = runs.glob("*/*/checkpoint/last.safetensors")
    with safe_open(last, "pt") as file:
        return file.metadata()["progress"]


def run_folder(tmp_path):
    (folder,) = (tmp_path / "runs").glob("*/*/")
    return folder


def test_a_scheduler_is_called_after_the_save_and_sets_the_exit_code(
    train_tiny, tmp_path, signals_at_step_3, listening
):
    told = []

    def requeue_and_exit(number, frame):
        told.append((number, saved_step(tmp_path / "runs")))
        raise SystemExit(144)

    listening(signal.SIGUSR2, requeue_and_exit)
    signals_at_step_3(signal.SIGUSR2)
    with pytest.raises(Stopped) as stopped:
        train_tiny()
    assert stopped.value.code == 144
    ((number, progress),) = told
    assert number == signal.SIGUSR2 and '"step": 3' in progress
    status = read_status(run_folder(tmp_path))
    assert (status["state"], status["reason"]) == ("interrupted", "SIGUSR2")
    assert train_tiny()["state"] == "finished"
    steps = [line["step"] for line in read_metrics(run_folder(tmp_path)) if "train/loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_handler_that_ignores_a_signal_lets_the_run_go_on(train_tiny, tmp_path, signals_at_step_3, listening):
    saved = []
    listening(signal.SIGTERM, lambda *_: saved.append(saved_step(tmp_path / "runs")))
    signals_at_step_3(signal.SIGTERM)
    assert train_tiny()["state"] == "finished"
    (progress,) = saved
    assert '"step": 3' in progress


def test_two_signals_in_one_step_are_both_passed_on(train_tiny, signals_at_step_3, listening):
    told = []
    listening(signal.SIGTERM, lambda number, _: told.append(number))
    listening(signal.SIGUSR2, lambda number, _: told.append(number))
    signals_at_step_3(signal.SIGTERM, signal.SIGUSR2)
    assert train_tiny()["state"] == "finished"
    assert sorted(told) == sorted([signal.SIGTERM, signal.SIGUSR2])


def test_sigterm_without_a_handler_ends_the_run_and_the_handlers_are_restored(train_tiny, tmp_path, signals_at_step_3):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR2)]
    signals_at_step_3(signal.SIGTERM)
    with pytest.raises(Stopped) as stopped:
        train_tiny()
    assert stopped.value.code == 143 and '"step": 3' in saved_step(tmp_path / "runs")
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR2)] == before


def test_a_scheduler_that_gives_up_fails_the_run_with_its_reason(train_tiny, tmp_path, signals_at_step_3, listening):
    def give_up(*_):
        raise RuntimeError("timed out too many times")

    listening(signal.SIGUSR2, give_up)
    signals_at_step_3(signal.SIGUSR2)
    with pytest.raises(RuntimeError):
        train_tiny()
    status = read_status(run_folder(tmp_path))
    assert (status["state"], status["reason"]) == ("failed", "RuntimeError: timed out too many times")
    assert '"step": 3' in saved_step(tmp_path / "runs")  # `sweep --retry` goes on from there


def test_ctrl_c_saves_a_checkpoint_and_raises(train_tiny, tmp_path, signals_at_step_3):
    before = signal.getsignal(signal.SIGINT)
    signals_at_step_3(signal.SIGINT, signal.SIGINT)  # the terminal's and torchrun's
    with pytest.raises(KeyboardInterrupt):
        train_tiny()
    assert signal.getsignal(signal.SIGINT) == before and '"step": 3' in saved_step(tmp_path / "runs")
    status = read_status(run_folder(tmp_path))
    assert (status["state"], status["reason"]) == ("interrupted", "SIGINT")
    assert train_tiny()["state"] == "finished"
    steps = [line["step"] for line in read_metrics(run_folder(tmp_path)) if "train/loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_ctrl_c_is_ignored_where_it_was_ignored_before(train_tiny, signals_at_step_3, listening):
    listening(signal.SIGINT, signal.SIG_IGN)  # as after nohup
    signals_at_step_3(signal.SIGINT)
    assert train_tiny()["state"] == "finished"


FOREVER = "size=tiny data=text data.path=text.txt data.window=16 train.batch_size=2 budget.steps=1000000"
FOREVER += " train.log_every=1 eval.tokens=64 device=cpu precision=float32 wandb.mode=disabled diagnostics=none"


def started(words: str, tmp_path, n_runs: int) -> Started:
    """Start a command in a process group of its own, and return it when `n_runs` runs are training."""
    (tmp_path / "text.txt").write_text("to be, or not to be: that is the question. " * 40)
    process = Started(GPTLAB, *words.split(), *FOREVER.split(), cwd=tmp_path)
    deadline = time.monotonic() + 120
    while sum(len(f.read_text().splitlines()) > 3 for f in tmp_path.glob("runs/*/*/metrics.jsonl")) < n_runs:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    return process


def test_ctrl_c_in_a_terminal_says_where_the_run_goes_on(tmp_path):
    process = started("train", tmp_path, 1)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    step = json.loads(saved_step(tmp_path / "runs"))["step"]
    assert f"saved    after step {step:,}; the same command goes on from there" in out
    assert err == "gptlab: interrupted; the same command goes on, from a checkpoint if there is one\n"


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_in_a_sweep_lets_every_worker_save(tmp_path, whole_group):
    process = started("sweep seed=0,1 hydra.launcher.n_jobs=2", tmp_path, 2)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err and "every cell saves a checkpoint" in err
    folders = list(tmp_path.glob("runs/*/*/"))
    for folder in (f for f in folders if (f / "status.json").exists()):
        status, last = read_status(folder), read_metrics(folder)[-1]["step"]
        assert (status["state"], status["reason"]) == ("interrupted", "SIGINT")
        with safe_open(folder / "checkpoint/last.safetensors", "pt") as file:
            assert json.loads(file.metadata()["progress"])["step"] == last
        assert not is_alive(status["pid"])


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    process = started("train use=slow.py ffn=slow", tmp_path, 0)
    while not (tmp_path / "slow").exists():
        time.sleep(0.05)
    for _ in range(2):
        time.sleep(1)
        os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, out + err
    assert not list(tmp_path.glob("runs/*/*/checkpoint/last*"))


SLOW = '''
import time
from pathlib import Path
from gptlab.config.registry import register
from gptlab.model.ffn import GELU

@register("ffn", "slow")
class Slow(GELU):
    """An FFN that takes a minute."""

    def forward(self, x):
        if list(Path("runs").glob("*/*/status.json")):  # in a step of training
            Path("slow").touch()
            time.sleep(60)
        return super().forward(x)
'''
