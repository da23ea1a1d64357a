"""Windows of tokens, as batches of inputs and next-token targets.

The windows of a training step depend on (seed, step) alone, so they are the same for every arm and after a resume.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # listing the data options must not cost the import of torch
    import torch
    from torch import Tensor


class TrainBatches:
    """The batches of a run: B = batch_size windows of T = window tokens per step.

    sampling="random" draws the start of every window uniformly. sampling="epoch" cuts the text into consecutive
    windows, each used once per epoch in an order drawn for that epoch; a batch may run on into the next epoch, and
    tokens at the end that do not fill a window are left out.
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
        self.starts = {"random": self._random_starts, "epoch": self._epoch_starts}[sampling]
        self.device = device
        self.gpu_tokens = _on_gpu(self.tokens, device) if device is not None and device.type == "cuda" else None
        self._offsets = np.arange(window + 1)
        self._epoch_order = lru_cache(maxsize=2)(self._draw_epoch_order)  # a batch rarely touches more than two epochs

    def batch(self, step: int) -> "tuple[Tensor, Tensor]":
        """Return inputs and targets of a step, on the device: (B, T), (B, T) int64."""
        starts = self.starts(step)
        if self.gpu_tokens is not None:
            return cut(self.gpu_tokens, starts, self.window)
        return on_device(*_pair(self.tokens[starts[:, None] + self._offsets]), self.device)

    def _random_starts(self, step: int) -> np.ndarray:
        return stream(self.seed, step).integers(len(self.tokens) - self.window, size=self.batch_size)

    def _epoch_starts(self, step: int) -> np.ndarray:
        n_windows = (len(self.tokens) - 1) // self.window
        epochs, ranks = np.divmod(np.arange(self.batch_size) + step * self.batch_size, n_windows)
        orders = [self._epoch_order(e)[ranks[epochs == e]] for e in range(epochs[0], epochs[-1] + 1)]
        return np.concatenate(orders) * self.window

    def _draw_epoch_order(self, epoch: int) -> np.ndarray:
        return stream(self.seed, epoch).permutation((len(self.tokens) - 1) // self.window)


def validation_batches(
    tokens: np.ndarray, window: int, batch_size: int, n_tokens: int | None
) -> "Iterator[tuple[Tensor, Tensor]]":
    """Yield consecutive windows of the first n_tokens tokens, or of all, as inputs and targets: (B, T), (B, T) int64.

    Every token but the first is a target exactly once. Tokens that do not fill a window come last, as a batch of one
    shorter window.
    """
    tokens = tokens[:n_tokens]
    n_windows, rest = divmod(len(tokens) - 1, window)
    starts = np.arange(n_windows)[:, None] * window
    for i in range(0, n_windows, batch_size):
        yield _pair(tokens[starts[i : i + batch_size] + np.arange(window + 1)])
    if rest:
        yield _pair(tokens[None, -rest - 1 :])


def on_device(x: "Tensor", y: "Tensor", device: "torch.device | None") -> "tuple[Tensor, Tensor]":
    """Copy inputs and targets to the device, without waiting for it."""
    if device is None or device.type == "cpu":
        return x, y
    if device.type == "cuda":  # the copy of pinned memory does not wait for steps that are still running
        x, y = x.pin_memory(), y.pin_memory()
    return x.to(device, non_blocking=True), y.to(device, non_blocking=True)


def cut(tokens: "Tensor", starts: np.ndarray, window: int) -> "tuple[Tensor, Tensor]":
    """Return the windows that begin at `starts` and their targets, on the device of `tokens`: (B, T), (B, T) int64."""
    import torch

    first = torch.from_numpy(starts).to(tokens.device, non_blocking=True)[:, None]
    rows = tokens[first + torch.arange(window + 1, device=tokens.device)].long()
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def _on_gpu(tokens: np.ndarray, device: "torch.device") -> "Tensor | None":
    """Copy all tokens to the GPU as int32, if they fit into an eighth of its free memory."""
    import torch

    if 4 * len(tokens) > torch.cuda.mem_get_info(device)[0] / 8:
        return None
    return torch.from_numpy(tokens.astype(np.int32)).to(device)


def stream(seed: int, index: int) -> np.random.Generator:
    """Return the stream of random numbers that belongs to (seed, index).

    Its generator, Philox, is counter-based, so making one takes microseconds.
    """
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))


def _pair(rows: np.ndarray) -> "tuple[Tensor, Tensor]":
    """Split rows (B, T + 1) into inputs and targets: (B, T), (B, T) contiguous int64."""
    import torch

    return torch.from_numpy(rows[:, :-1].astype(np.int64)), torch.from_numpy(rows[:, 1:].astype(np.int64))
