"""Hydra's launchers, without Hydra's sweeper: they are handed jobs that are all checked, and only those left to run.

For a job Hydra composes no more than conf/sweep.yaml with the job's words in it; gptlab composes the rest in the job.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
REQUEUES = 10  # of a cell whose time is up: it goes on from its checkpoint, so that this guards against standing still


class WorkerDied(Exception):
    """A worker was killed, by the system or a person; its neighbours fell with it."""


def prepare_launcher(
    overrides: list[str], folder: Path, job: Callable[[DictConfig], None], *, n_cells: int = 1, places: int = 0
) -> Launch:
    """The launcher that `hydra/launcher=...` chooses and `hydra.launcher.*` sets; by default joblib.

    It calls `job` for each list of overrides, which the job finds as JSON in `cell`, waits for all, and returns for
    each the error that the job did not handle itself, or "". WorkerDied if one of the processes is gone.

    n_cells   the most that there will ever be to run, so that a cell has as many threads when the sweep goes on
    places    on GPUs; joblib runs so many cells at once, or where there are none a cell per core
    """
    words = [f"hydra.sweep.dir={quoted(str(folder))}", *overrides]
    if on_slurm(overrides):
        words.insert(0, f"hydra.launcher.max_num_timeout={REQUEUES}")
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2("gptlab", create_config_search_path(str(CONF)))
    try:
        cfg = hydra.compose_config("sweep", words, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(cfg))
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=job, config=cfg)
    except (HydraException, OmegaConfBaseException) as e:
        reason = f"{e} {e.__cause__ or ''}".split("Config search path")[0]
        raise ConfigError(" ".join(f"{' '.join(overrides)}: {reason}".split())) from e
    parallel = getattr(launcher, "joblib", None)  # JoblibLauncher's arguments of joblib.Parallel
    threads = None if parallel is None else _share_machine(parallel, n_cells, places)

    def launch(cells: list[list[str]]) -> list[str]:
        own = [] if threads is None else [f"threads={threads}"]
        try:
            results = launcher.launch([[f"cell={quoted(json.dumps(c))}", *own] for c in cells], initial_job_idx=0)
        except Exception as e:
            raise WorkerDied(_error(e)) from e
        return [_error(r._return_value) if r.status == JobStatus.FAILED else "" for r in results]

    return launch


def on_slurm(overrides: list[str]) -> bool:
    return any(w.startswith("hydra/launcher=") and SLURM in w for w in overrides)


def _share_machine(parallel: dict[str, Any], n_cells: int, places: int) -> int | None:
    """Set how many workers there are; returns the threads of torch in each, None where the one cell has this process.

    The cores are shared out, and never more threads each than this process may have (OMP_NUM_THREADS): two workers of
    two threads each on two cores do not train half as fast but a quarter, waiting for each other.
    """
    asked = parallel["n_jobs"]
    if asked == 0:
        raise ConfigError("hydra.launcher.n_jobs=0: must not be 0; -1 is a worker per core")
    if places and asked > places:
        raise ConfigError(f"hydra.launcher.n_jobs={asked}: the GPUs take {places} at once; sweep.per_gpu changes that")
    workers = min(n_cells, places if places and asked == -1 else effective_n_jobs(asked))
    parallel["n_jobs"] = workers
    return max(1, min(torch.get_num_threads(), cpu_count() // workers)) if workers > 1 else None


def _error(e: BaseException) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())}"
