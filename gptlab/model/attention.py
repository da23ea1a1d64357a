"""Causal self-attention with heads of any number and width: (B, T, C) -> (B, T, C)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from gptlab.config.registry import register
from gptlab.model.attention_kernels import ScoreRule, attend
from gptlab.model.cache import Cache, LayerCache
from gptlab.model.dropout import Dropout
from gptlab.model.position import Position
from gptlab.model.roles import Linear

NO_POSITION = Position()


class KVCache(LayerCache):
    """The keys and values of the tokens read so far: `tensors` is the pair, each (B, H_kv, T, D)."""

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens and return those of all tokens."""
        if self.tensors:
            k, v = torch.cat([self.tensors[0], k], -2), torch.cat([self.tensors[1], v], -2)
        self.tensors = (k, v)
        return k, v


@register("attention", "softmax", source="arXiv:1706.03762")
class SoftmaxAttention(nn.Module):
    """softmax(q k^T / sqrt(D)) v over the tokens up to the query's own.

    n_kv_head      number of key/value heads: 1 is MQA (arXiv:1911.02150), fewer than n_head is GQA (arXiv:2305.13245),
                   null is n_head (MHA).
    head_dim       null: dim / n_head.
    window         number of tokens that a query sees, itself included; null: all tokens before it.
    pattern        repeated over the layers: L has the window, G does not. Gemma 2 uses LG.
    softcap        scores s become c * tanh(s / c) (arXiv:2408.00118).
    scale          factor of q k^T; null: 1 / sqrt(D).
    inverse_layer_scale   divide the scale by the layer's number, counted from 1 (Mistral's GPT-2 models).
    clip_qkv       clamp q, k and v to this magnitude (OLMo, MPT).
    qk_norm_over   head: one norm of width D shared by all heads; each_head: a norm for each head; width: one norm over
                   all heads together.
    """

    def __init__(
        self,
        dim: int,
        n_head: int,
        layer_idx: int = 0,
        dropout: float = 0.0,
        qk_norm: Callable[[int], nn.Module] = nn.Identity,
        *,
        n_kv_head: int | None = None,
        head_dim: int | None = None,
        window: int | None = None,
        pattern: str = "L",
        softcap: float | None = None,
        scale: float | None = None,
        inverse_layer_scale: bool = False,
        clip_qkv: float | None = None,
        qk_norm_over: Literal["head", "each_head", "width"] = "head",
        qkv_bias: bool = True,
        out_bias: bool = True,
    ):
        super().__init__()
        _check(n_head, n_kv_head, window, pattern)
        _check_positive(softcap=softcap, scale=scale, clip_qkv=clip_qkv)
        self.n_head, self.n_kv_head = n_head, n_kv_head or n_head
        self.head_dim = head_dim or dim // n_head
        self.layer_idx, self.dropout, self.softcap, self.clip_qkv = layer_idx, dropout, softcap, clip_qkv
        self.scale = (scale or self.head_dim**-0.5) / (layer_idx + 1 if inverse_layer_scale else 1)
        self.window = window if pattern[layer_idx % len(pattern)] == "L" else None
        self.q = Linear(dim, self.n_head * self.head_dim, qkv_bias)
        self.k = Linear(dim, self.n_kv_head * self.head_dim, qkv_bias)
        self.v = Linear(dim, self.n_kv_head * self.head_dim, qkv_bias)
        self.out = Linear(self.n_head * self.head_dim, dim, out_bias, role="residual")
        self.q_norm = norm_heads(qk_norm, qk_norm_over, self.n_head, self.head_dim)
        self.k_norm = norm_heads(qk_norm, qk_norm_over, self.n_kv_head, self.head_dim)
        self.out_dropout = Dropout(dropout)

    def forward(self, x: Tensor, position: Position = NO_POSITION, cache: Cache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C). With a cache, x holds the tokens that follow the `cache.n_read` read before."""
        B, T, _ = x.shape
        start = 0 if cache is None else cache.n_read
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.clip_qkv is not None:
            q, k, v = (t.clamp(-self.clip_qkv, self.clip_qkv) for t in (q, k, v))
        q, k, v = (t.view(B, T, -1, self.head_dim).transpose(1, 2) for t in (q, k, v))  # (B, H, T, D)
        q = position.rotate(self.q_norm(q), start, self.layer_idx)
        k = position.rotate(self.k_norm(k), start, self.layer_idx)
        q, k = q.to(v.dtype), k.to(v.dtype)  # norms return float32 under autocast; flex_attention needs one type
        if cache is not None:
            k, v = cache.of(self).append(k, v)
        rule = ScoreRule(self.scale, self.window, self.softcap, position if position.biases_scores else None)
        y = attend(q, k, v, rule, dropout=self.dropout if self.training else 0.0)
        return self.out_dropout(self.out(y.transpose(1, 2).reshape(B, T, -1)))

    def new_cache(self) -> KVCache:
        return KVCache()


class EachHead(nn.Module):
    """A separate norm for each head: (B, H, T, D) -> (B, H, T, D)."""

    def __init__(self, norms: list[nn.Module]):
        super().__init__()
        self.norms = nn.ModuleList(norms)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([norm(h) for norm, h in zip(self.norms, x.unbind(1), strict=True)], 1)


class AllHeads(nn.Module):
    """One norm over all heads together: (B, H, T, D) -> (B, H, T, D)."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2).flatten(2)).unflatten(2, (x.shape[1], -1)).transpose(1, 2)


def norm_heads(norm: Callable[[int], nn.Module], over: str, n_head: int, head_dim: int) -> nn.Module:
    """Return the norm of queries or keys, (B, H, T, D), that `qk_norm_over` asks for; `norm(width)` makes one."""
    if over == "each_head":
        return EachHead([norm(head_dim) for _ in range(n_head)])
    return AllHeads(norm(n_head * head_dim)) if over == "width" else norm(head_dim)


def _check(n_head: int, n_kv_head: int | None, window: int | None, pattern: str) -> None:
    if n_kv_head is not None and (n_kv_head < 1 or n_head % n_kv_head):
        raise ValueError(f"n_kv_head={n_kv_head}: must divide size.n_head={n_head}")
    if window is not None and window < 1:
        raise ValueError(f"window={window}: must be at least 1, the token itself")
    if not pattern or set(pattern) - set("LG"):
        raise ValueError(f"pattern={pattern}: must be a string of L (window) and G (no window), such as LG")
    if window is None and pattern != "L":
        raise ValueError(f"pattern={pattern}: needs attention.window; set it, or leave the pattern out")
    if window is not None and "L" not in pattern:
        raise ValueError(f"pattern={pattern}: has no L, so no layer would use attention.window={window}; add an L")


def _check_positive(**settings: float | None) -> None:
    for name, value in settings.items():
        if value is not None and value <= 0:
            raise ValueError(f"{name}={value}: must be above 0; null for none")
