"""Hydra's launchers without its sweeper: they get only the jobs that are left to run, all of them checked.

Hydra composes no more than conf/sweep.yaml for a job; gptlab composes the cells inside it. Starting a job still takes
a tenth of a second, so a job of joblib has several cells if there are many, or if one worker runs them all.
"""

import base64
import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from joblib import cpu_count, effective_n_jobs
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from gptlab.config import CONF, ConfigError
from gptlab.config.overrides import quoted

T = TypeVar("T")
Launch = Callable[[Sequence[Any]], list[str]]
SLURM = "submitit_slurm"
REQUEUED = [  # defaults on SLURM, because a cell continues from its checkpoint
    "hydra.launcher.max_num_timeout=10",  # requeue after up to ten timeouts; submitit gives up at the first
    "+hydra.launcher.additional_parameters.requeue=true",  # some clusters requeue only jobs that ask for it
]
MIN_JOBS_PER_WORKER = 32  # so that no worker waits long for the last job of another
MAX_CELLS_PER_JOB = 16  # more would save next to nothing


class WorkerDied(Exception):
    """A worker was killed, by the system or a person, and its neighbours were stopped with it."""


def prepare_launcher(
    settings: list[str], folder: Path, job: Callable[[DictConfig], list[str]], *, n_cells: int, n_slots: int = 0
) -> Launch:
    """Return a function that runs cells with the launcher that `settings` choose; by default joblib.

    The function takes the cells, each as what JSON can hold, waits for all of them, and returns for each the error that
    `job` returned, or an empty string. It raises WorkerDied if one of its processes has died.

    Args:
        settings: `hydra/launcher=...` and `hydra.launcher.*`, as typed.
        folder: where the launcher keeps its own files.
        job: run in the launcher's process on some cells; `cells` of its config is what `encode` returned.
        n_cells: the largest number of cells to run; it keeps the threads of a cell the same when an interrupted
            sweep continues with fewer cells.
        n_slots: the slots on GPUs, which are the cells that joblib runs at once; 0: a cell per core.

    Raises:
        ConfigError: Hydra refuses the settings.
    """
    launcher = _open_launcher(settings, folder, job)
    job_settings: list[str] = []
    workers = None
    if parallel := getattr(launcher, "joblib", None):  # the arguments of joblib.Parallel in Hydra's JoblibLauncher
        workers, threads = share_machine(parallel["n_jobs"], n_cells, n_slots)
        parallel["n_jobs"] = workers
        job_settings = [] if threads is None else [f"threads={threads}"]
        if threads and threads > 1:  # threads that wait spinning make cells side by side 3 to 10 times slower
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a worker's OpenMP reads it when it starts

    def launch(cells: Sequence[Any]) -> list[str]:
        jobs = share_cells(cells, workers)
        job_overrides = [[f"cells={quoted(encode(job))}", *job_settings] for job in jobs]
        try:
            results = launcher.launch(job_overrides, initial_job_idx=0)
        except Exception as e:
            raise WorkerDied(one_line(e)) from e
        pairs = zip(jobs, results, strict=True)
        return list(itertools.chain(*(_errors(result, len(job)) for job, result in pairs)))

    return launch


def find_workers(settings: list[str], folder: Path, *, n_cells: int, n_slots: int) -> tuple[int, int | None] | None:
    """Return the number of cells that run at once, and torch's threads in each; None if other machines run them.

    The arguments are those of prepare_launcher, and so is the ConfigError.
    """
    parallel = getattr(_open_launcher(settings, folder, lambda cfg: []), "joblib", None)
    return share_machine(parallel["n_jobs"], n_cells, n_slots) if parallel else None


def encode(cells: Sequence[Any]) -> str:
    """Return what JSON can hold of some cells as letters that neither Hydra's grammar nor OmegaConf gives a meaning."""
    return base64.urlsafe_b64encode(json.dumps(cells).encode()).decode()


def decode(text: str) -> list[Any]:
    """Return what `encode` was given."""
    cells: list[Any] = json.loads(base64.urlsafe_b64decode(text))
    return cells


def _open_launcher(settings: list[str], folder: Path, job: Callable[[DictConfig], list[str]]) -> Any:
    """Compose conf/sweep.yaml with the settings, and make the launcher that it names."""
    overrides = [f"hydra.sweep.dir={quoted(str(folder))}", *(REQUEUED if on_slurm(settings) else []), *settings]
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2("gptlab", create_config_search_path(str(CONF)))
    try:
        cfg = hydra.compose_config("sweep", overrides, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(cfg))
        return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=job, config=cfg)
    except (HydraException, OmegaConfBaseException) as e:
        reason = f"{e} {e.__cause__ or ''}".split("Config search path")[0]
        raise ConfigError(" ".join(f"{' '.join(settings)}: {reason}".split())) from e


def _errors(result: JobReturn, n_cells: int) -> list[str]:
    """Return the errors of a job's cells, or the job's own error for each of them."""
    if result.status == JobStatus.FAILED:
        return [one_line(result._return_value)] * n_cells
    errors: list[str] = result.return_value
    return errors


def on_slurm(settings: list[str]) -> bool:
    """Return whether the settings choose SLURM, whose devices this machine may lack."""
    return any(text.startswith("hydra/launcher=") and SLURM in text for text in settings)


def share_machine(n_jobs: int, n_cells: int, n_slots: int) -> tuple[int, int | None]:
    """Return the number of joblib's workers, and torch's threads in each; None if the cells run in this process.

    The cores are divided among the workers, and none gets more threads than this process may use (OMP_NUM_THREADS):
    threads that outnumber the cores wait for each other.
    """
    if n_jobs == 0:
        raise ConfigError("hydra.launcher.n_jobs=0: must not be 0; -1 is a worker per core")
    if n_slots and n_jobs > n_slots:
        raise ConfigError(
            f"hydra.launcher.n_jobs={n_jobs}: the GPUs run {n_slots} cells at once; sweep.per_gpu changes that"
        )
    workers = min(n_cells, n_slots if n_slots and n_jobs == -1 else effective_n_jobs(n_jobs))
    return workers, max(1, min(torch.get_num_threads(), cpu_count() // workers)) if workers > 1 else None


def share_cells(cells: Sequence[T], workers: int | None) -> list[Sequence[T]]:
    """Return the cells of each job. If `workers` is None, each job has its own machine, and a single cell."""
    n = 1
    if workers == 1:  # no other waits for it
        n = MAX_CELLS_PER_JOB
    elif workers is not None:
        n = max(1, min(MAX_CELLS_PER_JOB, len(cells) // (MIN_JOBS_PER_WORKER * workers)))
    return [cells[i : i + n] for i in range(0, len(cells), n)]


def one_line(e: BaseException) -> str:
    """Return an exception's type and message on one line."""
    return f"{type(e).__name__}: {' '.join(str(e).split())}"
