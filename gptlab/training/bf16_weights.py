"""Training in bfloat16 with an optimizer in float32 (arXiv:1710.03740).

Autocast casts every weight in every operation and leaves the residual stream in float32. Here a copy of the model is
cast once per step and all its activations are bfloat16, which CPUs with bf16 products are fast at and which halves the
memory traffic of a GPU.
"""

import copy

import torch
from torch import Tensor

from gptlab.model.gpt import LanguageModel


class Bf16Weights:
    """A copy, `model`, of the model `master` with parameters in bfloat16; buffers are shared."""

    def __init__(self, master: LanguageModel):
        self.model = copy.deepcopy(master, {id(buffer): buffer for buffer in master.buffers()})
        self.masters: list[Tensor] = list(master.parameters())
        self.params: list[Tensor] = list(self.model.parameters())
        for p in self.params:
            p.data = p.data.bfloat16()

    @torch.no_grad()
    def hand_over_gradients(self) -> None:
        """Move the copy's gradients to the master, where micro-batches are summed in float32."""
        for master, p in zip(self.masters, self.params, strict=True):
            if p.grad is not None:
                gradient = p.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                p.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the master's weights into the copy."""
        torch._foreach_copy_(self.params, self.masters)
