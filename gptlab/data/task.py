"""Synthetic tasks: an option of `data` that is a Task makes tokens from a seed instead of reading a text.

The examples of a training step depend on (seed, step) alone, as with a text. The validation examples have a stream of
their own, the same for every run. A task has its own vocabulary, and targets only at the positions where it asks
something.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from gptlab.config import ConfigError, Settings
from gptlab.config.overrides import typed
from gptlab.data.batches import N_BLOCKS, UNCOUNTED, Blocks, ValidationBatch, on_device, stream

if TYPE_CHECKING:  # listing the data options must not cost the import of torch
    import torch
    from torch import Tensor

EXAMPLES_FORMAT = 1  # raise it when the same settings give other examples
VALIDATION = 2**64 - 1  # takes the place of a run's seed; no run has this one


class Examples(NamedTuple):
    """N rows of T + 1 tokens, and facts about each of a row's T predictions."""

    tokens: np.ndarray  # (N, T + 1) int64
    counts: np.ndarray  # (N, T) bool: whether the prediction after this position counts in loss and accuracy
    slices: np.ndarray  # (N, T) int64: the difficulty, as an index into Task.slices
    floor: np.ndarray  # (N, T) nats that a model which knows the rule still loses here; 0 if the rule decides the token


class Tally(NamedTuple):
    """Sums over the predictions that count, by slice and by position in the window: (slices, T) float64 each."""

    nats: np.ndarray
    hits: np.ndarray  # predictions whose likeliest token was the right one
    floor: np.ndarray  # nats
    n: np.ndarray


class Task(ABC):
    """The base class of a class registered as `data` that makes its own tokens. T is the window."""

    makes_tokens: ClassVar[bool] = True  # has its own vocabulary and reads neither a text nor a tokenizer
    vocab_size: int  # tokens
    train_on: str = "answers"  # "all" makes every token a target in training; validation counts answers only
    score: ClassVar[str] = "accuracy"  # or "excess", nats per token above the floor; reported for each slice

    @abstractmethod
    def slices(self, window: int) -> list[str]:
        """Return the names of the difficulties, such as pairs-8; ConfigError if the window is too short for them."""

    @abstractmethod
    def training(self, rng: np.random.Generator, n: int, window: int) -> Examples:
        """Return the n rows of a step.

        The same number of predictions counts in every row, so that a mean over micro batches, or over ranks, is the
        mean over the step's predictions.
        """

    @abstractmethod
    def validation(self, rng: np.random.Generator, n: int, window: int) -> Examples:
        """Return n rows or a few more, the same number of every difficulty."""


class TaskBatches:
    """The batches of a run: B = batch_size examples of T = window tokens per step."""

    def __init__(self, task: Task, window: int, batch_size: int, seed: int, device: "torch.device | None" = None):
        self.task, self.window, self.batch_size, self.seed, self.device = task, window, batch_size, seed, device

    def batch(self, step: int) -> "tuple[Tensor, Tensor]":
        """Return inputs and targets of a step, on the device: (B, T), (B, T) int64."""
        examples = self.task.training(stream(self.seed, step), self.batch_size, self.window)
        x, y = _pair(examples, all_count=self.task.train_on == "all")
        return on_device(x, self.device), on_device(y, self.device)


@dataclass(frozen=True)
class TaskDataset:
    """A task with the interface of a text's Dataset."""

    task: Task
    hash: str  # over everything that examples depend on besides the seed and the window
    tokenizer: ClassVar[None] = None
    content: ClassVar[dict[str, str]] = {}  # its settings say everything

    @property
    def vocab_size(self) -> int:
        return self.task.vocab_size

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics that `metrics_of` gives over all slices."""
        return "val/loss", f"val/{self.task.score}"

    def describe(self) -> str:
        return f"new examples at every step; vocabulary {self.vocab_size:,}"

    def train_batches(
        self, window: int, batch_size: int, seed: int, sampling: str, device: "torch.device | None" = None
    ) -> TaskBatches:
        return TaskBatches(self.task, window, batch_size, seed, device)

    def slices(self, window: int) -> list[str]:
        return self.task.slices(window)

    def final_tokens(self, n_tokens: int | None, n_final: int | None) -> int | None:
        """Return how many tokens the last evaluation makes, which has no whole to read: at most `n_tokens`."""
        assert n_tokens is not None, "open_task rejects it"
        return n_tokens if n_final is None else min(n_tokens, n_final)

    def validation_batches(self, window: int, batch_size: int, n_tokens: int | None) -> Iterator[ValidationBatch]:
        """Yield about n_tokens tokens; block b of N_BLOCKS has the b-th part of the examples."""
        import torch

        assert n_tokens is not None, "open_task rejects it"
        examples = self.task.validation(stream(VALIDATION, window), -(-n_tokens // window), window)
        x, y = _pair(examples)
        blocks = (torch.arange(len(x)) * N_BLOCKS // len(x))[:, None].expand(x.shape)
        for rows in torch.arange(len(x)).split(batch_size):
            slices, floor = (torch.from_numpy(column)[rows] for column in (examples.slices, examples.floor))
            yield ValidationBatch(x[rows], y[rows], blocks[rows], slices=slices, floor=floor)

    def metrics_of(self, tally: Tally, blocks: Blocks) -> dict[str, float]:
        """Return val/loss in nats per counted token, and val/accuracy or val/excess over all and by slice.

        Bits per byte have no meaning for a task, so the blocks are not read.
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


def open_task(task: Task, cfg: Settings) -> TaskDataset:
    """Return the dataset of a task; ConfigError for settings that only texts have, or a window that is too short."""
    name = cfg.data.name
    text_settings = [
        ("tokenizer", cfg.tokenizer.name, "byte"),
        ("data.sampling", cfg.data.sampling, "random"),
        ("data.val_fraction", cfg.data.val_fraction, 0.1),
        ("data.shuffle_tokens", cfg.data.get("shuffle_tokens", False), False),
    ]
    for key, value, default in text_settings:
        if value != default:
            rule = f"has no effect with data={name}, which makes its own tokens"
            raise ConfigError(f"{key}={typed(value)}: {rule}; leave it at {key}={typed(default)}")
    if cfg.eval.tokens is None:
        raise ConfigError(f"eval.tokens=null: data={name} has no end; set the number of tokens to validate on")
    for length in cfg.eval.lengths:
        task.slices(length * cfg.data.window)
    described = repr((EXAMPLES_FORMAT, name, sorted(vars(task).items())))
    return TaskDataset(task, hashlib.sha256(described.encode()).hexdigest())


def _pair(examples: Examples, all_count: bool = False) -> "tuple[Tensor, Tensor]":
    """Return inputs, and targets that are UNCOUNTED where nothing is asked, unless `all_count`: (N, T) int64 each."""
    import torch

    x, y = examples.tokens[:, :-1], examples.tokens[:, 1:]
    y = y if all_count else np.where(examples.counts, y, UNCOUNTED)
    return torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.ascontiguousarray(y))
