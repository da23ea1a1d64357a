"""The training loss: cross-entropy in nats per token, plus the losses that components add.

With a large vocabulary, the logits of all tokens would be the largest tensor in memory. So they are computed for a
chunk of tokens at a time, and each chunk's gradients with them, which is cheaper than computing logits twice.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gptlab.model.gpt import LanguageModel

LOGIT_BYTES = 2**28  # most bytes of float32 logits at a time


class NextTokenLoss(nn.Module):
    """Next-token loss of a model.

    A target of -100, F.cross_entropy's own default, does not count.

    Args:
        model: The model.
        chunk: Number of tokens whose logits exist at a time; None: as many as fit in LOGIT_BYTES.
        compile: Compile training steps: the model, unless it loops over time, and the loss. Evaluation runs uncompiled:
            compiling it takes longer than it saves.

    Attributes:
        compiled: What is compiled: "model" (and the loss), "loss only", or False.
    """

    def __init__(self, model: LanguageModel, chunk: int | None, *, compile: bool = False):
        super().__init__()
        self.model = model
        vocab_size = model.embedding.weight.shape[0]
        self.chunk = chunk or max(1, LOGIT_BYTES // (4 * vocab_size))
        if model.has_auxiliary_loss_outside_head():
            self.chunk = 2**62  # such a loss may depend on the logits of all tokens
        # torch unrolls a loop over time: minutes until the first step.
        loops = any(getattr(module, "loops_over_time", False) for module in model.modules())
        self.compiled: str | bool = ("loss only" if loops else "model") if compile else False
        compile_stream = self.compiled == "model"
        self.stream: Callable[..., Tensor] = (
            torch.compile(model.stream, dynamic=False) if compile_stream else model.stream
        )
        self.of_chunk = torch.compile(_loss, dynamic=False) if compile else _loss

    def forward(self, inputs: Tensor, targets: Tensor) -> Any:
        """Return the loss of inputs and targets, (B, T) each.

        In training: the total to minimise and the cross-entropy in it, means over the tokens that count. In evaluation,
        without the losses of components: the cross-entropy of each token, 0 where it does not count, and whether the
        likeliest token is the right one, (B, T) each.
        """
        shape = targets.shape
        stream = self.stream if self.training else self.model.stream
        x, targets = stream(inputs).flatten(0, 1), targets.flatten()  # (B T, C), (B T)
        if not self.training:
            parts = [_each(self.model.logits(x[c]), targets[c]) for c in self.chunks(len(targets))]
            nats, hits = (torch.cat(part).view(shape) for part in zip(*parts, strict=True))
            return nats, hits
        if len(targets) <= self.chunk:
            total, loss = self.of_chunk(self.model, x, targets, (targets >= 0).sum(), len(targets))
            return total, loss.detach()
        head = self.model.head_parameters()
        return _Chunked.apply(self, x, targets, *head)

    def chunks(self, n_tokens: int) -> Iterator[slice]:
        """Return the fewest chunks that are small enough, of nearly the same size."""
        n = -(-n_tokens // self.chunk)
        size = -(-n_tokens // n)
        return (slice(i, min(i + size, n_tokens)) for i in range(0, n_tokens, size))


def cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy of logits (N, V) and targets (N,) in float32; targets of -100 do not count."""
    return F.cross_entropy(logits.float(), targets, reduction=reduction)


def _each(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each token its loss in nats and whether the likeliest token is right, (N,) each."""
    return cross_entropy(logits, targets, "none"), logits.argmax(-1) == targets


def _loss(model: LanguageModel, x: Tensor, targets: Tensor, n_counted: Tensor, n_tokens: int) -> tuple[Tensor, Tensor]:
    """Return the share of these tokens in the total and in the cross-entropy.

    The cross-entropy is a mean over n_counted tokens, the losses of components over n_tokens.
    """
    logits = model.logits(x)  # (N, V)
    loss, extra = cross_entropy(logits, targets, "sum") / n_counted, model.auxiliary_loss(logits)
    return loss if extra is None else loss + extra * (len(targets) / n_tokens), loss


class _Chunked(torch.autograd.Function):
    """The loss of x and the head's parameters; the forward pass computes the gradients too."""

    @staticmethod
    def forward(ctx: Any, loss_of: NextTokenLoss, x: Tensor, targets: Tensor, *head: Tensor) -> tuple[Tensor, Tensor]:
        dx = torch.empty_like(x)
        dhead: list[Tensor | None] = [None for _ in head]  # summed in float32
        totals = torch.zeros(2, device=x.device)
        n_counted = (targets >= 0).sum()
        for chunk in loss_of.chunks(len(x)):
            with torch.enable_grad():
                part = x[chunk].detach().requires_grad_()
                total, loss = loss_of.of_chunk(loss_of.model, part, targets[chunk], n_counted, len(x))
                gradients: Any = torch.autograd.grad(total, [part, *head], allow_unused=True)
            dx[chunk] = gradients[0]
            for i, gradient in enumerate(gradients[1:]):
                if gradient is not None:  # it is None for a token table that the head does not read
                    accumulated = dhead[i]
                    dhead[i] = gradient.float() if accumulated is None else accumulated.add_(gradient)
            totals += torch.stack([total.detach(), loss.detach()])
        ctx.save_for_backward(dx, *(d if d is None else d.to(p.dtype) for d, p in zip(dhead, head, strict=True)))
        ctx.mark_non_differentiable(loss := totals[1].clone())
        return totals[0].clone(), loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        dx, *dhead = ctx.saved_tensors
        return None, dx * scale, None, *(d if d is None else d * scale for d in dhead)
