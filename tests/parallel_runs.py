"""Runs one after the other: `run` in this process, `main` in each of several that are given a file JOBS.json.

JOBS.json lists [overrides, step after which the last process gets SIGTERM, or null]. What became of each is written
beside it, by each process into a file of its own.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from gptlab import load_config, train
from gptlab.runs.lock import Busy
from gptlab.training.trainer import Trainer


def run(words, stop_after=None):
    """Return the outcome: a state and a step, an exit code, or the exception."""
    own_step = Trainer.training_step

    def step_and_stop(trainer):
        own_step(trainer)
        if trainer.step == stop_after and trainer.processes.rank == trainer.processes.world - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    Trainer.training_step = step_and_stop
    try:
        summary = train(load_config(words), quiet=True)
    except SystemExit as e:
        return f"exit {e.code}"
    except (Busy, RuntimeError) as e:
        return f"{type(e).__name__}: {e}"
    finally:
        Trainer.training_step = own_step
    return f"{summary['state']} at step {summary.get('diverged_step', summary['step'])}"


def main():
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    if rank:  # a clock that goes too fast: were it asked, this process would end a budget of seconds too early
        perf_counter = time.perf_counter
        time.perf_counter = lambda: 1.5 * perf_counter()
    jobs = Path(sys.argv[1])
    became = [run(*job) for job in json.loads(jobs.read_text())]
    jobs.with_name(f"became{rank}.json").write_text(json.dumps(became))
