"""Blocks join attention and FFN to the residual stream: (B, T, C) -> (B, T, C).

branch_scale   factor of the outputs of attention and FFN, before they are normed or added (Granite, arXiv:2408.13359).
"""

from collections.abc import Callable

from torch import Tensor, nn

from gptlab.config.registry import register
from gptlab.model.cache import Cache
from gptlab.model.placement import Placement
from gptlab.model.position import Position

ModuleFactory = Callable[[], nn.Module]
PlacementFactory = Callable[[], Placement]


@register("block", "serial", source="arXiv:1706.03762")
class Serial(nn.Module):
    """Attention, then the FFN, which reads the stream after attention."""

    def __init__(
        self, attention: ModuleFactory, ffn: ModuleFactory, placement: PlacementFactory, *, branch_scale: float = 1.0
    ):
        super().__init__()
        self.attention, self.ffn = attention(), ffn()
        self.attention_placement, self.ffn_placement = placement(), placement()
        self.branch_scale = branch_scale

    def forward(self, x: Tensor, position: Position, cache: Cache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = self.attention_placement(x, lambda h: _scaled(self.attention(h, position, cache), self.branch_scale))
        return self.ffn_placement(x, lambda h: _scaled(self.ffn(h), self.branch_scale))


@register("block", "parallel", source="arXiv:2204.02311")
class Parallel(nn.Module):
    """Attention and FFN read the same stream, and their outputs are added together.

    shared_norm   true: one norm for both branches (GPT-J, PaLM); false: one for each (GPT-NeoX).
    """

    def __init__(
        self,
        attention: ModuleFactory,
        ffn: ModuleFactory,
        placement: PlacementFactory,
        *,
        shared_norm: bool = True,
        branch_scale: float = 1.0,
    ):
        super().__init__()
        self.branch_scale = branch_scale
        self.attention, self.ffn = attention(), ffn()
        self.placement = placement()
        if not shared_norm and not self.placement.norms_branch:
            raise ValueError("shared_norm=false: this placement has no norm on a branch; use placement=pre, or true")
        self.ffn_placement = None if shared_norm else placement()

    def forward(self, x: Tensor, position: Position, cache: Cache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""

        def attention(h: Tensor) -> Tensor:
            return _scaled(self.attention(h, position, cache), self.branch_scale)

        def ffn(h: Tensor) -> Tensor:
            return _scaled(self.ffn(h), self.branch_scale)

        if self.ffn_placement is None:
            return self.placement(x, lambda h: attention(h) + ffn(h))
        y = self.placement.branch(x, attention) + self.ffn_placement.branch(x, ffn)
        return self.placement.merge(x, y)


def _scaled(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1 else scale * x
