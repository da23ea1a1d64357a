"""A causal attention of your own: (B, T, C) -> (B, T, C), selected with `attention=my_attention`."""

import torch
from torch import Tensor, nn

from gptlab import register
from gptlab.model.attention import KVCache
from gptlab.model.cache import Cache
from gptlab.model.dropout import Dropout
from gptlab.model.position import Position
from gptlab.model.roles import Linear


@register("attention", "my_attention", source="https://www.evanmiller.org/attention-is-off-by-one.html")
class MyAttention(nn.Module):
    """exp(s) / (1 + sum(exp(s))) v, with s = q k^T / sqrt(D): a head can attend to nothing."""

    # Parameters before `*` are supplied by the model builder, by name. An attention may ask for:
    #   dim, n_head, head_dim    C, H and D: widths of the stream and of a head, and the number of heads
    #   layer_idx, n_layer       the number of this block, from 0, and how many there are
    #   dropout                  the share that `train.dropout` zeroes
    #   qk_norm                  makes a norm for queries or keys: qk_norm(head_dim)
    # Parameters after `*` are settings. They need a type and a default: `attention.qkv_bias=false` sets this one.
    # Settings named `bias` or `..._bias` are switched off by `bias=false`.
    def __init__(
        self,
        dim: int,
        n_head: int,
        head_dim: int,
        layer_idx: int,
        dropout: float,
        qk_norm,
        *,
        qkv_bias: bool = True,
        out_bias: bool = True,
    ):
        super().__init__()
        self.n_head, self.head_dim, self.layer_idx = n_head, head_dim, layer_idx
        # The role of a matrix decides its initial scale and its weight decay (gptlab/model/roles.py).
        self.q = Linear(dim, n_head * head_dim, qkv_bias, role="input")  # reads the stream
        self.k = Linear(dim, n_head * head_dim, qkv_bias, role="input")
        self.v = Linear(dim, n_head * head_dim, qkv_bias, role="input")
        self.out = Linear(n_head * head_dim, dim, out_bias, role="residual")  # is added to the stream
        self.q_norm, self.k_norm = qk_norm(head_dim), qk_norm(head_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, position: Position, cache: Cache | None = None) -> Tensor:
        """Mix each position with those before it.

        x: (B, T, C). Returns (B, T, C), which the block adds to the stream.
        position: rotates queries and keys; if `position.biases_scores`, it adds `score_bias` to the scores.
        cache: keys and values of earlier tokens while generating, else None; x then holds the new tokens only.
        """
        B, T, _ = x.shape
        start = 0 if cache is None else cache.n_read  # tokens read before
        q, k, v = (f(x).view(B, T, self.n_head, -1).transpose(1, 2) for f in (self.q, self.k, self.v))  # (B, H, T, D)
        q = position.rotate(self.q_norm(q), start, self.layer_idx).to(v.dtype)
        k = position.rotate(self.k_norm(k), start, self.layer_idx).to(v.dtype)
        if cache is not None:
            k, v = cache.of(self).append(k, v)  # keys and values of all tokens so far: (B, H, S, D)
        scores = (q @ k.transpose(-1, -2) * self.head_dim**-0.5).float()  # (B, H, T, S)
        query = torch.arange(start, start + T, device=x.device)[:, None]
        key = torch.arange(start + T, device=x.device)
        if position.biases_scores:
            head = torch.arange(self.n_head, device=x.device)[:, None, None]
            scores = scores + position.score_bias(head, query, key)
        scores = scores.masked_fill(key > query, -torch.inf)  # no token sees a later one
        largest = scores.amax(-1, keepdim=True).clamp(min=0)
        weights = (scores - largest).exp()
        weights = weights / ((-largest).exp() + weights.sum(-1, keepdim=True))
        y = weights.to(v.dtype) @ v  # (B, H, T, D)
        return self.dropout(self.out(y.transpose(1, 2).reshape(B, T, -1)))

    def new_cache(self) -> KVCache:
        """Return an empty cache for this layer; a LayerCache of your own can keep something other than (k, v)."""
        return KVCache()
