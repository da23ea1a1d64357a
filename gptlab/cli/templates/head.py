"""A head of your own: stream (B, T, C) -> logits (B, T, V), selected with `head=my_head`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab import register
from gptlab.model.roles import table


@register("head", "my_head")  # add source="arXiv:..." and `gptlab list head` shows it
class MyHead(nn.Module):
    """Cosine similarities of the stream and each token's vector, times a learned scale."""

    # Parameters before `*` are supplied by the model builder, by name. A head may ask for:
    #   dim           C, the width that it reads
    #   vocab_size    V, the number of tokens
    # Parameters after `*` are settings. They need a type and a default: `head.scale=20` sets this one.
    def __init__(self, dim: int, vocab_size: int, *, scale: float = 10.0, tied: bool = True):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), scale))
        self.weight = None if tied else table(vocab_size, dim, "head")  # (V, C)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the logits of the next token.

        x: (B, T, C). embedding: the token table, (V, C), for a head that is tied to it. Returns (B, T, V).
        """
        weight = embedding if self.weight is None else self.weight
        return self.scale * F.linear(F.normalize(x, dim=-1), F.normalize(weight, dim=-1))
