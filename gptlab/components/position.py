"""How a model knows where a token stands. Each scheme overrides the one of three hooks that it works through."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from gptlab.components.parameters import tag
from gptlab.registry import register


class Position(nn.Module):
    """Hooks that all do nothing. `start` is the position of the first of the T tokens, above 0 with a KV cache."""

    biases_scores = False  # whether attention scores get `score_bias` added

    def embed(self, x: Tensor, start: int) -> Tensor:
        """Token embeddings, (B, T, C) -> (B, T, C)."""
        return x

    def rotate(self, x: Tensor, start: int) -> Tensor:
        """Queries or keys, (B, H, T, D) -> (B, H, T, D)."""
        return x

    def score_bias(self, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """What is added to the score of `head` between positions `query` and `key`; index tensors that broadcast."""
        raise NotImplementedError  # only called where biases_scores is set


@register("position", "none", source="arXiv:2305.19466")
class NoPosition(Position):
    """No positions: the causal mask alone tells order."""


@register("position", "learned", source="arXiv:1810.04805")
class Learned(Position):
    """A learned vector per position, added to the embeddings: GPT-1 to GPT-3."""

    def __init__(self, dim: int, max_len: int):
        super().__init__()
        self.table = tag(nn.Parameter(torch.empty(max_len, dim)), "position")
        nn.init.normal_(self.table, std=0.02)

    def embed(self, x: Tensor, start: int) -> Tensor:
        return x + self.table[start : start + x.shape[1]]


@register("position", "sinusoidal", source="arXiv:1706.03762, section 3.5")
class Sinusoidal(Position):
    """Fixed sines and cosines, interleaved, added to the embeddings.

    Their RMS is 0.71 whatever `init` makes of the embeddings (0.02 with GPT-2's); `scale` multiplies them.
    """

    def __init__(self, dim: int, max_len: int, *, theta: float = 10000.0, scale: float = 1.0):
        super().__init__()
        angle = _angles(max_len, dim + dim % 2, theta)
        table = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :dim] * scale
        self.table: Tensor
        self.register_buffer("table", table.float(), persistent=False)

    def embed(self, x: Tensor, start: int) -> Tensor:
        return x + self.table[start : start + x.shape[1]].to(x.dtype)


@register("position", "rope", source="arXiv:2104.09864")
class RoPE(Position):
    """Rotates pairs of a head's channels of queries and keys by angles that grow with the position.

    `fraction` of the head is rotated, its first channels, with frequencies spread over that rotary width.
    `pairing`: half pairs channel i with i + D/2 (Llama, GPT-NeoX), interleaved pairs 2i with 2i + 1 (the paper, GPT-J).
    """

    def __init__(
        self,
        head_dim: int,
        max_len: int,
        *,
        theta: float = 10000.0,
        fraction: float = 1.0,
        pairing: Literal["half", "interleaved"] = "half",
    ):
        super().__init__()
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction={fraction}: must be above 0 and at most 1")
        if theta <= 0:
            raise ValueError(f"theta={theta}: must be above 0")
        self.width = round(fraction * head_dim)
        if self.width % 2 or self.width == 0:
            raise ValueError(
                f"turns pairs of channels, so {fraction:g} x head width {head_dim} must be even and above 0"
            )
        self.interleaved = pairing == "interleaved"
        angle = _angles(max_len, self.width, theta)
        angle = angle.repeat_interleave(2, -1) if self.interleaved else torch.cat([angle, angle], -1)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", angle.cos().float(), persistent=False)  # (max_len, width)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def rotate(self, x: Tensor, start: int) -> Tensor:
        cos, sin = (t[start : start + x.shape[-2]].to(x.dtype) for t in (self.cos, self.sin))
        if self.width == x.shape[-1]:
            return x * cos + self._turn(x) * sin
        turned, kept = x[..., : self.width], x[..., self.width :]
        return torch.cat([turned * cos + self._turn(turned) * sin, kept], -1)

    def _turn(self, x: Tensor) -> Tensor:
        """Each pair (a, b) -> (-b, a)."""
        if self.interleaved:
            return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        a, b = x.chunk(2, -1)
        return torch.cat([-b, a], -1)


@register("position", "alibi", source="arXiv:2108.12409")
class ALiBi(Position):
    """Lowers a score in proportion to the distance, with a slope of its own for each head."""

    biases_scores = True

    def __init__(self, n_head: int):
        super().__init__()
        self.slopes: Tensor
        self.register_buffer("slopes", torch.tensor(_alibi_slopes(n_head)), persistent=False)

    def score_bias(self, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return -self.slopes[head] * (query - key)


def _angles(max_len: int, width: int, theta: float) -> Tensor:
    """position / theta^(2i / width): (max_len, width / 2), float64."""
    frequency = theta ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.outer(torch.arange(max_len, dtype=torch.float64), frequency)


def _alibi_slopes(n_head: int) -> list[float]:
    """2^(-8i/n) for n a power of two; else those of the power below and every other one of the power above."""
    below = 2 ** math.floor(math.log2(n_head))
    slopes = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    return slopes + [2 ** (-4 * (i + 1) / below) for i in range(0, 2 * (n_head - below), 2)]
