"""Hydra's launchers, without Hydra's sweeper: they are handed jobs that are all checked, and only those left to run.

For a job Hydra composes no more than conf/sweep.yaml with the job's words in it; gptlab composes the rest in the job.
"""

import json
from collections.abc import Callable
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from gptlab.compose import quoted
from gptlab.config import CONF, ConfigError

Launch = Callable[[list[list[str]]], list[str]]


class WorkerDied(Exception):
    """A worker was killed, by the system or a person; its neighbours fell with it."""


def prepare_launcher(overrides: list[str], folder: Path, job: Callable[[DictConfig], None]) -> Launch:
    """The launcher that `hydra/launcher=...` chooses and `hydra.launcher.*` sets; by default joblib, a worker per core.

    It calls `job` for each list of overrides, which the job finds as JSON in `cell`, waits for all, and returns for
    each the error that the job did not handle itself, or "". WorkerDied if one of the processes is gone.
    """
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2("gptlab", create_config_search_path(str(CONF)))
    try:
        words = [f"hydra.sweep.dir={quoted(str(folder))}", *overrides]
        cfg = hydra.compose_config("sweep", words, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(cfg))
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=job, config=cfg)
    except (HydraException, OmegaConfBaseException) as e:
        reason = f"{e} {e.__cause__ or ''}".split("Config search path")[0]
        raise ConfigError(" ".join(f"{' '.join(overrides)}: {reason}".split())) from e

    def launch(cells: list[list[str]]) -> list[str]:
        try:
            results = launcher.launch([[f"cell={quoted(json.dumps(cell))}"] for cell in cells], initial_job_idx=0)
        except Exception as e:
            raise WorkerDied(_error(e)) from e
        return [_error(r._return_value) if r.status == JobStatus.FAILED else "" for r in results]

    return launch


def _error(e: BaseException) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())}"
