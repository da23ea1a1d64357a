"""Small probes: an option of `data` that is a Task makes tokens from a seed instead of reading a text.

What a step trains on depends on (seed, step) alone, as with a text. The validation examples have a stream of their own,
the same for every run. A task has its own vocabulary, and targets only at the places where it asks something.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from gptlab.config import AnyConfig, ConfigError
from gptlab.data.batches import on_device, stream

if TYPE_CHECKING:  # listing the data options must not cost the import of torch
    import torch
    from torch import Tensor

FORMAT = 1  # raise it when the same settings come to give other examples
UNCOUNTED = -100  # a target that has no part in any loss: torch's own ignore_index
VALIDATION = 2**64 - 1  # stands where a run's seed does: no run has that one


class Examples(NamedTuple):
    """N rows of T + 1 tokens, and of each row's T predictions what they are."""

    tokens: np.ndarray  # (N, T + 1) int64
    counts: np.ndarray  # (N, T) bool: the prediction of the token after this place has a part in loss and accuracy
    slices: np.ndarray  # (N, T) int64, places in Task.slices: the difficulty
    floor: np.ndarray  # (N, T) nats that whoever knows the rule still loses here; 0 where it decides the token


class Tally(NamedTuple):
    """Sums over the predicted tokens that count, by slice and by place in the window: (slices, T) float64 each."""

    nats: np.ndarray
    hits: np.ndarray  # those whose likeliest token was the right one
    floor: np.ndarray  # nats
    n: np.ndarray


class Task(ABC):
    """What a class registered as `data` is to be, if it makes tokens itself. T is the window."""

    makes_tokens: ClassVar[bool] = True  # has its own vocabulary and reads neither a text nor a tokenizer
    vocab_size: int  # tokens
    train_on: str = "answers"  # or all: every token is a target in training, in validation those that count
    score: ClassVar[str] = "accuracy"  # or excess: nats per token above the floor; reported of each slice

    @abstractmethod
    def slices(self, window: int) -> list[str]:
        """Names of the difficulties, such as pairs-8. ConfigError for a window that is too short for them."""

    @abstractmethod
    def training(self, rng: np.random.Generator, n: int, window: int) -> Examples:
        """A step's n rows. As many predictions count in each as in any other, so that a mean over micro batches, or
        over processes, is the mean over the step's predictions."""

    @abstractmethod
    def validation(self, rng: np.random.Generator, n: int, window: int) -> Examples:
        """n rows or a few more, the same number of every difficulty."""


class TaskBatches:
    """The batches of a run: B = batch_size examples of T = window tokens a step."""

    def __init__(self, task: Task, window: int, batch_size: int, seed: int, device: "torch.device | None" = None):
        self.task, self.window, self.batch_size, self.seed, self.device = task, window, batch_size, seed, device

    def batch(self, step: int) -> "tuple[Tensor, Tensor]":
        """Inputs and targets of a step, on the device: (B, T), (B, T) int64."""
        examples = self.task.training(stream(self.seed, step), self.batch_size, self.window)
        return on_device(*_pair(examples, everything=self.task.train_on == "all"), self.device)


@dataclass(frozen=True)
class TaskDataset:
    """A task in the place of a text's Dataset."""

    task: Task
    hash: str  # of all that examples depend on beside the seed and the window
    tokenizer: ClassVar[None] = None

    @property
    def vocab_size(self) -> int:
        return self.task.vocab_size

    @property
    def metrics(self) -> tuple[str, ...]:
        return "val/loss", f"val/{self.task.score}"

    def describe(self) -> str:
        return f"made anew at every step; vocabulary {self.vocab_size:,}"

    def train_batches(
        self, window: int, batch_size: int, seed: int, sampling: str, device: "torch.device | None" = None
    ) -> TaskBatches:
        return TaskBatches(self.task, window, batch_size, seed, device)

    def slices(self, window: int) -> list[str]:
        return self.task.slices(window)

    def validation_batches(self, window: int, batch_size: int, n_tokens: int | None) -> "Iterator[tuple[Tensor, ...]]":
        """Inputs, targets, slices and floors of about n_tokens tokens: (B, T) each."""
        import torch

        assert n_tokens is not None, "open_task refuses it"
        examples = self.task.validation(stream(VALIDATION, window), -(-n_tokens // window), window)
        columns = *_pair(examples), torch.from_numpy(examples.slices), torch.from_numpy(examples.floor)
        yield from zip(*(column.split(batch_size) for column in columns), strict=True)

    def measure(self, tally: Tally) -> dict[str, float]:
        """val/loss in nats per token that counts; val/accuracy or val/excess, of all and of each slice that has some.

        A text's bits per byte have no meaning here.
        """
        sums = tally.nats - tally.floor if self.task.score == "excess" else tally.hits
        names = dict(enumerate(self.slices(tally.n.shape[1])))
        by_slice = {
            f"val/{self.task.score}_{name}": float(sums[i].sum() / tally.n[i].sum())
            for i, name in names.items()
            if tally.n[i].any()
        }
        n = tally.n.sum()
        return {"val/loss": float(tally.nats.sum() / n), f"val/{self.task.score}": float(sums.sum() / n)} | by_slice


def open_task(task: Task, cfg: AnyConfig) -> TaskDataset:
    """Refuses what has no say with a task, and windows that are too short for it."""
    name = cfg.data.name
    unused = [("tokenizer", cfg.tokenizer.name, "byte"), ("data.sampling", cfg.data.sampling, "random")]
    for place, value, default in [*unused, ("data.val_fraction", cfg.data.val_fraction, 0.1)]:
        if value != default:
            rule = f"has no say with data={name}, which makes its own tokens"
            raise ConfigError(f"{place}={value}: {rule}; leave it at {place}={default}")
    if cfg.eval.tokens is None:
        raise ConfigError(f"eval.tokens=null: data={name} has no end; say how many tokens to validate on")
    for length in cfg.eval.lengths:
        task.slices(length * cfg.data.window)
    described = repr((FORMAT, name, sorted(vars(task).items())))
    return TaskDataset(task, hashlib.sha256(described.encode()).hexdigest())


def _pair(examples: Examples, everything: bool = False) -> "tuple[Tensor, Tensor]":
    """Inputs, and targets that are UNCOUNTED where nothing is asked, unless `everything` counts: (N, T) int64 each."""
    import torch

    x, y = examples.tokens[:, :-1], examples.tokens[:, 1:]
    y = y if everything else np.where(examples.counts, y, UNCOUNTED)
    return torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.ascontiguousarray(y))
