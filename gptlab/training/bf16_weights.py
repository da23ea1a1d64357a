"""bfloat16 in training while the optimizer keeps float32: a model's copy that forward and backward run in.

Autocast casts every weight in every step and leaves the stream in float32. A copy is cast once a step, and all
activations are bfloat16: what CPUs with AMX are fast at, and on a GPU half the memory traffic. arXiv:1710.03740
"""

import copy

import torch
from torch import Tensor

from gptlab.model.gpt import LanguageModel


class WorkingCopy:
    """`model`, with the parameters of `master` in bfloat16; buffers, such as running averages, are the master's own."""

    def __init__(self, master: LanguageModel):
        self.model = copy.deepcopy(master, {id(buffer): buffer for buffer in master.buffers()})
        self.masters: list[Tensor] = list(master.parameters())
        self.params: list[Tensor] = list(self.model.parameters())
        for p in self.params:
            p.data = p.data.bfloat16()

    @torch.no_grad()
    def hand_over_gradients(self) -> None:
        """Add the copy's gradients to the master's, in float32, so that micro-batches are summed there."""
        for master, p in zip(self.masters, self.params, strict=True):
            if p.grad is not None:
                gradient = p.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                p.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the master's weights."""
        torch._foreach_copy_(self.params, self.masters)
