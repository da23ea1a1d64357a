"""The run that is timed: what `gptlab train` would prepare, without its run's folder."""

from collections.abc import Callable, Sequence

from gptlab.config import ConfigError
from gptlab.config.compose import load_config
from gptlab.data import Dataset
from gptlab.training.prepare import PreparedRun
from gptlab.training.prepare import prepare as prepare_run
from gptlab.training.trainer import Trainer


def prepare(overrides: Sequence[str]) -> PreparedRun:
    """Prepare a run on a text, with diagnostics off unless `overrides` ask for them.

    Diagnostics are taken at few steps, so a median over the steps would hide their cost.
    """
    asked = any(override.startswith("diagnostics=") for override in overrides)
    run = prepare_run(load_config([*overrides, *([] if asked else ["diagnostics=none"])]))
    if not isinstance(run.dataset, Dataset):
        raise ConfigError(f"data={run.cfg.data.name}: bench reads a text; choose one, such as data=pystdlib")
    return run


def step_of(trainer: Trainer) -> Callable[[], None]:
    """Return a function that does a step as the training loop does it, diagnostics included."""

    def step() -> None:
        trainer.watch.before_step(trainer.step + 1)
        trainer.training_step()
        if trainer.watch.due(trainer.step):
            trainer.watch.take()

    return step
