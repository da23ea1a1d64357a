"""How attention and FFN are joined to the residual stream: (B, T, C) -> (B, T, C)."""

from torch import Tensor, nn

from gptlab.components.attention import KVCache
from gptlab.components.position import Position
from gptlab.registry import register


@register("block", "serial", source="arXiv:1706.03762")
class Serial(nn.Module):
    """Attention, then the FFN, which reads what attention wrote."""

    def __init__(self, attention, ffn, placement):
        super().__init__()
        self.attention, self.ffn = attention(), ffn()
        self.attention_placement, self.ffn_placement = placement(), placement()

    def forward(self, x: Tensor, position: Position, cache: KVCache | None = None) -> Tensor:
        x = self.attention_placement(x, lambda h: self.attention(h, position, cache))
        return self.ffn_placement(x, self.ffn)


@register("block", "parallel", source="arXiv:2204.02311")
class Parallel(nn.Module):
    """Attention and FFN read the same stream and are added together.

    With one shared norm (GPT-J, PaLM), or one for each branch (GPT-NeoX).
    """

    def __init__(self, attention, ffn, placement, *, shared_norm: bool = True):
        super().__init__()
        self.attention, self.ffn = attention(), ffn()
        self.placement = placement()
        if not shared_norm and not self.placement.norms_branch:
            raise ValueError("shared_norm=false: this placement has no norm on a branch, so there are no two of them")
        self.ffn_placement = None if shared_norm else placement()

    def forward(self, x: Tensor, position: Position, cache: KVCache | None = None) -> Tensor:
        def attention(h: Tensor) -> Tensor:
            return self.attention(h, position, cache)

        if self.ffn_placement is None:
            return self.placement(x, lambda h: attention(h) + self.ffn(h))
        y = self.placement.branch(x, attention) + self.ffn_placement.branch(x, self.ffn)
        return self.placement.merge(x, y)
