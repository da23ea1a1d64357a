"""Evaluation on the validation split: the same tokens every time, each scored once."""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from gptlab.data import AnyDataset, Tally
from gptlab.distributed import SINGLE_PROCESS, ProcessGroup
from gptlab.model.loss import NextTokenLoss


def evaluate(
    loss: NextTokenLoss,
    dataset: AnyDataset,
    *,
    window: int,
    batch_size: int,
    n_tokens: int | None,
    device: torch.device | str,
    autocast: AbstractContextManager[Any],
    by_position: bool = False,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> dict[str, float]:
    """Return the dataset's metrics on its validation split.

    Args:
        loss: the objective, with the model; left in training mode.
        dataset: the data.
        window: tokens per window.
        batch_size: windows per forward pass.
        n_tokens: how many tokens of the split are read; None: all.
        device: where the model is.
        autocast: the context of a forward pass.
        by_position: add the loss at the positions of a window.
        processes: those that share the work.
    """
    loss.eval()
    device = torch.device(device)
    exact = torch.float64 if device.type != "mps" else torch.float32
    sums = torch.zeros(len(Tally._fields), len(dataset.slices(window)), window, dtype=exact, device=device)
    with torch.inference_mode(), autocast:
        for batch in dataset.validation_batches(window, batch_size, n_tokens):
            has_rows = processes.rank < len(batch[0])  # else row 0, uncounted: every rank must run the model
            x, y, slices, floor = ((processes.rows(t) if has_rows else t[:1]).to(device) for t in batch)
            nats, hits = loss(x, y)  # (B, T) each
            counts = (y >= 0) & has_rows
            added = torch.stack([t.to(exact) * counts for t in (nats, hits, floor, counts)])
            for i in range(sums.shape[1]):
                sums[:, i, : y.shape[1]] += (added * (slices == i)).sum(1)  # the last window may be shorter
    loss.train()
    tally = Tally(*processes.sum(sums).cpu().double().numpy())
    return dataset.metrics_of(tally) | (_by_position(tally) if by_position else {})


def _by_position(tally: Tally) -> dict[str, float]:
    """Return the loss in nats per token at positions 1, 2, 3 to 4, 5 to 8, ... as val/loss_position-5-8."""
    nats, n = tally.nats.sum(0), tally.n.sum(0)  # (T,)
    bounds = np.unique([0, *(2**k for k in range(len(n).bit_length())), len(n)])
    losses = {}
    for first, last in zip(bounds[:-1] + 1, bounds[1:], strict=True):
        if counted := n[first - 1 : last].sum():
            positions = f"{first}" if first == last else f"{first}-{last}"
            losses[f"val/loss_position-{positions}"] = float(nats[first - 1 : last].sum() / counted)
    return losses


def metric_at_length(metric: str, length: int) -> str:
    """Return the name of a metric in windows `length` times as long as in training: val/loss_2x."""
    return metric if length == 1 else f"{metric}_{length}x"
