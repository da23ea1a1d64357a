"""The run that is timed: what `gptlab train` would prepare, without its run's folder."""

from collections.abc import Sequence

from gptlab.config import ConfigError
from gptlab.config.compose import load_config
from gptlab.data import Dataset
from gptlab.training.prepare import PreparedRun
from gptlab.training.prepare import prepare as prepare_run


def prepare(overrides: Sequence[str]) -> PreparedRun:
    """Prepare a run on a text, with diagnostics off unless `overrides` ask for them.

    Diagnostics are taken at few steps, so a median over the steps would hide their cost.
    """
    asked = any(override.startswith("diagnostics=") for override in overrides)
    run = prepare_run(load_config([*overrides, *([] if asked else ["diagnostics=none"])]))
    if not isinstance(run.dataset, Dataset):
        raise ConfigError(f"data={run.cfg.data.name}: bench reads a text; choose one, such as data=pystdlib")
    return run
