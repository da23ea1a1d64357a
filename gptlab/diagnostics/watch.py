"""The snapshots of a run: `diagnostics=` sets what is in one, `diagnostics_every=` how often one is taken."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptlab.data import AnyDataset
from gptlab.diagnostics.activations import Snapshot, by_layer, probe_activations, residual_by_layer
from gptlab.model.gpt import LanguageModel

PROBE = 512  # tokens of the probe batch, which has at least one window
PAST_LOSSES = 1000  # a new loss is compared with this many before it
MIN_PAST_LOSSES = 20  # fewer say nothing about a spike


def probe_batch(dataset: AnyDataset, window: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Return the first windows of the validation split: inputs and targets, (B, T) int64."""
    n_windows = max(1, min(batch_size, PROBE // window))
    inputs, targets, *_ = next(dataset.validation_batches(window, n_windows, n_windows * window + 1))
    return inputs, targets


class Watch:
    """Takes a snapshot at step 1 and then every `every` steps, of the weights before that step.

    `model` is the one that the optimizer changes, `working` the one that training computes with, which may be a copy.
    """

    def __init__(
        self,
        level: str,
        every: int,
        model: LanguageModel,
        working: LanguageModel,
        batch: tuple[Tensor, Tensor] | None,
        autocast: Callable[[], AbstractContextManager[Any]],
        max_norm: float,
    ):
        self.level, self.every, self.max_norm = level, every, max_norm
        self.model, self.working, self.batch, self.autocast = model, working, batch, autocast
        self.params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.snapshot: Snapshot = {}  # the one being taken
        self.weights_before: list[Tensor] = []  # the weights before the optimizer's step
        self.norms: list[Tensor] = []  # gradient norms before clipping, of each step since the last snapshot
        self.losses: list[Tensor] = []  # the losses of these steps
        self.past: list[float] = []  # losses of up to PAST_LOSSES steps before them

    def due(self, step: int) -> bool:
        """Return whether `step`, counted from 1, gets a snapshot."""
        return self.level != "none" and (step == 1 or step % self.every == 0)

    def before_step(self, step: int) -> None:
        """Measure the pass over the probe batch, if a snapshot is due."""
        if self.due(step) and self.batch:
            inputs, targets = self.batch
            self.snapshot = probe_activations(self.working, inputs, targets, self.autocast(), full=self.level == "full")

    @torch.no_grad()
    def before_update(self, step: int, grad_norm: Tensor) -> None:
        """Measure gradients and weights after clipping; `grad_norm` is the norm of the whole gradient before it."""
        if self.level != "none":
            self.norms.append(grad_norm)
        if self.due(step):
            scale = (self.max_norm / (grad_norm + 1e-6)).clamp(max=1.0)  # the factor of clip_grad_norm_
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params.values()]
            self._note("grad", [norm / scale for norm in torch._foreach_norm(gradients)])
            self._note("weight", torch._foreach_norm(list(self.params.values())))
            self.weights_before = [p.detach().clone() for p in self.params.values()]

    @torch.no_grad()
    def after_update(self, step: int, loss: Tensor) -> None:
        """Measure the update; `loss` is the loss of the step, in nats per token."""
        if self.level != "none":
            self.losses.append(loss)
        if self.due(step):
            torch._foreach_sub_(self.weights_before, list(self.params.values()))
            self._note("update", torch._foreach_norm(self.weights_before))
            self.weights_before = []

    def _note(self, quantity: str, norms: Any) -> None:
        self.snapshot[f"parameters/{quantity}"] = torch.stack(list(norms))

    def take(self) -> Snapshot:
        """Return the snapshot of the step that has just ended.

        It has the values of `probe_activations` and:

        grad_norm            norm of the gradient of a block's parameters, by layer, before clipping
        residual_grad_norm   the same for the matrices that write into the stream
        weight_norm          norm of a block's matrices, by layer
        update_ratio         log10 of their update's norm over weight_norm; -3 is the rule of thumb
        parameters           for each parameter the norms of weight, gradient and update
        train/clipped        share of the steps since the last snapshot whose gradient was clipped
        train/loss_spike     the largest loss of these steps, in standard deviations above the mean of up to 1,000
                             losses before it; 7 or more is a spike (arXiv:2501.00656)
        """
        snapshot, self.snapshot = self.snapshot, {}
        n = len(self.model.blocks)
        norms: dict[str, dict[str, float]] = {
            quantity: dict(zip(self.params, snapshot.pop(f"parameters/{quantity}").tolist(), strict=True))
            for quantity in ("weight", "grad", "update")
        }
        matrices = [name for name, p in self.params.items() if p.ndim >= 2]
        weight, update = (by_layer({k: norms[quantity][k] for k in matrices}, n) for quantity in ("weight", "update"))
        snapshot |= {
            "grad_norm": by_layer(norms["grad"], n),
            "residual_grad_norm": residual_by_layer(norms["grad"], self.model),
            "weight_norm": weight,
            "update_ratio": [_log10(u / w) if w else math.nan for u, w in zip(update, weight, strict=True)],
            "parameters": {name: [by_name[name] for by_name in norms.values()] for name in self.params},
            "train/clipped": float(np.mean([norm > self.max_norm for norm in _values(self.norms)])),
            "train/loss_spike": self.largest_spike(),
        }
        self.norms = []
        rounded: Snapshot = _rounded(snapshot)
        return rounded

    def largest_spike(self) -> float:
        """Return train/loss_spike, and count the losses since the last snapshot as past; NaN without enough of them."""
        losses = self.past + _values(self.losses)
        scores = []
        for i in range(max(len(self.past), MIN_PAST_LOSSES), len(losses)):
            before = np.array(losses[max(0, i - PAST_LOSSES) : i])
            scores.append((losses[i] - before.mean()) / before.std() if before.std() else 0.0)
        self.past, self.losses = losses[-PAST_LOSSES:], []
        return float(max(scores, default=math.nan))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must keep, as JSON can hold it."""
        return {"norms": _values(self.norms), "losses": _values(self.losses), "past": self.past}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's `state()`."""
        if self.level != "none" and state:
            device = next(iter(self.params.values())).device
            self.norms, self.losses = (list(torch.tensor(state[k], device=device)) for k in ("norms", "losses"))
            self.past = state["past"]


def _log10(x: float) -> float:
    return math.log10(x) if x > 0 else -math.inf if x == 0 else math.nan


def _values(tensors: list[Tensor]) -> list[float]:
    return torch.stack(tensors).tolist() if tensors else []


def _rounded(value: Any) -> Any:
    """Round all numbers to the digits that float32 has."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value
