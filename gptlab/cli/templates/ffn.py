"""A feed-forward network of your own: (B, T, C) -> (B, T, C), selected with `ffn=my_ffn`."""

import torch.nn.functional as F
from torch import Tensor, nn

from gptlab import register
from gptlab.model.dropout import Dropout
from gptlab.model.roles import Linear


@register("ffn", "my_ffn")  # add source="arXiv:..." and `gptlab list ffn` shows it
class MyFFN(nn.Module):
    """down(relu(gate(x))^2 * up(x))."""

    # Parameters before `*` are supplied by the model builder, by name. An FFN may ask for:
    #   dim        C, the width of the stream
    #   dropout    the share that `train.dropout` zeroes
    #   n_layer, layer_idx    the number of blocks, and the number of this one, from 0
    # Parameters after `*` are settings. They need a type and a default: `ffn.expansion=8` sets this one.
    # Optional methods: metrics() returns {name: number} to log; auxiliary_loss(logits) is added to the training loss.
    # A setting named `bias` is switched off by `bias=false`; one named `hidden` is what `match=params` solves for.
    def __init__(
        self, dim: int, dropout: float, *, expansion: float = 4.0, hidden: int | None = None, bias: bool = True
    ):
        super().__init__()
        width = hidden or max(1, round(2 / 3 * expansion * dim))  # three matrices with the parameters of two
        # The role of a matrix decides its initial scale and its weight decay (gptlab/model/roles.py). Plain nn.Linear
        # works too: the last one before the stream is then found by what follows it, and its bias obeys `bias=false`.
        self.gate = Linear(dim, width, bias, role="gate")
        self.up = Linear(dim, width, bias, role="input")  # reads the stream
        self.down = Linear(width, dim, bias, role="residual")  # is added to the stream
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position on its own.

        x: (B, T, C). Returns (B, T, C), which the block adds to the stream.
        """
        h = F.relu(self.gate(x)).square() * self.up(x)  # (B, T, F)
        return self.dropout(self.down(h))
