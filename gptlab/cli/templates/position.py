"""A position scheme of your own, selected with `position=my_position`."""

from torch import Tensor

from gptlab import register
from gptlab.model.position import Position


@register("position", "my_position", source="arXiv:2205.09921, the logarithmic variant with fixed parameters")
class MyPosition(Position):
    """Lowers a score by slope * log(1 + distance)."""

    # A scheme works through one of three hooks; the base class has all three, and they do nothing:
    #   embed(x, start)                  changes the token embeddings, (B, T, C) -> (B, T, C)
    #   rotate(x, start, layer_idx)      changes queries and keys, (B, H, T, D) -> (B, H, T, D)
    #   score_bias(head, query, key)     is added to the attention scores, if biases_scores is true
    # `start` is the position of the first of the T tokens; it is above 0 when a cache holds earlier ones.
    biases_scores = True
    extrapolates = True  # false: positions beyond the training window mean nothing, so eval.lengths is refused

    # Parameters before `*` are supplied by the model builder, by name. A position may ask for:
    #   dim, n_head, head_dim    C, H and D: widths of the stream and of a head, and the number of heads
    #   max_len                  the most tokens that the model reads at once
    # Parameters after `*` are settings. They need a type and a default: `position.slope=0.5` sets this one.
    def __init__(self, *, slope: float = 1.0):
        super().__init__()
        if slope <= 0:
            raise ValueError(f"slope={slope}: must be above 0")  # reported as position.slope=..., with exit code 2
        self.slope = slope

    def score_bias(self, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Return what is added to the score of `head` between positions `query` and `key`.

        The arguments are index tensors that broadcast, such as (H, 1, 1), (T, 1) and (S,) to (H, T, S).
        """
        distance = (query - key).clamp(min=0)  # the scores of later tokens are masked afterwards
        return -self.slope * (distance + 1).log()
