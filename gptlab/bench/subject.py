"""What is timed: the Trainer that `gptlab train` would make, without its run's folder."""

from omegaconf import DictConfig

from gptlab.data import Dataset
from gptlab.plan import Machine, Plan, choose_machine, make_plan
from gptlab.run import fair, open_dataset, with_vocabulary
from gptlab.trainer import Trainer


def prepare(cfg: DictConfig) -> tuple[DictConfig, Plan, Machine, Dataset]:
    """What a Trainer is made of; the text is tokenised by then. Raises ConfigError as `gptlab train` does."""
    machine = choose_machine(cfg)
    dataset = open_dataset(cfg)
    full = with_vocabulary(fair(cfg, dataset)[0], dataset)
    return full, make_plan(full), machine, dataset


def open_trainer(full: DictConfig, plan: Plan, machine: Machine, dataset: Dataset) -> Trainer:
    trainer = Trainer(full, plan, machine, dataset)
    trainer.model.train()
    return trainer
