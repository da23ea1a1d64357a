"""Causal attention on queries, keys and values: `attend` chooses the fastest kernel that can compute a `ScoreRule`."""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.model.cpu_attention import QUERIES, attend_by_products
from gptlab.model.dropout import draws_here
from gptlab.model.position import Position

MAX_PRODUCTS_WINDOW = 2048  # tokens; `attend_by_products` keeps all weights, which grow with the square of the window
MIN_FLEX_WIDTH = 16  # D
FLEX, EXPLICIT, PRODUCTS = "flex_attention", "explicit", "products"
SDPA = "scaled_dot_product_attention"  # torch chooses among its own
kernels_used: set[str] = set()  # by this process; a run clears it at its start


@dataclass(frozen=True)
class ScoreRule:
    """The rule by which causal attention turns q k^T into the scores that the softmax reads.

    Attributes:
        scale: Factor of q k^T; None is 1 / sqrt(D).
        window: Number of tokens that a query sees, itself included; None is all tokens before it.
        softcap: Scores s become c * tanh(s / c); None leaves them as they are.
        position: Position whose `score_bias` is added to the scores; None adds nothing.
    """

    scale: float | None = None
    window: int | None = None
    softcap: float | None = None
    position: Position | None = None

    @property
    def is_plain(self) -> bool:
        """Return whether the rule has only a scale and the causal mask."""
        return self.window is None and self.softcap is None and self.position is None

    def scale_for(self, q: Tensor) -> float:
        """Return the factor of q k^T for queries of width D."""
        return self.scale or q.shape[-1] ** -0.5


PLAIN = ScoreRule()
Listener = Callable[[Tensor, Tensor, ScoreRule], None]
_listeners: list[Listener] = []  # empty in training
_compiles = True  # whether kernels that are compiled for each length may be used


@contextmanager
def observe_attention(listener: Listener) -> Iterator[None]:
    """Call `listener(q, k, rule)` at every call of `attend` inside the context. Diagnostics read scores this way."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def any_length() -> Iterator[None]:
    """Use no kernel inside the context that is compiled for each length: in generation every length comes once."""
    global _compiles
    before, _compiles = _compiles, False
    try:
        yield
    finally:
        _compiles = before


def attend(q: Tensor, k: Tensor, v: Tensor, rule: ScoreRule = PLAIN, *, dropout: float = 0.0) -> Tensor:
    """Return the causal attention of the last T_q of T_k tokens, by the fastest kernel that can express the rule.

    q (B, H, T_q, D), k and v (B, H_kv, T_k, D) -> (B, H, T_q, D). `dropout` is the share of attention weights to drop.
    """
    for listener in _listeners:
        listener(q, k, rule)
    kernel = _choose_kernel(q, k, rule, dropout)
    note_kernel(kernel)
    if kernel == FLEX:
        return attend_by_flex(q, k, v, rule)
    if kernel == EXPLICIT:
        return attend_explicitly(q, k, v, rule, dropout=dropout)
    k, v = _repeat_kv(q, k), _repeat_kv(q, v)
    T_q, T_k = q.shape[-2], k.shape[-2]
    if kernel == PRODUCTS:
        mask = None if rule.is_plain else _additive(_mask(q, T_k, rule), q.dtype)
        return attend_by_products(q, k, v, mask, scale=rule.scale_for(q), window=rule.window, dropout=dropout)
    if rule.is_plain and T_q == T_k:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout, scale=rule.scale)
    mask = _mask(q, T_k, rule) if T_q > 1 or not rule.is_plain else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=rule.scale)


def _choose_kernel(q: Tensor, k: Tensor, rule: ScoreRule, dropout: float) -> str:
    """Return the name of the fastest kernel that can compute the rule."""
    T_q, T_k, D = q.shape[-2], k.shape[-2], q.shape[-1]
    # flex_attention's compiled kernel refuses narrower heads, and would be compiled anew for every T_k of a cache.
    if _compiles and q.is_cuda and not rule.is_plain and not dropout and D >= MIN_FLEX_WIDTH and T_q == T_k:
        return FLEX
    if rule.softcap is not None:  # scaled_dot_product_attention has no soft cap
        return EXPLICIT
    if T_q == T_k <= MAX_PRODUCTS_WINDOW and _products_are_faster(q, dropout):
        return PRODUCTS
    return SDPA


def note_kernel(kernel: str) -> None:
    """Add to `kernels_used`. A compiler calls it when it traces the model: see `prepare_compiler`."""
    kernels_used.add(kernel)


def _products_are_faster(q: Tensor, dropout: float) -> bool:
    """Return whether `attend_by_products` beats torch: on a CPU, unless a compiler or the plain kernel is asked for."""
    if q.device.type != "cpu" or torch.compiler.is_compiling() or not torch.backends.cuda.flash_sdp_enabled():
        return False
    if dropout:
        return draws_here(q, dropout)
    return q.shape[-2] > QUERIES or q.dtype == torch.bfloat16


def attend_explicitly(q: Tensor, k: Tensor, v: Tensor, rule: ScoreRule = PLAIN, *, dropout: float = 0.0) -> Tensor:
    """Compute `attend` step by step from its equation. Tests compare the other kernels with this one."""
    return F.dropout(scores(q, k, rule).softmax(-1), dropout) @ _repeat_kv(q, v)


def scores(q: Tensor, k: Tensor, rule: ScoreRule = PLAIN) -> Tensor:
    """Return the scores that the softmax reads: scaled, capped, biased, and -inf where a query must not see a key.

    q (B, H, T_q, D), k (B, H_kv, T_k, D) -> (B, H, T_q, T_k).
    """
    s = q @ _repeat_kv(q, k).transpose(-2, -1) * rule.scale_for(q)
    if rule.softcap is not None:
        s = rule.softcap * torch.tanh(s / rule.softcap)
    mask = _mask(q, k.shape[-2], rule)
    return s.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else s + mask


def attend_by_flex(q: Tensor, k: Tensor, v: Tensor, rule: ScoreRule = PLAIN) -> Tensor:
    """Compute `attend` in one fused kernel that skips blocks without a visible key. arXiv:2412.05496."""
    T_q, T_k = q.shape[-2], k.shape[-2]
    offset = T_k - T_q
    softcap, position = rule.softcap, rule.position

    def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        return score if position is None else score + position.score_bias(h, i + offset, j)

    attention = _compiled_flex() if q.is_cuda else _flex().flex_attention
    block_mask = _block_mask(T_q, T_k, rule.window, q.device)
    gqa = q.shape[1] != k.shape[1]
    return attention(q, k, v, score_mod=score_mod, block_mask=block_mask, scale=rule.scale, enable_gqa=gqa)


def _flex() -> Any:
    from torch.nn.attention import flex_attention  # its import takes time that only GPUs need to spend

    return flex_attention


@functools.cache
def _compiled_flex() -> Any:
    return torch.compile(_flex().flex_attention, dynamic=False)


@functools.lru_cache(maxsize=64)
def _block_mask(T_q: int, T_k: int, window: int | None, device: torch.device) -> Any:
    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return _visible(i + T_k - T_q, j, window)

    return _flex().create_block_mask(visible, None, None, T_q, T_k, device=device)


def _visible(query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """Return whether the token at position `query` sees the one at position `key`."""
    causal = key <= query
    return causal if window is None else causal & (query - key < window)


def _mask(q: Tensor, T_k: int, rule: ScoreRule) -> Tensor:
    """Return the mask of the last T_q of T_k tokens.

    Without a position it is boolean, (T_q, T_k), and True where a query sees a key. With one it holds the biases, and
    -inf where a query sees no key, (H, T_q, T_k).
    """
    T_q = q.shape[-2]
    i = torch.arange(T_k - T_q, T_k, device=q.device)[:, None]
    j = torch.arange(T_k, device=q.device)
    visible = _visible(i, j, rule.window)
    if rule.position is None:
        return visible
    head = torch.arange(q.shape[1], device=q.device)[:, None, None]
    return rule.position.score_bias(head, i, j).masked_fill(~visible, -math.inf).to(q.dtype)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask to add to the scores: for a boolean one, 0 where it is True and -inf elsewhere."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -math.inf)


def _repeat_kv(q: Tensor, x: Tensor) -> Tensor:
    """Repeat each key/value head for the H / H_kv query heads next to each other: (B, H_kv, T, D) -> (B, H, T, D)."""
    return x if x.shape[1] == q.shape[1] else x.repeat_interleave(q.shape[1] // x.shape[1], 1)
