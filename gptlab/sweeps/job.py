"""A job of a launcher, often in a process of its own: some cells of a sweep, trained one after the other."""

import functools
import os
import signal
import threading
import time
import traceback
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from omegaconf import DictConfig

from gptlab.config.compose import load_config
from gptlab.runs.lock import Busy
from gptlab.runs.run_label import RunLabel
from gptlab.runs.signals import Stopped
from gptlab.sweeps.cell import note_failure
from gptlab.sweeps.ctrl_c import stopped_worker_waits
from gptlab.sweeps.gpu_slots import gpu_slot
from gptlab.sweeps.launcher import decode, one_line
from gptlab.training.device import choose_device
from gptlab.training.prepare import Memo, folder_of, match_to_baseline
from gptlab.training.train import train_matched

SECONDS_BETWEEN_LOOKS = 1.0  # at the parent
SECONDS_TO_SAVE = 60.0  # for the end of the step and the checkpoint


def run_cells(job: DictConfig, per_gpu: int | None = None, notes: str | None = None) -> list[str]:
    """Run a job of a launcher: some cells, one after the other.

    Args:
        job: `cells` is what `encode` has made of `CellSpec.for_job` of each cell.
        per_gpu: see run_cell.
        notes: the question of the sweep, for the trackers of its runs.

    Returns:
        For each cell, the error that could not be recorded in its folder, or an empty string.
    """
    if job.threads is not None:
        torch.set_num_threads(job.threads)
        _end_with_parent()
    errors = []
    memo = Memo()
    in_worker = job.threads is not None
    with stopped_worker_waits() if in_worker else nullcontext():
        for cell in decode(job.cells):
            try:
                label = RunLabel(**cell["label"], notes=notes)
                run_cell(cell["overrides"], label, per_gpu, memo, stops_worker=in_worker)
                errors.append("")
            except Exception as e:
                errors.append(one_line(e))
    return errors


@functools.cache  # one watch for each worker, which runs many jobs
def _end_with_parent() -> None:
    """Stop this worker, as SIGTERM does, once the sweep that started it is gone, however that was ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        os.kill(os.getpid(), signal.SIGTERM)  # a run saves its checkpoint first
        time.sleep(SECONDS_TO_SAVE)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def run_cell(overrides: list[str], label: RunLabel, per_gpu: int | None, memo: Memo, *, stops_worker: bool) -> None:
    """Train one cell; its output goes to log.txt in its run folder, its outcome to status.json.

    Args:
        overrides: those of the cell.
        label: what a tracker says of the run.
        per_gpu: the number of slots of a GPU, of which the cell takes one; None if the GPU is its own.
        memo: the results of preparing earlier cells.
        stops_worker: whether a stopped cell ends this process, which would otherwise run the next job.
    """
    cfg, match = match_to_baseline(load_config(overrides), memo)
    folder = folder_of(cfg, memo)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        open(folder / "log.txt", "a", encoding="utf-8", buffering=1) as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        try:
            with gpu_slot(str(choose_device(cfg).device), per_gpu, Path(cfg.runs_dir) / ".gpus"):
                train_matched(cfg, match, job_type=cfg.phase or "sweep", memo=memo, label=label)
        except Busy as e:
            print(e)
        except Stopped as e:
            if stops_worker:
                os._exit(128 + e.number)
            raise
        except Exception as e:
            traceback.print_exc()
            note_failure(folder, f"{type(e).__name__}: {e}")
