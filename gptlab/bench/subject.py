"""What is timed: the Trainer that `gptlab train` would make, without its run's folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from gptlab.config import ConfigError
from gptlab.config.compose import load_config
from gptlab.data import Dataset
from gptlab.training.budget import Plan, make_plan
from gptlab.training.device import Machine, choose_machine, keep_freed_memory
from gptlab.training.train import fair, open_dataset, with_vocabulary
from gptlab.training.trainer import Trainer


@dataclass(frozen=True)
class Subject:
    cfg: DictConfig  # complete, as `match` and the text's vocabulary make it
    plan: Plan
    machine: Machine
    dataset: Dataset

    def trainer(self) -> Trainer:
        if self.machine.device.type == "cpu":
            keep_freed_memory()
        trainer = Trainer(self.cfg, self.plan, self.machine, self.dataset)
        trainer.objective.train()
        return trainer

    @property
    def micro(self) -> int:
        """Windows in a forward pass."""
        return self.cfg.train.micro_batch_size or self.cfg.train.batch_size

    @property
    def n_micro(self) -> int:
        """Forward passes in a step."""
        return self.cfg.train.batch_size // self.micro


def step_of(trainer: Trainer) -> Callable[[], None]:
    """A step as the training loop has it, with the looks inside that the config asks for."""

    def step() -> None:
        trainer.watch.before_step(trainer.step + 1)
        trainer.training_step()
        if trainer.watch.due(trainer.step):
            trainer.watch.take()

    return step


def prepare(overrides: Sequence[str]) -> Subject:
    """The text is tokenised by then; looks inside are off unless asked for. Raises ConfigError as `gptlab train` does.

    A look is seldom, so that a median would hide it.
    """
    asked = any(word.startswith("diagnostics=") for word in overrides)
    cfg = load_config([*overrides, *([] if asked else ["diagnostics=none"])])
    machine = choose_machine(cfg)
    dataset = open_dataset(cfg)
    if not isinstance(dataset, Dataset):
        raise ConfigError(f"data={cfg.data.name}: bench reads a text; choose one, such as data=pystdlib")
    full = with_vocabulary(fair(cfg, dataset)[0], dataset)
    return Subject(full, make_plan(full), machine, dataset)
