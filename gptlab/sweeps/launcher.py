"""Hydra's launchers, without Hydra's sweeper: they are handed jobs that are all checked, and only those left to run.

For a job Hydra composes no more than conf/sweep.yaml with the job's words in it; gptlab composes the rest in the job.
Even so a job takes a tenth of a second before it begins, so joblib's get several cells each where these are many.
"""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from joblib import cpu_count, effective_n_jobs
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from gptlab.config import CONF, ConfigError
from gptlab.config.compose import quoted

Launch = Callable[[list[list[str]]], list[str]]
SLURM = "submitit_slurm"
REQUEUED = [  # unless said otherwise, for a cell goes on from its checkpoint
    "hydra.launcher.max_num_timeout=10",  # an end to what gets nowhere in its time; submitit's own is the first one
    "+hydra.launcher.additional_parameters.requeue=true",  # SLURM may be set to do so only where it is asked to
]


JOBS = 32  # of a worker at the least: none waits long for the last one of another
MOST_CELLS = 16  # of a job; more would save next to nothing


class WorkerDied(Exception):
    """A worker was killed, by the system or a person; its neighbours fell with it."""


def prepare_launcher(
    overrides: list[str], folder: Path, job: Callable[[DictConfig], list[str]], *, n_cells: int, places: int = 0
) -> Launch:
    """The launcher that `hydra/launcher=...` chooses and `hydra.launcher.*` sets; by default joblib.

    It calls `job` for some cells at a time, whose lists of overrides are JSON in `cells`, waits for all, and returns
    for each cell the error that `job` returned, or "". WorkerDied if one of the processes is gone.

    n_cells   the most that there will ever be to run, so that a cell has as many threads when the sweep goes on
    places    on GPUs; joblib runs so many cells at once, or where there are none a cell per core
    """
    words = [f"hydra.sweep.dir={quoted(str(folder))}", *(REQUEUED if on_slurm(overrides) else []), *overrides]
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2("gptlab", create_config_search_path(str(CONF)))
    try:
        cfg = hydra.compose_config("sweep", words, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(cfg))
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=job, config=cfg)
    except (HydraException, OmegaConfBaseException) as e:
        reason = f"{e} {e.__cause__ or ''}".split("Config search path")[0]
        raise ConfigError(" ".join(f"{' '.join(overrides)}: {reason}".split())) from e
    own, workers = [], None  # words of every job
    if parallel := getattr(launcher, "joblib", None):  # JoblibLauncher's arguments for joblib.Parallel
        workers, threads = share_machine(parallel["n_jobs"], n_cells, places)
        parallel["n_jobs"] = workers
        own = [] if threads is None else [f"threads={threads}"]
        if threads and threads > 1:  # beside others, threads that wait spinning train 3 to 10 times slower
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a worker's OpenMP reads it as it starts

    def launch(cells: list[list[str]]) -> list[str]:
        jobs = share_cells(cells, workers)
        try:
            results = launcher.launch([[f"cells={quoted(json.dumps(job))}", *own] for job in jobs], initial_job_idx=0)
        except Exception as e:
            raise WorkerDied(one_line(e)) from e
        errors = [
            [one_line(r._return_value)] * len(job) if r.status == JobStatus.FAILED else r.return_value
            for job, r in zip(jobs, results, strict=True)
        ]
        return list(itertools.chain(*errors))

    return launch


def on_slurm(overrides: list[str]) -> bool:
    return any(w.startswith("hydra/launcher=") and SLURM in w for w in overrides)


def share_machine(n_jobs: int, n_cells: int, places: int) -> tuple[int, int | None]:
    """How many workers of joblib there are, and the threads of torch in each; None where one cell has this process.

    The cores are shared out, and no worker gets more threads than this process may have (OMP_NUM_THREADS): threads that
    outnumber the cores wait for each other.
    """
    if n_jobs == 0:
        raise ConfigError("hydra.launcher.n_jobs=0: must not be 0; -1 is a worker per core")
    if places and n_jobs > places:
        raise ConfigError(f"hydra.launcher.n_jobs={n_jobs}: the GPUs take {places} at once; sweep.per_gpu changes that")
    workers = min(n_cells, places if places and n_jobs == -1 else effective_n_jobs(n_jobs))
    return workers, max(1, min(torch.get_num_threads(), cpu_count() // workers)) if workers > 1 else None


def share_cells(cells: list[list[str]], workers: int | None) -> list[list[list[str]]]:
    """The cells of each job; one where it has a machine, and so a time limit, of its own."""
    n = 1 if workers is None else max(1, min(MOST_CELLS, len(cells) // (JOBS * workers)))
    return [cells[i : i + n] for i in range(0, len(cells), n)]


def one_line(e: BaseException) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())}"
