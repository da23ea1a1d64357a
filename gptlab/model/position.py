"""How a model knows where a token stands. Each scheme overrides the one of three hooks that it works through."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from gptlab.config.registry import register
from gptlab.model.roles import table

DOUBLE = torch.float64


class Position(nn.Module):
    """Hooks that all do nothing. `start` is the position of the first of the T tokens, above 0 with a KV cache."""

    biases_scores = False  # whether attention scores get `score_bias` added
    extrapolates = True  # whether positions that training never reached mean something

    def embed(self, x: Tensor, start: int) -> Tensor:
        """Token embeddings, (B, T, C) -> (B, T, C)."""
        return x

    def rotate(self, x: Tensor, start: int, layer_idx: int) -> Tensor:
        """Queries or keys of a layer, (B, H, T, D) -> (B, H, T, D)."""
        return x

    def score_bias(self, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """What is added to the score of `head` between positions `query` and `key`; index tensors that broadcast."""
        raise NotImplementedError  # only called where biases_scores is set


@register("position", "none", source="arXiv:2305.19466")
class NoPosition(Position):
    """No positions: the causal mask alone tells order."""


@register("position", "learned", source="arXiv:1810.04805")
class Learned(Position):
    """A learned vector per position, added to the embeddings: GPT-1 to GPT-3. `offset`: the first's row (OPT: 2)."""

    extrapolates = False

    def __init__(self, dim: int, max_len: int, *, offset: int = 0):
        super().__init__()
        self.offset = _at_least_0(offset)
        self.table = table(offset + max_len, dim, "position", std=0.02)

    def embed(self, x: Tensor, start: int) -> Tensor:
        return x + self.table[start + self.offset :][: x.shape[1]]


@register("position", "sinusoidal", source="arXiv:1706.03762, section 3.5")
class Sinusoidal(Position):
    """Fixed sines and cosines, added to the embeddings.

    Their RMS is 0.71 whatever `init` makes of the embeddings (0.02 with GPT-2's); `scale` multiplies them.
    `layout`: interleaved as in the paper, or all sines before all cosines. `inclusive`: the lowest frequency is
    1/theta itself, as in tensor2tensor's code and XGLM. `offset`: the number of the first position.
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

    def embed(self, x: Tensor, start: int) -> Tensor:
        return x + self.table[start : start + x.shape[1]].to(x.dtype)


@register("position", "rope", source="arXiv:2104.09864")
class RoPE(Position):
    """Rotates pairs of a head's channels of queries and keys by angles that grow with the position.

    fraction      of the head is rotated, its first channels, with frequencies spread over that rotary width.
    pairing       half pairs channel i with i + D/2 (Llama, GPT-NeoX), interleaved 2i with 2i + 1 (the paper, GPT-J).
    pattern       over the layers, repeated: R rotated, N not, L rotated with `local_theta` and no scaling (Gemma 3).
    scaling       for windows longer than `original_window` tokens: linear divides all frequencies by `factor`
                  (arXiv:2306.15595); llama3 those of fewer than `low_freq_factor` turns within it, none of more than
                  `high_freq_factor`, and in between in part (arXiv:2407.21783); yarn likewise with `beta_slow` and
                  `beta_fast`, in part by channel, and multiplies q and k by `attention_factor`, null for
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
        if not pattern or set(pattern) - set("RNL"):
            raise ValueError(f"pattern={pattern}: a string of R (rotated), N (not) and L (with local_theta)")
        if local_theta is None and "L" in pattern:
            raise ValueError(f"local_theta=null: position.pattern={pattern} has an L, which needs one, such as 10000")
        if local_theta is not None and "L" not in pattern:
            raise ValueError(f"local_theta={local_theta}: position.pattern={pattern} has no L, so it is used nowhere")
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
            kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
            frequency = frequency * (kept + (1 - kept) / factor)
        elif scaling == "yarn":
            kept = _kept_by_yarn(self.width, theta, original_window, beta_fast, beta_slow)
            frequency = frequency * (kept + (1 - kept) / factor)
        gain = (attention_factor or yarn_attention_factor(factor)) if scaling == "yarn" else 1.0
        self._add_tables("", frequency, max_len, gain)
        if local_theta is not None:
            self._add_tables("local_", _frequency(self.width, local_theta), max_len)

    def _add_tables(self, prefix: str, frequency: Tensor, max_len: int, gain: float = 1.0) -> None:
        """cos and sin of every position's angles, times `gain`, (max_len, width), as buffers."""
        angle = torch.outer(torch.arange(max_len, dtype=DOUBLE), frequency)
        angle = angle.repeat_interleave(2, -1) if self.interleaved else torch.cat([angle, angle], -1)
        self.register_buffer(f"{prefix}cos", (gain * angle.cos()).float(), persistent=False)
        self.register_buffer(f"{prefix}sin", (gain * angle.sin()).float(), persistent=False)

    def rotate(self, x: Tensor, start: int, layer_idx: int) -> Tensor:
        kind = self.pattern[layer_idx % len(self.pattern)]
        if kind == "N":
            return x
        tables = (self.local_cos, self.local_sin) if kind == "L" else (self.cos, self.sin)
        cos, sin = (t[start : start + x.shape[-2]].to(x.dtype) for t in tables)
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
    """Lowers a score in proportion to the distance, with a slope of its own for each head.

    `scale` multiplies the slopes: 1 / sqrt(D) in Falcon, which scales the scores after adding. `bf16`: slope times
    position is rounded to bfloat16, as Falcon's code does at any precision.
    """

    biases_scores = True

    def __init__(self, n_head: int, *, scale: float = 1.0, bf16: bool = False):
        super().__init__()
        self.scale, self.bf16 = scale, bf16
        self.slopes: Tensor
        self.register_buffer("slopes", torch.tensor(_alibi_slopes(n_head)), persistent=False)

    def score_bias(self, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        if self.bf16:  # of the key's own position: a softmax cannot tell it from the distance, but rounding can
            return (self.slopes.bfloat16()[head] * key.bfloat16()).to(self.slopes.dtype) * self.scale
        return -self.scale * self.slopes[head] * (query - key)


def _at_least_0(offset: int) -> int:
    if offset < 0:
        raise ValueError(f"offset={offset}: must not be negative")
    return offset


def _rotary_width(head_dim: int, fraction: float) -> int:
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction}: must be above 0 and at most 1")
    width = round(fraction * head_dim)
    if width % 2 or width == 0:
        raise ValueError(f"turns pairs of channels, so {fraction:g} x head width {head_dim} must be even and above 0")
    return width


def _frequency(width: int, theta: float) -> Tensor:
    """Of each pair of channels, in radians per token: theta^(-2i / width), (width / 2), float64."""
    return theta ** -(torch.arange(0, width, 2, dtype=DOUBLE) / width)


def _kept_by_yarn(width: int, theta: float, window: int, fast: float, slow: float) -> Tensor:
    """Of each pair of channels the share of its frequency that YaRN keeps, (width / 2): falling linearly from 1 at the
    pair that makes `fast` turns within the window to 0 at `slow`, both rounded away from each other."""
    if theta == 1:
        raise ValueError("theta=1.0: all pairs turn alike, which yarn cannot tell apart; set it above 1")
    at = [width * math.log(window / (2 * math.pi * turns)) / (2 * math.log(theta)) for turns in (fast, slow)]
    first, last = max(math.floor(at[0]), 0), min(math.ceil(at[1]), width - 1)
    passed = (torch.arange(width // 2, dtype=DOUBLE) - first) / (last - first or 0.001)
    return 1 - passed.clamp(0, 1)


def yarn_attention_factor(factor: float) -> float:
    """What keeps the softmax as sharp over a window `factor` times as long: arXiv:2309.00071, equation 22."""
    return 0.1 * math.log(factor) + 1 if factor > 1 else 1.0


def _alibi_slopes(n_head: int) -> list[float]:
    """2^(-8i/n) for n a power of two; else those of the power below and every other one of the power above."""
    below = 2 ** math.floor(math.log2(n_head))
    slopes = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    return slopes + [2 ** (-4 * (i + 1) / below) for i in range(0, 2 * (n_head - below), 2)]
