"""Initial weights of your own, selected with `init=my_init`."""

import math

from torch import Generator, Tensor, nn

from gptlab import register


@register("init", "my_init", source="arXiv:1312.6120")
class MyInit:
    """Orthogonal matrices; what is added to the stream is scaled by 1 / sqrt(2 n_layer)."""

    # Parameters before `*` are supplied by the model builder, by name. An init may ask for:
    #   dim, head_dim, n_head, n_layer, vocab_size    sizes of the model
    # Parameters after `*` are settings. They need a type and a default: `init.scale=0.5` sets this one.
    def __init__(self, n_layer: int, *, scale: float = 1.0, table_std: float = 0.02):
        self.scale, self.residual_scale, self.table_std = scale, scale / math.sqrt(2 * n_layer), table_std

    def draw(self, p: Tensor, role: str, gain: float, generator: Generator) -> None:
        """Fill one parameter in place. Called once per parameter, with a generator that is seeded by (seed, name).

        p: the parameter. role: what it is for, one of gptlab.model.roles.ROLES.
        gain: makes up for the non-linearity before the matrix, sqrt(2) after a ReLU.
        Draw from `generator` only, so that no weight depends on which other parts the model has.
        """
        if role in ("gain", "bias"):
            return  # gains start at 1 and biases at 0, as their components made them
        if role in ("embedding", "position", "head"):
            nn.init.normal_(p, std=self.table_std, generator=generator)
        else:
            scale = self.residual_scale if role == "residual" else self.scale
            nn.init.orthogonal_(p, scale, generator=generator)
