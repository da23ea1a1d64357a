"""Positions of tokens. Each scheme overrides the one of three hooks through which it works."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from gptlab.config.registry import register
from gptlab.model.roles import table

DOUBLE = torch.float64


class Position(nn.Module):
    """Base of positions, with hooks that do nothing.

    `start` is the position of the first of the T tokens. It is above 0 when a cache holds earlier ones.

    Attributes:
        biases_scores: Whether `score_bias` is added to attention scores.
        extrapolates: Whether positions beyond those of training have a meaning.
    """

    biases_scores = False
    extrapolates = True

    def embed(self, x: Tensor, start: int = 0) -> Tensor:
        """Change token embeddings: (B, T, C) -> (B, T, C)."""
        return x

    def rotate(self, x: Tensor, start: int = 0, layer_idx: int = 0) -> Tensor:
        """Change queries or keys of a layer: (B, H, T, D) -> (B, H, T, D)."""
        return x

    def score_bias(self, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Return the bias of a head's score between two positions; the arguments are index tensors that broadcast."""
        raise NotImplementedError  # called only if biases_scores is set

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Apply the scheme to embeddings, (B, T, C), or to queries or keys, (B, H, T, D). For use outside a model."""
        return self.embed(x, start) if x.ndim == 3 else self.rotate(x, start)


@register("position", "none", source="arXiv:2305.19466")
class NoPosition(Position):
    """No positions: only the causal mask shows the order of tokens."""


@register("position", "learned", source="arXiv:1810.04805")
class Learned(Position):
    """A learned vector per position, added to the embeddings, as in GPT-1 to GPT-3.

    offset   row of the first position (2 in OPT).
    """

    extrapolates = False

    def __init__(self, dim: int, max_len: int, *, offset: int = 0):
        super().__init__()
        self.offset = _at_least_0(offset)
        self.table = table(offset + max_len, dim, "position", std=0.02)

    def embed(self, x: Tensor, start: int = 0) -> Tensor:
        return x + self.table[start + self.offset :][: x.shape[1]]


@register("position", "sinusoidal", source="arXiv:1706.03762, section 3.5")
class Sinusoidal(Position):
    """Fixed sines and cosines, added to the embeddings.

    scale       factor of the waves, whose RMS is 0.71; the embeddings' depends on `init` (0.02 with GPT-2's).
    layout      interleaved, as in the paper, or halves: all sines before all cosines.
    inclusive   the lowest frequency is 1/theta itself, as in tensor2tensor's code and XGLM.
    offset      number of the first position.
    """

    def __init__(
        self,
        dim: int,
        max_len: int,
        *,
        theta: float = 10000.0,
        scale: float = 1.0,
        layout: Literal["interleaved", "halves"] = "interleaved",
        inclusive: bool = False,
        offset: int = 0,
    ):
        super().__init__()
        if inclusive and dim < 4:
            raise ValueError(f"inclusive=true: needs size.dim of at least 4, not {dim}")
        even = dim + dim % 2
        frequency = theta ** -torch.linspace(0, 1, even // 2, dtype=DOUBLE) if inclusive else _frequency(even, theta)
        angle = torch.outer(torch.arange(_at_least_0(offset), offset + max_len, dtype=DOUBLE), frequency)
        waves = [angle.sin(), angle.cos()]
        table = torch.stack(waves, -1).flatten(1) if layout == "interleaved" else torch.cat(waves, -1)
        self.table: Tensor
        self.register_buffer("table", (table[:, :dim] * scale).float(), persistent=False)

    def embed(self, x: Tensor, start: int = 0) -> Tensor:
        return x + self.table[start : start + x.shape[1]].to(x.dtype)


@register("position", "rope", source="arXiv:2104.09864")
class RoPE(Position):
    """Rotates pairs of channels of queries and keys by angles that grow with the position.

    fraction      share of the head that is rotated, its first channels; frequencies are spread over that width.
    pairing       half: channel i with i + D/2 (Llama, GPT-NeoX); interleaved: 2i with 2i + 1 (the paper, GPT-J).
    pattern       repeated over the layers: R rotated, N not rotated, L rotated with `local_theta` and without scaling
                  (Gemma 3).
    scaling       for windows longer than `original_window` tokens. linear: divide all frequencies by `factor`
                  (arXiv:2306.15595). llama3: divide those of fewer than `low_freq_factor` turns per window, keep those
                  of more than `high_freq_factor`, and blend in between (arXiv:2407.21783). yarn: likewise with
                  `beta_slow` and `beta_fast`, and multiply q and k by `attention_factor`; null is
                  0.1 ln(factor) + 1 (arXiv:2309.00071).
    """

    def __init__(
        self,
        head_dim: int,
        max_len: int,
        *,
        theta: float = 10000.0,
        fraction: float = 1.0,
        pairing: Literal["half", "interleaved"] = "half",
        pattern: str = "R",
        local_theta: float | None = None,
        scaling: Literal["none", "linear", "llama3", "yarn"] = "none",
        factor: float = 8.0,
        original_window: int = 8192,
        low_freq_factor: float = 1.0,
        high_freq_factor: float = 4.0,
        beta_slow: float = 1.0,
        beta_fast: float = 32.0,
        attention_factor: float | None = None,
    ):
        super().__init__()
        self.cos: Tensor
        self.sin: Tensor
        self.local_cos: Tensor
        self.local_sin: Tensor
        self.width = _rotary_width(head_dim, fraction)
        _check_pattern(pattern, local_theta)
        positive = {"theta": theta, "local_theta": local_theta, "factor": factor, "original_window": original_window}
        positive |= {"beta_slow": beta_slow, "beta_fast": beta_fast, "attention_factor": attention_factor}
        for name, value in positive.items():
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value}: must be above 0")
        self.interleaved, self.pattern = pairing == "interleaved", pattern
        frequency = _frequency(self.width, theta)
        if scaling == "linear":
            frequency = frequency / factor
        elif scaling == "llama3":
            if not 0 <= low_freq_factor < high_freq_factor:
                raise ValueError(f"low_freq_factor={low_freq_factor}: must be below {high_freq_factor=}, from 0 up")
            turns = frequency * original_window / (2 * math.pi)
            share_kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
            frequency = frequency * (share_kept + (1 - share_kept) / factor)
        elif scaling == "yarn":
            share_kept = _kept_by_yarn(self.width, theta, original_window, beta_fast, beta_slow)
            frequency = frequency * (share_kept + (1 - share_kept) / factor)
        gain = (attention_factor or yarn_attention_factor(factor)) if scaling == "yarn" else 1.0
        self._waves: dict[str, tuple[Tensor, float]] = {}  # frequencies and gain, for positions beyond the tables
        self._add_tables("", frequency, max_len, gain)
        if local_theta is not None:
            self._add_tables("local_", _frequency(self.width, local_theta), max_len)

    def _add_tables(self, prefix: str, frequency: Tensor, max_len: int, gain: float = 1.0) -> None:
        """Register cos and sin of the angles, times `gain`, as buffers with a row per position: (max_len, width)."""
        self._waves[prefix] = frequency, gain
        cos, sin = self._cos_sin(prefix, torch.arange(max_len, dtype=DOUBLE))
        self.register_buffer(f"{prefix}cos", cos, persistent=False)
        self.register_buffer(f"{prefix}sin", sin, persistent=False)

    def _cos_sin(self, prefix: str, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin of the angles at positions, (T,), each (T, width) in float32."""
        frequency, gain = self._waves[prefix]
        angle = torch.outer(positions, frequency)
        angle = angle.repeat_interleave(2, -1) if self.interleaved else torch.cat([angle, angle], -1)
        return (gain * angle.cos()).float(), (gain * angle.sin()).float()

    def rotate(self, x: Tensor, start: int = 0, layer_idx: int = 0) -> Tensor:
        """(B, H, T, D) -> (B, H, T, D), at any positions; those from max_len on are computed at every call."""
        kind = self.pattern[layer_idx % len(self.pattern)]
        if kind == "N":
            return x
        stop = start + x.shape[-2]
        tables = (self.local_cos, self.local_sin) if kind == "L" else (self.cos, self.sin)
        if stop > len(self.cos):
            beyond = torch.arange(start, stop, dtype=DOUBLE)
            cos, sin = (t.to(x) for t in self._cos_sin("local_" if kind == "L" else "", beyond))
        else:
            cos, sin = (t[start:stop].to(x.dtype) for t in tables)
        if self.width == x.shape[-1]:
            return x * cos + self._turn(x) * sin
        rotated, unrotated = x[..., : self.width], x[..., self.width :]
        return torch.cat([rotated * cos + self._turn(rotated) * sin, unrotated], -1)

    def _turn(self, x: Tensor) -> Tensor:
        """Turn each pair of channels (a, b) to (-b, a)."""
        if self.interleaved:
            return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        a, b = x.chunk(2, -1)
        return torch.cat([-b, a], -1)


@register("position", "alibi", source="arXiv:2108.12409")
class ALiBi(Position):
    """Lowers each score in proportion to the distance, with a different slope for each head.

    scale   factor of the slopes: 1 / sqrt(D) in Falcon, which scales the scores after adding them.
    bf16    round slope times position to bfloat16, as Falcon's code does at any precision.
    """

    biases_scores = True

    def __init__(self, n_head: int, *, scale: float = 1.0, bf16: bool = False):
        super().__init__()
        self.scale, self.bf16 = scale, bf16
        self.slopes: Tensor
        self.register_buffer("slopes", torch.tensor(_alibi_slopes(n_head)), persistent=False)

    def score_bias(self, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        if self.bf16:  # use the key's position: a softmax gives the same, but the rounding differs
            return (self.slopes.bfloat16()[head] * key.bfloat16()).to(self.slopes.dtype) * self.scale
        return -self.scale * self.slopes[head] * (query - key)


def _at_least_0(offset: int) -> int:
    if offset < 0:
        raise ValueError(f"offset={offset}: must not be negative")
    return offset


def _check_pattern(pattern: str, local_theta: float | None) -> None:
    if not pattern or set(pattern) - set("RNL"):
        raise ValueError(f"pattern={pattern}: must be a string of R (rotated), N (not) and L (with local_theta)")
    if local_theta is None and "L" in pattern:
        raise ValueError(f"local_theta=null: position.pattern={pattern} has an L, which needs one, such as 10000")
    if local_theta is not None and "L" not in pattern:
        raise ValueError(f"local_theta={local_theta}: position.pattern={pattern} has no L to use it; add an L")


def _rotary_width(head_dim: int, fraction: float) -> int:
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction}: must be above 0 and at most 1")
    width = round(fraction * head_dim)
    if width % 2 or width == 0:
        raise ValueError(f"turns pairs of channels, so {fraction:g} x head width {head_dim} must be even and above 0")
    return width


def _frequency(width: int, theta: float) -> Tensor:
    """Return each pair's frequency in radians per token: theta^(-2i / width), (width / 2,) in float64."""
    return theta ** -(torch.arange(0, width, 2, dtype=DOUBLE) / width)


def _kept_by_yarn(width: int, theta: float, window: int, fast: float, slow: float) -> Tensor:
    """Return the share of each pair's frequency that YaRN keeps, (width / 2,).

    It falls linearly from 1 at the pair that makes `fast` turns within the window to 0 at the one that makes `slow`
    turns, both rounded away from each other.
    """
    if theta == 1:
        raise ValueError("theta=1.0: yarn needs pairs of different frequencies; set it above 1")
    at = [width * math.log(window / (2 * math.pi * turns)) / (2 * math.log(theta)) for turns in (fast, slow)]
    first, last = max(math.floor(at[0]), 0), min(math.ceil(at[1]), width - 1)
    passed = (torch.arange(width // 2, dtype=DOUBLE) - first) / (last - first or 0.001)
    return 1 - passed.clamp(0, 1)


def yarn_attention_factor(factor: float) -> float:
    """Return the factor that keeps the softmax sharp in a `factor` times longer window (arXiv:2309.00071, eq. 22)."""
    return 0.1 * math.log(factor) + 1 if factor > 1 else 1.0


def _alibi_slopes(n_head: int) -> list[float]:
    """Return 2^(-8i/n) if n is a power of two; else the slopes of the power below and every other one of that above."""
    below = 2 ** math.floor(math.log2(n_head))
    slopes = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    return slopes + [2 ** (-4 * (i + 1) / below) for i in range(0, 2 * (n_head - below), 2)]
