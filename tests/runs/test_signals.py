"""A signal stops a run between steps, and reaches its previous handler after the checkpoint was saved."""

import os
import signal

import pytest
from safetensors import safe_open

from gptlab.runs.record import read_metrics, read_status
from gptlab.runs.signals import Stopped
from gptlab.training.trainer import Trainer


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
