"""Windows of tokens, as batches of inputs and next-token targets.

The windows of a training step depend on (seed, step) alone, so they are the same for every arm and after a resume.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # listing the data options must not cost the import of torch
    import torch
    from torch import Tensor

UNCOUNTED = -100  # a target that no loss counts: torch's own ignore_index
N_BLOCKS = 32  # parts of the validation data whose losses are kept apart


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
        x, y = _pair(self.tokens[starts[:, None] + self._offsets])
        return on_device(x, self.device), on_device(y, self.device)

    def _random_starts(self, step: int) -> np.ndarray:
        return stream(self.seed, step).integers(len(self.tokens) - self.window, size=self.batch_size)

    def _epoch_starts(self, step: int) -> np.ndarray:
        n_windows = (len(self.tokens) - 1) // self.window
        epochs, ranks = np.divmod(np.arange(self.batch_size) + step * self.batch_size, n_windows)
        orders = [self._epoch_order(e)[ranks[epochs == e]] for e in range(epochs[0], epochs[-1] + 1)]
        return np.concatenate(orders) * self.window

    def _draw_epoch_order(self, epoch: int) -> np.ndarray:
        return stream(self.seed, epoch).permutation((len(self.tokens) - 1) // self.window)


class ValidationBatch(NamedTuple):
    """B windows of T predictions. Where a batch or a window is not full, targets are UNCOUNTED."""

    inputs: "Tensor"  # (B, T) int64
    targets: "Tensor"  # (B, T) int64
    blocks: "Tensor"  # (B, T) int64, below N_BLOCKS: the part of the validation data that a target belongs to
    n_bytes: "Tensor | None" = None  # (B, T) int64, bytes of text in a target; None for a task
    slices: "Tensor | None" = None  # (B, T) int64, difficulty; None for a text, which has one
    floor: "Tensor | None" = None  # (B, T) nats that a model which knows the rule still loses; None for a text

    def filled(self, n_rows: int) -> "ValidationBatch":
        """Return the batch with n_rows rows, so that shapes never vary: copies of the first, with UNCOUNTED targets."""
        import torch

        missing = n_rows - len(self.targets)
        if not missing:
            return self
        rows = torch.cat([torch.arange(len(self.targets)), torch.zeros(missing, dtype=torch.int64)])
        more = ValidationBatch(*(column if column is None else column[rows] for column in self))  # type: ignore[arg-type]
        more.targets[-missing:] = UNCOUNTED
        if more.n_bytes is not None:
            more.n_bytes[-missing:] = 0
        return more


class Blocks(NamedTuple):
    """Sums over the targets of each block, (N_BLOCKS,) float64 each."""

    nats: np.ndarray
    n: np.ndarray
    n_bytes: np.ndarray  # 0 for a task


def validation_starts(n: int, window: int, n_tokens: int | None) -> np.ndarray:
    """Return where the windows begin that an evaluation reads of n tokens.

    Windows follow each other, so that every token but the first is a target exactly once, and the last may not be full.
    If n_tokens is less than n, only n_tokens // window full windows are read, at least one, spread evenly.
    """
    if n_tokens is None or n_tokens >= n:
        return np.arange(0, n - 1, window)
    n_windows = (n - 1) // window
    n_read = min(max(1, n_tokens // window), n_windows)
    return (2 * np.arange(n_read) + 1) * n_windows // (2 * n_read) * window


def validation_batches(
    tokens: np.ndarray, window: int, batch_size: int, n_tokens: int | None
) -> "Iterator[tuple[Tensor, Tensor]]":
    """Yield the windows of `validation_starts` as inputs and targets: (B, T), (B, T) int64.

    Targets beyond the end of the text are UNCOUNTED.
    """
    import torch

    starts = validation_starts(len(tokens), window, n_tokens)
    for i in range(0, len(starts), batch_size):
        at = starts[i : i + batch_size, None] + np.arange(window + 1)
        x, y = _pair(tokens[at.clip(max=len(tokens) - 1)])
        yield x, y.masked_fill_(torch.from_numpy(at[:, 1:] >= len(tokens)), UNCOUNTED)


def on_device(x: "Tensor", device: "torch.device | None") -> "Tensor":
    """Copy to the device, without waiting for it."""
    if device is None or device.type == "cpu":
        return x
    if device.type == "cuda":  # the copy of pinned memory does not wait for steps that are still running
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


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
