"""Placements of norms. A placement joins a sublayer f to the residual stream x: (B, T, C) -> (B, T, C).

It works in two parts, so that a parallel block can add two branches before they are merged: `branch(x, f)` is the
contribution of f, and `merge(x, y)` the stream after it.
"""

from collections.abc import Callable

from torch import Tensor, nn

from gptlab.config.registry import register

Sublayer = Callable[[Tensor], Tensor]
NormFactory = Callable[[], nn.Module]


class Placement(nn.Module):
    """Base of placements: x + f(x), the plain residual.

    Attributes:
        norms_branch: Whether all norms are on the branch, so that two branches can have different ones.
        final_norm: Whether the stream is left unnormalised, so that the head needs a norm before it.
    """

    norms_branch = True
    final_norm = True

    def branch(self, x: Tensor, f: Sublayer) -> Tensor:
        return f(x)

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def forward(self, x: Tensor, f: Sublayer) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.merge(x, self.branch(x, f))


@register("placement", "pre", source="arXiv:2002.04745")
class Pre(Placement):
    """x + f(n(x)), as in GPT-2 and most models since."""

    def __init__(self, norm: NormFactory = nn.Identity):
        super().__init__()
        self.norm = norm()

    def branch(self, x: Tensor, f: Sublayer) -> Tensor:
        return f(self.norm(x))


@register("placement", "pre_residual", source="arXiv:1909.08053, --apply-residual-connection-post-layernorm")
class PreResidual(Pre):
    """y + f(y) with y = n(x): the residual is taken after the norm too, an option of Megatron-LM and Bloom."""

    norms_branch = False

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x) + y

    def forward(self, x: Tensor, f: Sublayer) -> Tensor:
        normed = self.norm(x)
        return normed + f(normed)


@register("placement", "post", source="arXiv:1706.03762")
class Post(Placement):
    """n(x + f(x)), as in the transformer of 2017 and GPT-1."""

    norms_branch = False
    final_norm = False

    def __init__(self, norm: NormFactory = nn.Identity):
        super().__init__()
        self.norm = norm()

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x + y)


@register("placement", "double", source="arXiv:2408.00118")
class Double(Placement):
    """x + n2(f(n1(x))), as in Gemma 2 and Grok."""

    def __init__(self, norm: NormFactory = nn.Identity):
        super().__init__()
        self.norm_in = norm()
        self.norm_out = norm()

    def branch(self, x: Tensor, f: Sublayer) -> Tensor:
        return self.norm_out(f(self.norm_in(x)))


@register("placement", "output", source="arXiv:2501.00656")
class Output(Placement):
    """x + n(f(x)), as in OLMo 2."""

    def __init__(self, norm: NormFactory = nn.Identity):
        super().__init__()
        self.norm = norm()

    def branch(self, x: Tensor, f: Sublayer) -> Tensor:
        return self.norm(f(x))


@register("placement", "none")
class NoPlacement(Placement):
    """x + f(x), with no norm in the blocks or before the head."""

    norms_branch = False
    final_norm = False
