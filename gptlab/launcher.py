"""Hydra's launchers, without Hydra's sweeper: they are handed jobs that are all checked, and only those left to run.

For a job Hydra composes no more than conf/sweep.yaml with the job's words in it; gptlab composes the rest in the job.
"""

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

from gptlab.compose import quoted
from gptlab.config import CONF, ConfigError

Launch = Callable[[list[list[str]]], list[str]]
SLURM = "submitit_slurm"
REQUEUED = [  # unless said otherwise, for a cell goes on from its checkpoint
    "hydra.launcher.max_num_timeout=10",  # an end to what gets nowhere in its time; submitit's own is the first one
    "+hydra.launcher.additional_parameters.requeue=true",  # SLURM may be set to do so only where it is asked to
]


class WorkerDied(Exception):
    """A worker was killed, by the system or a person; its neighbours fell with it."""


def prepare_launcher(
    overrides: list[str], folder: Path, job: Callable[[DictConfig], None], *, n_cells: int, places: int = 0
) -> Launch:
    """The launcher that `hydra/launcher=...` chooses and `hydra.launcher.*` sets; by default joblib.

    It calls `job` for each list of overrides, which the job finds as JSON in `cell`, waits for all, and returns for
    each the error that the job did not handle itself, or "". WorkerDied if one of the processes is gone.

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
    own = []  # words of every job
    if parallel := getattr(launcher, "joblib", None):  # JoblibLauncher's arguments for joblib.Parallel
        parallel["n_jobs"], threads = share_machine(parallel["n_jobs"], n_cells, places)
        own = [] if threads is None else [f"threads={threads}"]
        if threads and threads > 1:  # where others take a core too, threads that wait spinning train a tenth as fast
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a worker's OpenMP reads it as it starts

    def launch(cells: list[list[str]]) -> list[str]:
        try:
            results = launcher.launch([[f"cell={quoted(json.dumps(c))}", *own] for c in cells], initial_job_idx=0)
        except Exception as e:
            raise WorkerDied(_error(e)) from e
        return [_error(r._return_value) if r.status == JobStatus.FAILED else "" for r in results]

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


def _error(e: BaseException) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())}"
