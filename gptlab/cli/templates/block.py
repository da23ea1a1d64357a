"""A block of your own, selected with `block=my_block`: how attention and FFN join the residual stream."""

import torch
from torch import Tensor, nn

from gptlab import register
from gptlab.model.cache import Cache
from gptlab.model.position import Position


@register("block", "my_block", source="arXiv:2103.17239, section 2")
class MyBlock(nn.Module):
    """Attention, then the FFN, each multiplied by a learned gain per channel (LayerScale)."""

    # Parameters before `*` are supplied by the model builder, by name. A block may ask for:
    #   dim                          C, the width of the stream
    #   attention, ffn, placement    make the components that were chosen for these slots
    #   n_layer, layer_idx           the number of blocks, and the number of this one, from 0
    # Parameters after `*` are settings. They need a type and a default: `block.initial_gain=1` sets this one.
    def __init__(self, dim: int, attention, ffn, placement, *, initial_gain: float = 0.1):
        super().__init__()
        self.attention, self.ffn = attention(), ffn()
        self.attention_placement, self.ffn_placement = placement(), placement()
        self.attention_gain = nn.Parameter(torch.full((dim,), initial_gain))
        self.ffn_gain = nn.Parameter(torch.full((dim,), initial_gain))

    def forward(self, x: Tensor, position: Position, cache: Cache | None = None) -> Tensor:
        """Return the stream after this block.

        x: (B, T, C). Returns (B, T, C). `position` and `cache` are passed on to the attention.
        A placement is called with the stream and a function, and puts the norms where it has them.
        """
        x = self.attention_placement(x, lambda h: self.attention(h, position, cache) * self.attention_gain)
        return self.ffn_placement(x, lambda h: self.ffn(h) * self.ffn_gain)
