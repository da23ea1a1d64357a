"""How the matrices and tables start. An option draws one tensor in place, by its role; vectors are not drawn:
gains start at 1 (or what their component says) and biases at 0, except in torch's default.

fan_in and fan_out of a (n_out, n_in) matrix are n_in and n_out; a table (V, C) counts as the matrix it is in the head.
"""

import math
from typing import Literal

from torch import Generator, Tensor, nn

from gptlab.registry import register

TABLES = ("embedding", "position")
VECTORS = ("gain", "bias")


@register("init", "gpt2", source="GPT-2 (2019), section 2.3")
class GPT2Init:
    """N(0, std), and for what is added to the stream std / sqrt(2 L), as there are 2 L such matrices."""

    def __init__(self, n_layer: int, *, std: float = 0.02):
        self.std, self.residual_std = std, std / math.sqrt(2 * n_layer)

    def draw(self, p: Tensor, role: str, gain: float, generator: Generator) -> None:
        if role not in VECTORS:
            nn.init.normal_(p, std=self.residual_std if role == "residual" else self.std, generator=generator)


@register("init", "kaiming", source="arXiv:1502.01852, equation 10")
class KaimingInit:
    """gain / sqrt(fan_in), with the gain of the non-linearity that the matrix reads: sqrt(2) after ReLU."""

    def __init__(self, *, distribution: Literal["normal", "uniform"] = "normal"):
        self.distribution = distribution

    def draw(self, p: Tensor, role: str, gain: float, generator: Generator) -> None:
        if role not in VECTORS:
            _fill(p, gain / math.sqrt(p.shape[-1]), self.distribution, generator)


@register("init", "xavier", source="Glorot and Bengio (2010), equation 16")
class XavierInit:
    """Variance 2 / (fan_in + fan_out); tables 1 / C, since a vocabulary is no width."""

    def __init__(self, *, distribution: Literal["uniform", "normal"] = "uniform"):
        self.distribution = distribution

    def draw(self, p: Tensor, role: str, gain: float, generator: Generator) -> None:
        if role not in VECTORS:
            fans = 2 * p.shape[-1] if role in (*TABLES, "head") else sum(p.shape[-2:])
            _fill(p, math.sqrt(2 / fans), self.distribution, generator)


@register("init", "small", source="arXiv:1910.05895, section 3.1")
class SmallInit:
    """Variance 2 / (5 C) for every matrix, of a normal distribution truncated at three standard deviations."""

    def __init__(self, dim: int):
        self.std = math.sqrt(2 / (5 * dim))

    def draw(self, p: Tensor, role: str, gain: float, generator: Generator) -> None:
        if role not in VECTORS:
            nn.init.trunc_normal_(p, std=self.std, a=-3 * self.std, b=3 * self.std, generator=generator)


@register("init", "torch", source="torch.nn.Linear, torch.nn.Embedding")
class TorchInit:
    """torch's default: matrices and their biases uniform within 1 / sqrt(fan_in), tables N(0, 1)."""

    def draw(self, p: Tensor, role: str, gain: float, generator: Generator) -> None:
        if role in TABLES:
            nn.init.normal_(p, generator=generator)
        elif role not in VECTORS:
            bound = 1 / math.sqrt(p.shape[-1])
            nn.init.uniform_(p, -bound, bound, generator=generator)
        elif role == "bias" and getattr(p, "fan_in", None):
            bound = 1 / math.sqrt(p.fan_in)  # type: ignore[attr-defined]
            nn.init.uniform_(p, -bound, bound, generator=generator)


def _fill(p: Tensor, std: float, distribution: str, generator: Generator) -> None:
    if distribution == "normal":
        nn.init.normal_(p, std=std, generator=generator)
    else:
        nn.init.uniform_(p, -math.sqrt(3) * std, math.sqrt(3) * std, generator=generator)
