"""Windows of tokens, as batches of inputs and next-token targets.

Which windows a training step sees depends on (seed, step) alone, so it is the same for every arm and after a resume.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # listing the data options must not cost the import of torch
    import torch
    from torch import Tensor


class TrainBatches:
    """The batches of a run; B = batch_size windows of T = window tokens a step.

    sampling="random" draws every window's start uniformly. sampling="epoch" cuts the text into consecutive windows,
    each used once an epoch in an order drawn for that epoch; a batch may run on into the next epoch, and the tokens
    that do not fill a last window are left out.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        window: int,
        batch_size: int,
        seed: int,
        sampling: str,
        device: "torch.device | None" = None,
    ):
        self.tokens = np.asarray(tokens)  # a memmap's own indexing is slower
        self.window, self.batch_size, self.seed = window, batch_size, seed
        self._starts = {"random": self._random_starts, "epoch": self._epoch_starts}[sampling]
        self._offsets = np.arange(window + 1)
        self._order = lru_cache(maxsize=2)(self._draw_order)  # a batch rarely touches more than two epochs
        self._device = device
        self._there = _on_gpu(self.tokens, device) if device is not None and device.type == "cuda" else None

    def batch(self, step: int) -> "tuple[Tensor, Tensor]":
        """Inputs and targets of a step, on the device: (B, T), (B, T) int64."""
        starts = self._starts(step)
        if self._there is not None:
            return cut(self._there, starts, self.window)
        return on_device(*_pair(self.tokens[starts[:, None] + self._offsets]), self._device)

    def _random_starts(self, step: int) -> np.ndarray:
        return stream(self.seed, step).integers(len(self.tokens) - self.window, size=self.batch_size)

    def _epoch_starts(self, step: int) -> np.ndarray:
        n_windows = (len(self.tokens) - 1) // self.window
        epochs, places = np.divmod(np.arange(self.batch_size) + step * self.batch_size, n_windows)
        windows = np.concatenate([self._order(e)[places[epochs == e]] for e in range(epochs[0], epochs[-1] + 1)])
        return windows * self.window

    def _draw_order(self, epoch: int) -> np.ndarray:
        return stream(self.seed, epoch).permutation((len(self.tokens) - 1) // self.window)


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


def on_device(x: "Tensor", y: "Tensor", device: "torch.device | None") -> "tuple[Tensor, Tensor]":
    if device is None or device.type == "cpu":
        return x, y
    if device.type == "cuda":  # pinned, the copy does not wait for the steps that are still under way
        x, y = x.pin_memory(), y.pin_memory()
    return x.to(device, non_blocking=True), y.to(device, non_blocking=True)


def cut(tokens: "Tensor", starts: np.ndarray, window: int) -> "tuple[Tensor, Tensor]":
    """The windows that begin at `starts` and their targets, gathered where `tokens` are: (B, T), (B, T) int64."""
    import torch

    places = torch.from_numpy(starts).to(tokens.device, non_blocking=True)[:, None]
    rows = tokens[places + torch.arange(window + 1, device=tokens.device)].long()
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def _on_gpu(tokens: np.ndarray, device: "torch.device") -> "Tensor | None":
    """All tokens as int32, if an eighth of the free memory holds them."""
    import torch

    if 4 * len(tokens) > torch.cuda.mem_get_info(device)[0] / 8:
        return None
    return torch.from_numpy(tokens.astype(np.int32)).to(device)


def stream(seed: int, index: int) -> np.random.Generator:
    """Random numbers of its own for every (seed, index): Philox is counter-based, so one is made in microseconds."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))


def _pair(rows: np.ndarray) -> "tuple[Tensor, Tensor]":
    """(B, T + 1) tokens -> the first T and the last T of each row, contiguous int64."""
    import torch

    return torch.from_numpy(rows[:, :-1].astype(np.int64)), torch.from_numpy(rows[:, 1:].astype(np.int64))
