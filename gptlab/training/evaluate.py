"""Evaluation on the validation split: the same tokens every time, each scored once.

All sums are made on the device, which the host does not wait for before the end.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gptlab.data import AnyDataset, Blocks, Tally, ValidationBatch
from gptlab.data.batches import N_BLOCKS, on_device
from gptlab.distributed import SINGLE_PROCESS, ProcessGroup
from gptlab.model.loss import NextTokenLoss


@dataclass(frozen=True)
class Evaluation:
    """The sums that an evaluation makes, from which its metrics follow."""

    dataset: AnyDataset
    tally: Tally
    blocks: Blocks

    @property
    def n_tokens(self) -> int:
        """The number of predictions that count."""
        return int(self.tally.n.sum())

    def metrics(self) -> dict[str, float]:
        """Return the dataset's metrics."""
        return self.dataset.metrics_of(self.tally, self.blocks)

    def by_position(self) -> dict[str, float]:
        """Return the loss in nats per token at positions 1, 2, 3 to 4, 5 to 8, ... as val/loss_position-5-8."""
        nats, n = self.tally.nats.sum(0), self.tally.n.sum(0)  # (T,)
        bounds = np.unique([0, *(2**k for k in range(len(n).bit_length())), len(n)])
        losses = {}
        for first, last in zip(bounds[:-1] + 1, bounds[1:], strict=True):
            if counted := n[first - 1 : last].sum():
                positions = f"{first}" if first == last else f"{first}-{last}"
                losses[f"val/loss_position-{positions}"] = float(nats[first - 1 : last].sum() / counted)
        return losses

    def by_block(self) -> dict[str, list[float]]:
        """Return the sums by block of the validation data: of a text nats, tokens and bytes, of a task no bytes."""
        sums = {"val/block_nats": self.blocks.nats.tolist(), "val/block_tokens": self.blocks.n.astype(int).tolist()}
        if self.dataset.tokenizer:
            sums["val/block_bytes"] = self.blocks.n_bytes.astype(int).tolist()
        return sums


def evaluate(
    loss: NextTokenLoss,
    dataset: AnyDataset,
    *,
    window: int,
    batch_size: int,
    n_tokens: int | None,
    device: torch.device | str,
    autocast: AbstractContextManager[Any],
    processes: ProcessGroup = SINGLE_PROCESS,
) -> Evaluation:
    """Evaluate on the validation split.

    Args:
        loss: the objective, with the model; left in training mode.
        dataset: the data.
        window: tokens per window.
        batch_size: windows per forward pass; rounded up to a multiple of the processes.
        n_tokens: how many tokens of the split are read; None: all.
        device: where the model is.
        autocast: the context of a forward pass.
        processes: those that share the work.
    """
    loss.eval()
    device = torch.device(device)
    exact = torch.float64 if device.type != "mps" else torch.float32
    sums = torch.zeros(len(Tally._fields), len(dataset.slices(window)) * window, dtype=exact, device=device)
    blocks = torch.zeros(len(Blocks._fields), N_BLOCKS, dtype=exact, device=device)
    positions = torch.arange(window, device=device)
    n_rows = -(-batch_size // processes.world) * processes.world
    with torch.inference_mode(), autocast:
        for rows in dataset.validation_batches(window, n_rows, n_tokens):
            columns = (c if c is None else on_device(processes.rows(c), device) for c in rows.filled(n_rows))
            batch = ValidationBatch(*columns)  # type: ignore[arg-type]
            nats, hits = loss(batch.inputs, batch.targets)  # (B, T) each
            counts = (batch.targets >= 0).to(exact)
            floor = counts * 0 if batch.floor is None else counts * batch.floor.to(exact)
            n_bytes = counts * 0 if batch.n_bytes is None else batch.n_bytes.to(exact)
            nats = nats.to(exact) * counts
            cell = positions.expand(nats.shape) if batch.slices is None else batch.slices * window + positions
            sums.index_add_(1, cell.flatten(), torch.stack([nats, hits * counts, floor, counts]).flatten(1))
            blocks.index_add_(1, batch.blocks.flatten(), torch.stack([nats, counts, n_bytes]).flatten(1))
    loss.train()
    by_slice = processes.sum(sums).cpu().double().view(len(sums), -1, window)
    return Evaluation(dataset, Tally(*by_slice.numpy()), Blocks(*processes.sum(blocks).cpu().double().numpy()))


def metric_at_length(metric: str, length: int) -> str:
    """Return the name of a metric in windows `length` times as long as in training: val/loss_2x."""
    return metric if length == 1 else f"{metric}_{length}x"
