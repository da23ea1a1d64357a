"""A placement of your own, selected with `placement=my_placement`: where the norms of a sublayer sit."""

from torch import Tensor

from gptlab import register
from gptlab.model.placement import Placement


@register("placement", "my_placement", source="arXiv:2203.00555")
class MyPlacement(Placement):
    """n(alpha * x + f(x)): DeepNorm's residual."""

    norms_branch = False  # true: the norms sit on the branch alone, so a parallel block can have two of them
    final_norm = False  # true: the stream leaves the blocks unnormalised, so the head needs a norm before it

    # Parameters before `*` are supplied by the model builder, by name. A placement may ask for:
    #   norm    makes the norm that was chosen, as wide as the stream
    #   n_layer, layer_idx    the number of blocks, and the number of this one, from 0
    # Parameters after `*` are settings. They need a type and a default: `placement.alpha=2` sets this one.
    def __init__(self, norm, *, alpha: float = 1.5):
        super().__init__()
        self.norm, self.alpha = norm(), alpha

    # The base class computes merge(x, branch(x, f)). It has `branch(x, f)`, which returns f(x), and `merge(x, y)`,
    # which returns x + y: override one or both. They are separate so that a parallel block can add two branches.
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the stream after the sublayer.

        x: the stream before it, (B, T, C). y: the output of the branch, (B, T, C). Returns (B, T, C).
        """
        return self.norm(self.alpha * x + y)
