"""However a sweep is ended, none of its processes goes on: no cell, no worker, no service of W&B."""

import os
import signal
import time

import pytest

from forked import GPTLAB, Started
from gptlab.runs.lock import state_of
from processes import MARK, left, wait_until_none_is_left
from tiny import TINY_RUN
from wandb_standin import standin

ENDLESS = ["budget.steps=1000000", "eval.every=1000000", "train.log_every=1", "train.checkpoint_every=20", "seed=0,1"]


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGINT))],
    ids=str,
)
def test_no_process_is_left_of_a_sweep_that_is_ended(number, text, tmp_path):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), MARK: str(tmp_path)}
    words = [word for word in TINY_RUN if not word.startswith("wandb")]
    with standin() as server:
        sweep = Started(
            *(GPTLAB, "sweep", *words, *text, *ENDLESS, "name=ended", "hydra.launcher.n_jobs=2"),
            cwd=tmp_path,
            env=clean | home | server.env,
        )
        deadline = time.monotonic() + 120
        while len([run for run in server.runs.values() if run.history]) < 2:
            assert sweep.poll() is None and time.monotonic() < deadline, sweep.communicate()
            time.sleep(0.1)
        assert sum("wandb-core" in line for line in left(str(tmp_path))) >= 2
        sweep.send_signal(number)
        sweep.wait(timeout=90)
        wait_until_none_is_left(str(tmp_path), 60)
    folders = list(tmp_path.glob("runs/ended/*/"))
    assert [state_of(folder) for folder in folders] == ["interrupted"] * 2
    assert all((folder / "checkpoint" / "last.safetensors").exists() for folder in folders)
