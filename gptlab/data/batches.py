"""Windows of tokens, as batches of inputs and next-token targets.

Which windows a training step sees depends on (seed, step) alone, so it is the same for every arm and after a resume.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # listing the data options must not cost the import of torch
    from torch import Tensor


class TrainBatches:
    """The batches of a run; B = batch_size windows of T = window tokens a step.

    sampling="random" draws every window's start uniformly. sampling="epoch" cuts the text into consecutive windows,
    each used once an epoch in an order drawn for that epoch; a batch may run on into the next epoch, and the tokens
    that do not fill a last window are left out.
    """

    def __init__(self, tokens: np.ndarray, window: int, batch_size: int, seed: int, sampling: str):
        self.tokens = np.asarray(tokens)  # a memmap's own indexing is slower
        self.window, self.batch_size, self.seed = window, batch_size, seed
        self._starts = {"random": self._random_starts, "epoch": self._epoch_starts}[sampling]
        self._offsets = np.arange(window + 1)
        self._order = lru_cache(maxsize=2)(self._draw_order)  # a batch rarely touches more than two epochs

    def batch(self, step: int) -> "tuple[Tensor, Tensor]":
        """Inputs and targets of a step: (B, T), (B, T) int64."""
        return _pair(self.tokens[self._starts(step)[:, None] + self._offsets])

    def _random_starts(self, step: int) -> np.ndarray:
        return _generator(self.seed, step).integers(len(self.tokens) - self.window, size=self.batch_size)

    def _epoch_starts(self, step: int) -> np.ndarray:
        n_windows = (len(self.tokens) - 1) // self.window
        epochs, places = np.divmod(np.arange(self.batch_size) + step * self.batch_size, n_windows)
        windows = np.concatenate([self._order(e)[places[epochs == e]] for e in range(epochs[0], epochs[-1] + 1)])
        return windows * self.window

    def _draw_order(self, epoch: int) -> np.ndarray:
        return _generator(self.seed, epoch).permutation((len(self.tokens) - 1) // self.window)


def validation_batches(
    tokens: np.ndarray, window: int, batch_size: int, n_tokens: int | None
) -> "Iterator[tuple[Tensor, Tensor]]":
    """Consecutive windows of the first n_tokens tokens (None: of all): each but the first is predicted exactly once.

    Yields (B, T), (B, T) int64; what does not fill a window comes last, as a batch of one shorter window.
    """
    tokens = tokens[:n_tokens]
    n_windows, rest = divmod(len(tokens) - 1, window)
    starts = np.arange(n_windows)[:, None] * window
    for i in range(0, n_windows, batch_size):
        yield _pair(tokens[starts[i : i + batch_size] + np.arange(window + 1)])
    if rest:
        yield _pair(tokens[None, -rest - 1 :])


def _generator(seed: int, index: int) -> np.random.Generator:
    """A stream of its own for every (seed, index): Philox is counter-based, so making one costs microseconds."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))


def _pair(rows: np.ndarray) -> "tuple[Tensor, Tensor]":
    """(B, T + 1) tokens -> the first T and the last T of each row, contiguous int64."""
    import torch

    return torch.from_numpy(rows[:, :-1].astype(np.int64)), torch.from_numpy(rows[:, 1:].astype(np.int64))
