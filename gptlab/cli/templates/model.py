"""A model of your own: tokens (B, T) -> logits (B, T, V), selected with `model=my_model`."""

from typing import Any

import torch
from torch import Tensor, nn

from gptlab import register
from gptlab.model.cache import Cache, LayerCache
from gptlab.model.gpt import LanguageModel
from gptlab.model.roles import Linear


class Totals(nn.Module):
    """A layer without parameters that keeps the sum of all embeddings while generating."""

    def new_cache(self) -> LayerCache:
        """Return an empty cache: its `tensors` hold whatever the layer keeps."""
        return LayerCache()


@register("model", "my_model")  # add source="arXiv:..." and `gptlab list model` shows it
class MyModel(LanguageModel):
    """The mean embedding of all tokens so far beside this one's, through a hidden layer: a bag of words."""

    # Parameters before `*` are supplied by the model builder, by name. A model may ask for:
    #   dim, n_layer, n_head, head_dim, vocab_size    sizes
    #   max_len          the most tokens that it reads at once
    #   dropout, bias    as `train.dropout` and `bias` say
    #   embedding, position, block, norm, head    make the components that were chosen; block(i), norm(dim), head(dim)
    # It has the slots that it asks for; any other that is set is refused.
    # Parameters after `*` are settings. They need a type and a default: `model.hidden=256` sets this one.
    def __init__(
        self, max_len: int, dim: int, bias: bool, embedding: Any, norm: Any, head: Any, *, hidden: int | None = None
    ):
        super().__init__(max_len)
        width = hidden or 4 * dim
        self.embedding = embedding()
        self.totals = Totals()
        # The role of a matrix decides its initial scale and its weight decay (gptlab/model/roles.py).
        self.up = Linear(2 * dim, width, bias, role="input")
        self.down = Linear(width, dim, bias, role="residual")
        self.norm = norm()
        self.head = head()  # LanguageModel.logits applies it to what `stream` returns

    def stream(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Return what the head reads.

        tokens: (B, T), int64. Returns (B, T, C). With a cache, `tokens` follow the `cache.n_read` read before; a layer
        keeps what it needs of those in `cache.of(layer)`, which its `new_cache` makes.
        """
        x = self.embedding(tokens)  # (B, T, C)
        total, n_read = x.cumsum(1), 0
        if cache is not None:
            totals, n_read = cache.of(self.totals), cache.n_read
            total = total + totals.tensors[0] if totals.tensors else total
            totals.tensors = (total[:, -1:],)
        n = torch.arange(n_read + 1, n_read + 1 + x.shape[1], device=x.device, dtype=x.dtype)
        h = nn.functional.gelu(self.up(torch.cat([x, total / n[:, None]], -1)))  # (B, T, F)
        return self.norm(x + self.down(h))
