"""A model of your own: tokens (B, T) -> logits (B, T, V), selected with `model=my_model`."""

from typing import Any

import torch
from torch import Tensor, nn

from gptlab import register
from gptlab.model.cache import Cache, LayerCache
from gptlab.model.gpt import LanguageModel
from gptlab.model.roles import Linear


class RunningMean(nn.Module):
    """The mean of all vectors up to each token: (B, T, C) -> (B, T, C)."""

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C). With a cache, x continues the tokens of earlier calls."""
        before = 0 if cache is None else cache.n_read  # tokens read before; the model counts them
        total = x.cumsum(1)
        if cache is not None:
            layer_cache = cache.of(self)
            if layer_cache.tensors:
                total = total + layer_cache.tensors[0]
            layer_cache.tensors = (total[:, -1:],)
        n = torch.arange(before + 1, before + 1 + x.shape[1], device=x.device, dtype=x.dtype)
        return total / n[:, None]

    def new_cache(self) -> LayerCache:
        """Return the empty state that this layer keeps during generation."""
        return LayerCache()


@register("model", "my_model")  # add source="arXiv:..." and `gptlab list model` shows it
class MyModel(LanguageModel):
    """A bag of words: each token's embedding and the mean of all so far, through a hidden layer."""

    # Parameters before `*` are supplied by the model builder, by name. A model may ask for:
    #   dim, n_layer, n_head, head_dim, vocab_size    sizes
    #   max_len          the most tokens that it reads at once
    #   dropout, bias    as `train.dropout` and `bias` say
    #   embedding, position, block, norm, head    make the components that were chosen; block(i), norm(dim), head(dim)
    # The model has the slots that it asks for; setting any other slot is an error.
    # Parameters after `*` are settings. They need a type and a default: `model.hidden=256` sets this one.
    def __init__(
        self, max_len: int, dim: int, bias: bool, embedding: Any, norm: Any, head: Any, *, hidden: int | None = None
    ):
        super().__init__(max_len)
        width = hidden or 4 * dim
        self.embedding = embedding()
        self.mean = RunningMean()
        # The role of a matrix decides its initial scale and its weight decay (gptlab/model/roles.py).
        self.up = Linear(2 * dim, width, bias, role="input")
        self.down = Linear(width, dim, bias, role="residual")
        self.norm = norm()
        self.head = head()  # LanguageModel.logits applies it to what `stream` returns

    def stream(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Return what the head reads.

        tokens: (B, T), int64. Returns (B, T, C). With a cache, `tokens` follow those of earlier calls.
        """
        x = self.embedding(tokens)  # (B, T, C)
        h = nn.functional.gelu(self.up(torch.cat([x, self.mean(x, cache)], -1)))  # (B, T, F)
        return self.norm(x + self.down(h))
