"""The run that is timed: what `gptlab train` would prepare, without its run's folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gptlab.config import AnyConfig, ConfigError
from gptlab.config.compose import load_config
from gptlab.data import Dataset
from gptlab.training.budget import Plan, make_plan
from gptlab.training.device import Machine, choose_machine, keep_freed_memory
from gptlab.training.train import fair, open_dataset, with_vocabulary
from gptlab.training.trainer import Trainer


@dataclass(frozen=True)
class Subject:
    """A prepared run."""

    cfg: AnyConfig  # complete: `match` and the vocabulary's size are settled
    budget: Plan
    device: Machine
    dataset: Dataset

    def trainer(self) -> Trainer:
        """Build the trainer."""
        if self.device.device.type == "cpu":
            keep_freed_memory()
        trainer = Trainer(self.cfg, self.budget, self.device, self.dataset)
        trainer.objective.train()
        return trainer

    @property
    def micro_batch_size(self) -> int:
        """Windows per forward pass."""
        return self.cfg.train.micro_batch_size or self.cfg.train.batch_size

    @property
    def n_micro_batches(self) -> int:
        """Forward passes per optimizer step."""
        return self.cfg.train.batch_size // self.micro_batch_size


def prepare(overrides: Sequence[str]) -> Subject:
    """Prepare a run on a text, with diagnostics off unless `overrides` ask for them.

    Snapshots are taken at few steps, so that a median would hide their cost.

    Raises:
        ConfigError: `gptlab train` would refuse the overrides, or the data are a task and not a text.
    """
    asked = any(override.startswith("diagnostics=") for override in overrides)
    cfg = load_config([*overrides, *([] if asked else ["diagnostics=none"])])
    machine = choose_machine(cfg)
    dataset = open_dataset(cfg)
    if not isinstance(dataset, Dataset):
        raise ConfigError(f"data={cfg.data.name}: bench reads a text; choose one, such as data=pystdlib")
    full = with_vocabulary(fair(cfg, dataset)[0], dataset)
    return Subject(full, make_plan(full), machine, dataset)


def step_of(trainer: Trainer) -> Callable[[], None]:
    """Return a function that does a step as the training loop does it, with the snapshots that are due."""

    def step() -> None:
        trainer.watch.before_step(trainer.step + 1)
        trainer.training_step()
        if trainer.watch.due(trainer.step):
            trainer.watch.take()

    return step
