"""Causal self-attention with heads of any number and width: (B, T, C) -> (B, T, C)."""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config.registry import register
from gptlab.model.cpu_attention import QUERIES, attend_by_products
from gptlab.model.dropout import Dropout, draws_here
from gptlab.model.position import Position
from gptlab.model.roles import Linear


class KVCache:
    """Keys and values of the tokens seen so far, one pair per layer, each (B, H_kv, T, D)."""

    def __init__(self, n_layer: int):
        self.layers: list[tuple[Tensor, Tensor] | None] = [None] * n_layer

    def length(self, layer_idx: int) -> int:
        layer = self.layers[layer_idx]
        return 0 if layer is None else layer[0].shape[-2]

    def n_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for layer in self.layers for t in layer or ())

    def append(self, layer_idx: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new tokens' and return those of all."""
        layer = self.layers[layer_idx]
        if layer is not None:
            k, v = torch.cat([layer[0], k], -2), torch.cat([layer[1], v], -2)
        self.layers[layer_idx] = (k, v)
        return k, v


@register("attention", "softmax", source="arXiv:1706.03762")
class SoftmaxAttention(nn.Module):
    """softmax(q k^T / sqrt(D)) v over the tokens up to one's own.

    n_kv_head      fewer heads for keys and values than for queries: 1 is MQA (arXiv:1911.02150), more is GQA
                   (arXiv:2305.13245), null as many (MHA).
    head_dim       null: dim / n_head.
    window         the tokens a query sees, itself included; null: all before it.
    pattern        over the layers, repeated: L with the window, G without. LG is Gemma 2's.
    softcap        scores s become c * tanh(s / c) (arXiv:2408.00118).
    scale          of q k^T; null: 1 / sqrt(D).
    inverse_layer_scale   divides it by the layer's number, from 1 (Mistral's GPT-2s).
    clip_qkv       the largest magnitude of q, k and v (OLMo, MPT).
    qk_norm_over   head: one norm of width D for all heads; each_head: one for each; width: one over all heads together.
    """

    def __init__(
        self,
        dim: int,
        n_head: int,
        layer_idx: int,
        dropout: float,
        qk_norm,
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
        self.q_norm = _norm_of_heads(qk_norm, qk_norm_over, self.n_head, self.head_dim)
        self.k_norm = _norm_of_heads(qk_norm, qk_norm_over, self.n_kv_head, self.head_dim)
        self.out_dropout = Dropout(dropout)

    def forward(self, x: Tensor, position: Position, cache: KVCache | None = None) -> Tensor:
        B, T, _ = x.shape
        start = cache.length(self.layer_idx) if cache else 0
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.clip_qkv is not None:
            q, k, v = (t.clamp(-self.clip_qkv, self.clip_qkv) for t in (q, k, v))
        q, k, v = (t.view(B, T, -1, self.head_dim).transpose(1, 2) for t in (q, k, v))  # (B, H, T, D)
        q = position.rotate(self.q_norm(q), start, self.layer_idx)
        k = position.rotate(self.k_norm(k), start, self.layer_idx)
        q, k = q.to(v.dtype), k.to(v.dtype)  # under autocast a norm gives float32, and flex_attention wants one type
        if cache:
            k, v = cache.append(self.layer_idx, k, v)
        y = attend(
            *(q, k, v),
            scale=self.scale,
            window=self.window,
            softcap=self.softcap,
            position=position if position.biases_scores else None,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.out_dropout(self.out(y.transpose(1, 2).reshape(B, T, -1)))


class EachHead(nn.Module):
    """A norm of its own for each head: (B, H, T, D) -> (B, H, T, D)."""

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


def _norm_of_heads(norm: Callable[[int], nn.Module], over: str, n_head: int, head_dim: int) -> nn.Module:
    if over == "each_head":
        return EachHead([norm(head_dim) for _ in range(n_head)])
    return AllHeads(norm(n_head * head_dim)) if over == "width" else norm(head_dim)


def _check(n_head: int, n_kv_head: int | None, window: int | None, pattern: str) -> None:
    if n_kv_head is not None and (n_kv_head < 1 or n_head % n_kv_head):
        raise ValueError(f"n_kv_head={n_kv_head}: must divide size.n_head={n_head}")
    if window is not None and window < 1:
        raise ValueError(f"window={window}: must be at least 1, the token itself")
    if not pattern or set(pattern) - set("LG"):
        raise ValueError(f"pattern={pattern}: a string of L (window) and G (no window), such as LG")
    if window is None and pattern != "L":
        raise ValueError(f"pattern={pattern}: without attention.window there is nothing to alternate")
    if window is not None and "L" not in pattern:
        raise ValueError(f"pattern={pattern}: has no L, so attention.window={window} would be used nowhere")


def _check_positive(**knobs: float | None) -> None:
    for name, value in knobs.items():
        if value is not None and value <= 0:
            raise ValueError(f"{name}={value}: must be above 0; null for none")


LONGEST = 2048  # window of which `attend_by_products` keeps the weights; they grow with its square

_listeners: list[Callable[..., None]] = []  # none in training


@contextmanager
def watched(listen: Callable[..., None]) -> Iterator[None]:
    """Inside, `listen` is told of every call of `attend`: q, k, and what `scores` takes beside them."""
    _listeners.append(listen)
    try:
        yield
    finally:
        _listeners.remove(listen)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    position: Position | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Causal attention of the last T_q of T_k tokens by the fastest way that can express it.

    q (B, H, T_q, D), k and v (B, H_kv, T_k, D) -> (B, H, T_q, D). `position` biases the scores, if given; `scale` is
    1 / sqrt(D), if not.
    """
    for listen in _listeners:
        listen(q, k, scale=scale, window=window, softcap=softcap, position=position)
    plain = window is None and softcap is None and position is None
    if q.is_cuda and not plain and not dropout:
        return attend_by_flex(q, k, v, scale=scale, window=window, softcap=softcap, position=position)
    if softcap is not None:  # scaled_dot_product_attention has no soft cap
        return attend_explicitly(
            q, k, v, scale=scale, window=window, softcap=softcap, position=position, dropout=dropout
        )
    k, v = _repeat_kv(q, k), _repeat_kv(q, v)
    T_q, T_k = q.shape[-2], k.shape[-2]
    if T_q == T_k <= LONGEST and _products_are_faster(q, dropout):
        mask = None if plain else _additive(_mask(q, T_k, window, position), q.dtype)
        scale = scale or q.shape[-1] ** -0.5
        return attend_by_products(q, k, v, mask, scale=scale, window=window, dropout=dropout)
    if plain and T_q == T_k:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout, scale=scale)
    mask = _mask(q, T_k, window, position) if T_q > 1 or not plain else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)


def _products_are_faster(q: Tensor, dropout: float) -> bool:
    """On a CPU, but where torch's compiler, or its plain kernel, was asked for."""
    if q.device.type != "cpu" or torch.compiler.is_compiling() or not torch.backends.cuda.flash_sdp_enabled():
        return False
    if dropout:
        return draws_here(q, dropout)
    return q.shape[-2] > QUERIES or q.dtype == torch.bfloat16


def attend_explicitly(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    position: Position | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """The equation, written out. What the other ways are held to."""
    s = scores(q, k, scale=scale, window=window, softcap=softcap, position=position)
    return F.dropout(s.softmax(-1), dropout) @ _repeat_kv(q, v)


def scores(
    q: Tensor,
    k: Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    position: Position | None = None,
) -> Tensor:
    """What the softmax reads, (B, H, T_q, T_k): scaled, capped, biased, and -inf where a query sees no key."""
    s = q @ _repeat_kv(q, k).transpose(-2, -1) * (scale or q.shape[-1] ** -0.5)
    if softcap is not None:
        s = softcap * torch.tanh(s / softcap)
    mask = _mask(q, k.shape[-2], window, position)
    return s.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else s + mask


def attend_by_flex(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    position: Position | None = None,
) -> Tensor:
    """flex_attention: one fused kernel that skips the blocks no query sees. arXiv:2412.05496"""
    T_q, T_k = q.shape[-2], k.shape[-2]
    offset = T_k - T_q

    def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        return score if position is None else score + position.score_bias(h, i + offset, j)

    attention = _compiled_flex() if q.is_cuda else _flex().flex_attention
    block_mask = _block_mask(T_q, T_k, window, q.device)
    gqa = q.shape[1] != k.shape[1]
    return attention(q, k, v, score_mod=score_mod, block_mask=block_mask, scale=scale, enable_gqa=gqa)


def _flex():
    from torch.nn.attention import flex_attention

    return flex_attention


@functools.cache
def _compiled_flex():
    return torch.compile(_flex().flex_attention, dynamic=False)


@functools.lru_cache(maxsize=64)
def _block_mask(T_q: int, T_k: int, window: int | None, device: torch.device):
    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return _visible(i + T_k - T_q, j, window)

    return _flex().create_block_mask(visible, None, None, T_q, T_k, device=device)


def _visible(query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """Whether the token at position `query` sees the one at `key`."""
    causal = key <= query
    return causal if window is None else causal & (query - key < window)


def _mask(q: Tensor, T_k: int, window: int | None, position: Position | None) -> Tensor:
    """True where a query sees a key, (T_q, T_k); or, with biases, those and -inf elsewhere, (H, T_q, T_k)."""
    T_q = q.shape[-2]
    i = torch.arange(T_k - T_q, T_k, device=q.device)[:, None]
    j = torch.arange(T_k, device=q.device)
    visible = _visible(i, j, window)
    if position is None:
        return visible
    head = torch.arange(q.shape[1], device=q.device)[:, None, None]
    return position.score_bias(head, i, j).masked_fill(~visible, -math.inf).to(q.dtype)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores: 0 where a boolean mask is True, -inf elsewhere."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -math.inf)


def _repeat_kv(q: Tensor, x: Tensor) -> Tensor:
    """(B, H_kv, T, D) -> (B, H, T, D): each key/value head serves H / H_kv neighbouring query heads."""
    return x if x.shape[1] == q.shape[1] else x.repeat_interleave(q.shape[1] // x.shape[1], 1)
