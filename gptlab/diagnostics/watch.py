"""The looks of a run: `diagnostics=` says what is in one, `diagnostics_every=` how often one is taken."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptlab.data import AnyDataset
from gptlab.diagnostics.activations import Look, by_layer, measure, residual_by_layer
from gptlab.model.gpt import LanguageModel

PROBE = 512  # tokens; one window at least
PAST = 1000  # losses that a new one is held against
FEW = 20  # of them say nothing


def probe_batch(dataset: AnyDataset, window: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """The first windows of the validation split: inputs and targets, (B, T) int64."""
    n_windows = max(1, min(batch_size, PROBE // window))
    inputs, targets, *_ = next(dataset.validation_batches(window, n_windows, n_windows * window + 1))
    return inputs, targets


class Watch:
    """Looks at the first step and then at every so many. All numbers of a look are of the weights before its step.

    `model` is what the optimizer changes, `working` what training runs through, which may be a copy of it.
    """

    def __init__(
        self,
        level: str,
        every: int,
        model: LanguageModel,
        working: LanguageModel,
        batch: tuple[Tensor, Tensor] | None,
        autocast: Callable[[], AbstractContextManager],
        max_norm: float,
    ):
        self.level, self.every, self.max_norm = level, every, max_norm
        self.model, self.working, self.batch, self.autocast = model, working, batch, autocast
        self.params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.look: Look = {}  # the one being taken
        self.before: list[Tensor] = []  # the weights, for their update
        self.norms: list[Tensor] = []  # of the gradient, before clipping, of each step since the last look
        self.losses: list[Tensor] = []  # of each of these steps
        self.past: list[float] = []  # losses of the PAST steps before them

    def due(self, step: int) -> bool:
        return self.level != "none" and (step == 1 or step % self.every == 0)

    def before_step(self, step: int) -> None:
        """The pass over the probe batch."""
        if self.due(step) and self.batch:
            inputs, targets = self.batch
            self.look = measure(self.working, inputs, targets, self.autocast(), full=self.level == "full")

    @torch.no_grad()
    def before_update(self, step: int, grad_norm: Tensor) -> None:
        """Between clipping and the optimizer; `grad_norm` is of the whole gradient before it was clipped."""
        if self.level != "none":
            self.norms.append(grad_norm)
        if self.due(step):
            clipped = (self.max_norm / (grad_norm + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_ has it
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params.values()]
            self._note("grad", [norm / clipped for norm in torch._foreach_norm(gradients)])
            self._note("weight", torch._foreach_norm(list(self.params.values())))
            self.before = [p.detach().clone() for p in self.params.values()]

    @torch.no_grad()
    def after_update(self, step: int, loss: Tensor) -> None:
        """`loss` is the step's, in nats per token."""
        if self.level != "none":
            self.losses.append(loss)
        if self.due(step):
            torch._foreach_sub_(self.before, list(self.params.values()))
            self._note("update", torch._foreach_norm(self.before))
            self.before = []

    def _note(self, what: str, norms: Any) -> None:
        self.look[f"parameters/{what}"] = torch.stack(list(norms))

    def take(self) -> Look:
        """The look of the step that was done, beside what `measure` gives:

        grad_norm                of all parameters of a block, by layer, before clipping
        residual_grad_norm       of those that write into the stream
        weight_norm              of a block's matrices, by layer
        update_ratio             log10 of their update's norm over it; -3 is the rule of thumb
        parameters               for each parameter the norms of weight, gradient and update
        train/clipped            share of the steps since the last look whose gradient was clipped
        train/loss_spike         the largest of their losses in standard deviations above the 1,000 before it;
                                 from 7 on it is a spike (arXiv:2501.00656)
        """
        look, self.look = self.look, {}
        n = len(self.model.blocks)
        found: dict[str, list[float]] = {
            what: look.pop(f"parameters/{what}").tolist() for what in ("weight", "grad", "update")
        }
        norms = {what: dict(zip(self.params, values, strict=True)) for what, values in found.items()}
        matrices = [name for name, p in self.params.items() if p.ndim >= 2]
        weight, update = (by_layer({k: norms[what][k] for k in matrices}, n) for what in ("weight", "update"))
        look |= {
            "grad_norm": by_layer(norms["grad"], n),
            "residual_grad_norm": residual_by_layer(norms["grad"], self.model),
            "weight_norm": weight,
            "update_ratio": [_log10(u / w) if w else math.nan for u, w in zip(update, weight, strict=True)],
            "parameters": {name: [norms[what][name] for what in found] for name in self.params},
            "train/clipped": float(np.mean([norm > self.max_norm for norm in _values(self.norms)])),
            "train/loss_spike": self._spike(),
        }
        self.norms = []
        return _short(look)

    def _spike(self) -> float:
        losses = self.past + _values(self.losses)
        scores = []
        for i in range(max(len(self.past), FEW), len(losses)):
            before = np.array(losses[max(0, i - PAST) : i])
            scores.append((losses[i] - before.mean()) / before.std() if before.std() else 0.0)
        self.past, self.losses = losses[-PAST:], []
        return float(max(scores, default=math.nan))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as JSON says it."""
        return {"norms": _values(self.norms), "losses": _values(self.losses), "past": self.past}

    def restore(self, state: dict[str, Any]) -> None:
        if self.level != "none" and state:
            device = next(iter(self.params.values())).device
            self.norms, self.losses = (list(torch.tensor(state[k], device=device)) for k in ("norms", "losses"))
            self.past = state["past"]


def _log10(x: float) -> float:
    return math.log10(x) if x > 0 else -math.inf if x == 0 else math.nan


def _values(tensors: list[Tensor]) -> list[float]:
    return torch.stack(tensors).tolist() if tensors else []


def _short(value: Any) -> Any:
    """With as many digits as float32 has."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value
