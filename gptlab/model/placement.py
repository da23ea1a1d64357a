"""Where the norms of a sublayer f sit. A placement joins f to the residual stream x: (B, T, C) -> (B, T, C).

It does so in two parts, so that a parallel block can add two branches before they are merged:
`branch(x, f)` is what f contributes, `merge(x, y)` the stream after that.
"""

from collections.abc import Callable

from torch import Tensor, nn

from gptlab.config.registry import register

Sublayer = Callable[[Tensor], Tensor]


class Placement(nn.Module):
    """x + f(x), the plain residual; a placement overrides what it does otherwise."""

    norms_branch = True  # whether norms are a branch's alone, so that two branches can have different ones
    final_norm = True  # whether the stream is left unnormalised and the head needs a norm before it

    def branch(self, x: Tensor, f: Sublayer) -> Tensor:
        return f(x)

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def forward(self, x: Tensor, f: Sublayer) -> Tensor:
        return self.merge(x, self.branch(x, f))


@register("placement", "pre", source="arXiv:2002.04745")
class Pre(Placement):
    """x + f(n(x)): GPT-2 and most since."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm()

    def branch(self, x: Tensor, f: Sublayer) -> Tensor:
        return f(self.norm(x))


@register("placement", "pre_residual", source="arXiv:1909.08053, --apply-residual-connection-post-layernorm")
class PreResidual(Pre):
    """y + f(y), y = n(x): the residual too is taken after the norm; a switch of Megatron-LM and Bloom."""

    norms_branch = False

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x) + y

    def forward(self, x: Tensor, f: Sublayer) -> Tensor:
        normed = self.norm(x)
        return normed + f(normed)


@register("placement", "post", source="arXiv:1706.03762")
class Post(Placement):
    """n(x + f(x)): the transformer of 2017 and GPT-1."""

    norms_branch = False
    final_norm = False

    def __init__(self, norm):
        super().__init__()
        self.norm = norm()

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x + y)


@register("placement", "double", source="arXiv:2408.00118")
class Double(Placement):
    """x + n2(f(n1(x))): Gemma 2, Grok."""

    def __init__(self, norm):
        super().__init__()
        self.norm_in = norm()
        self.norm_out = norm()

    def branch(self, x: Tensor, f: Sublayer) -> Tensor:
        return self.norm_out(f(self.norm_in(x)))


@register("placement", "output", source="arXiv:2501.00656")
class Output(Placement):
    """x + n(f(x)): OLMo 2."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm()

    def branch(self, x: Tensor, f: Sublayer) -> Tensor:
        return self.norm(f(x))


@register("placement", "none")
class NoPlacement(Placement):
    """x + f(x): no norm in the blocks nor before the head."""

    norms_branch = False
    final_norm = False
