"""Initial weights. An option draws one tensor in place, by its role.

Vectors are not drawn: gains start at 1 (or at what their component says) and biases at 0, except in torch's default.
An option may also have `with_settings(tree)`, which returns the config with the settings of other components that it
changes, `lr_scale(role)`, `uses_gain`, and `describe()`, a line for the user.

fan_in and fan_out of an (n_out, n_in) matrix are n_in and n_out; a table (V, C) counts as the matrix that it is in the
head.
"""

import hashlib
import math
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from gptlab.config import ConfigError
from gptlab.config.registry import register
from gptlab.model.roles import HIDDEN, role_of

TABLES = ("embedding", "position")
VECTORS = ("gain", "bias")


def initialise(model: nn.Module, init: Any, seed: int) -> None:
    """Draw every weight from (seed, its name) alone, so that no weight depends on which other components there are.

    A component that has `init_weights(generator)` draws its own parameters. `init` draws the others by role, and may
    scale the learning rates of all of them.
    """
    if hasattr(init, "lr_scale"):
        for p in model.parameters():
            p.lr_scale = init.lr_scale(role_of(p))  # type: ignore[attr-defined]
    for path, module in model.named_modules():
        if hasattr(module, "init_weights"):
            module.init_weights(_generator(seed, path))
            continue
        for name, p in module.named_parameters(path, recurse=False):
            if p.is_meta:
                continue
            with torch.no_grad():
                init.draw(p, role_of(p), getattr(p, "gain", 1.0), _generator(seed, name))


def _generator(seed: int, name: str) -> Generator:
    return Generator("cpu").manual_seed(seed_number(seed, name))


def seed_number(seed: int, name: str) -> int:
    """Return a number below 2^63 that depends on (seed, name) alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1


@register("init", "gpt2", source="GPT-2 (2019), section 2.3")
class GPT2Init:
    """N(0, std); matrices that write to the stream N(0, std / sqrt(2 L)), as there are 2 L of them.

    head_std   standard deviation of an untied output matrix; null: std.
    """

    def __init__(self, n_layer: int, *, std: float = 0.02, head_std: float | None = None):
        _check_not_negative(std=std, head_std=head_std)
        self.std, self.residual_std, self.head_std = std, std / math.sqrt(2 * n_layer), head_std

    def with_settings(self, tree: dict[str, Any]) -> dict[str, Any]:
        """Return the config unchanged; reject a `head_std` that no matrix would have."""
        if self.head_std is not None and tree["head"].get("tied"):
            raise ConfigError(f"init.head_std={self.head_std}: a tied head is the token table; set head.tied=false")
        return tree

    def draw(self, p: Tensor, role: str, gain: float, generator: Generator) -> None:
        if role not in VECTORS:
            nn.init.normal_(p, std=self._std(role), generator=generator)

    def _std(self, role: str) -> float:
        if role == "head" and self.head_std is not None:
            return self.head_std
        return self.residual_std if role == "residual" else self.std


@register("init", "mup", source="arXiv:2203.03466, table 8")
class MuPInit(GPT2Init):
    """gpt2 at base_width; at m times that width, scaled so that the best learning rate stays the same.

    Matrices of the blocks: std / sqrt(m), learning rate / m. Logits / m. Attention scores times base_head_dim / D, so
    that they scale with 1 / D instead of 1 / sqrt(D). Tables, an untied output matrix, gains and biases stay as they
    are. `m` is size.dim / base_width; the widths of the FFN and of all heads together should grow with it. Settings of
    other components, such as attention.scale, head.scale and optimizer.lr, are those at the base width.
    """

    def __init__(
        self,
        n_layer: int,
        dim: int,
        head_dim: int,
        *,
        std: float = 0.02,
        head_std: float | None = None,
        base_width: int = 128,
        base_head_dim: int = 32,
    ):
        super().__init__(n_layer, std=std, head_std=head_std)
        for name, value in {"base_width": base_width, "base_head_dim": base_head_dim}.items():
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self.m, self.head_m, self.base_head_dim = dim / base_width, head_dim / base_head_dim, base_head_dim

    def with_settings(self, tree: dict[str, Any]) -> dict[str, Any]:
        """Return the config with attention.scale and head.scale divided; reject widths that mup does not cover."""
        tree = super().with_settings(tree)
        embedding, attention, head = tree["embedding"], tree["attention"], tree["head"]
        for slot, component in {"attention": attention, "head": head}.items():
            if "scale" not in component:
                raise ConfigError(f"{slot}={component['name']}: has no setting 'scale' for init=mup to divide; add one")
        for key, value in {"embedding.width": embedding.get("width"), "head.width": head.get("width")}.items():
            if value not in (None, tree["size"]["dim"]):
                raise ConfigError(f"{key}={value}: init=mup supports only the stream's width; set it to null")
        if embedding.get("scale_by_width"):
            raise ConfigError("embedding.scale_by_width=true: must be false with init=mup; set embedding.scale")
        scale = (attention["scale"] or self.base_head_dim**-0.5) / self.head_m
        return {
            **tree,
            "attention": {**attention, "scale": scale},
            "head": {**head, "scale": head["scale"] / self.m},
        }

    def describe(self) -> str:
        matrices = f"std / {math.sqrt(self.m):.4g} and learning rate / {self.m:.4g} of the blocks' matrices"
        scales = f"attention.scale / {self.head_m:.4g}, head.scale / {self.m:.4g}"
        return f"mup, {self.m:.4g} times the base width: {matrices}, {scales}"

    def lr_scale(self, role: str) -> float:
        """Return the factor of the learning rate of Adam and other elementwise optimizers."""
        return 1 / self.m if role in HIDDEN else 1.0

    def _std(self, role: str) -> float:
        return super()._std(role) / math.sqrt(self.m if role in HIDDEN else 1)


@register("init", "depth_scaled", source="arXiv:1908.11365; OLMo's mitchell, torchtitan")
class DepthScaledInit:
    """Normal, cut off at `cutoff` std; matrices of layer l that write to the stream have std / sqrt(2 l), l from 1.

    std   null: 1 / sqrt(fan_in), as in OLMo; torchtitan has 0.02.
    by    layer: l is the layer's number; depth: l is the number of layers for all of them.
    """

    def __init__(
        self,
        n_layer: int,
        *,
        std: float | None = None,
        cutoff: float = 3.0,
        by: Literal["layer", "depth"] = "layer",
    ):
        for name, value in {"std": std, "cutoff": cutoff}.items():
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value}: must be above 0")
        self.n_layer, self.std, self.cutoff, self.by = n_layer, std, cutoff, by

    def draw(self, p: Tensor, role: str, gain: float, generator: Generator) -> None:
        if role in VECTORS:
            return
        std = p.shape[-1] ** -0.5 if self.std is None else self.std
        if role == "residual":
            std /= math.sqrt(2 * (getattr(p, "layer_idx", 0) + 1 if self.by == "layer" else self.n_layer))
        _truncated(p, std, self.cutoff, generator)


@register("init", "zero_output", source="arXiv:1901.09321, section 3; modded-nanogpt")
class ZeroOutputInit:
    """N(0, std); matrices that write to the stream are 0, so that every block starts as the identity."""

    def __init__(self, *, std: float = 0.02):
        _check_not_negative(std=std)
        self.std = std

    def draw(self, p: Tensor, role: str, gain: float, generator: Generator) -> None:
        if role == "residual":
            nn.init.zeros_(p)
        elif role not in VECTORS:
            nn.init.normal_(p, std=self.std, generator=generator)


@register("init", "kaiming", source="arXiv:1502.01852, equation 10")
class KaimingInit:
    """Standard deviation gain / sqrt(fan_in), where gain belongs to the non-linearity before it: sqrt(2) for ReLU."""

    uses_gain = True

    def __init__(self, *, distribution: Literal["normal", "uniform"] = "normal"):
        self.distribution = distribution

    def draw(self, p: Tensor, role: str, gain: float, generator: Generator) -> None:
        if role not in VECTORS:
            _fill(p, gain / math.sqrt(p.shape[-1]), self.distribution, generator)


@register("init", "xavier", source="Glorot and Bengio (2010), equation 16")
class XavierInit:
    """Variance 2 / (fan_in + fan_out); for tables 1 / C, since a vocabulary is no width."""

    def __init__(self, *, distribution: Literal["uniform", "normal"] = "uniform"):
        self.distribution = distribution

    def draw(self, p: Tensor, role: str, gain: float, generator: Generator) -> None:
        if role not in VECTORS:
            fans = 2 * p.shape[-1] if role in (*TABLES, "head") else sum(p.shape[-2:])
            _fill(p, math.sqrt(2 / fans), self.distribution, generator)


@register("init", "small", source="arXiv:1910.05895, section 3.1")
class SmallInit:
    """Variance 2 / (5 C) for every matrix, from a normal distribution cut off at three standard deviations."""

    def __init__(self, dim: int):
        self.std = math.sqrt(2 / (5 * dim))

    def draw(self, p: Tensor, role: str, gain: float, generator: Generator) -> None:
        if role not in VECTORS:
            _truncated(p, self.std, 3, generator)


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


def _truncated(p: Tensor, std: float, cutoff: float, generator: Generator) -> None:
    """Fill p from N(0, std), drawing again every value more than `cutoff` standard deviations from 0."""
    nn.init.trunc_normal_(p, std=std, a=-cutoff * std, b=cutoff * std, generator=generator)


def _check_not_negative(**stds: float | None) -> None:
    for name, value in stds.items():
        if value is not None and value < 0:
            raise ValueError(f"{name}={value}: must not be negative")
