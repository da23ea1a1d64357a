"""Validation: the same tokens every time, each but the first predicted once."""

import math
from contextlib import AbstractContextManager

import torch

from gptlab.data import Dataset, validation_batches
from gptlab.loss import NextTokenLoss
from gptlab.parallel import ONE, Processes


def evaluate(
    loss: NextTokenLoss,
    dataset: Dataset,
    *,
    window: int,
    batch_size: int,
    n_tokens: int | None,
    device: torch.device,
    autocast: AbstractContextManager,
    processes: Processes = ONE,
) -> dict[str, float]:
    """val/loss in nats per token, and val/bpb in bits per byte of text, which compares across tokenizers."""
    loss.eval()
    total = torch.zeros((), dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
    n_predicted = 0
    with torch.inference_mode(), autocast:
        for x, y in validation_batches(dataset.val, window, batch_size, n_tokens):
            n_predicted += y.numel()
            has_rows = processes.rank < len(x)  # else it computes the first, uncounted: all must go through the model
            x, y = (processes.rows(t) if has_rows else t[:1] for t in (x, y))
            summed = loss(x.to(device), y.to(device))
            total += summed if has_rows else 0
    loss.train()
    nats = float(processes.sum(total))
    return {"val/loss": nats / n_predicted, "val/bpb": nats / math.log(2) / dataset.val_bytes(n_predicted + 1)}


def of_length(metric: str, length: int) -> str:
    """The name of a metric in windows `length` times as long as in training: val/loss_2x."""
    return metric if length == 1 else f"{metric}_{length}x"
