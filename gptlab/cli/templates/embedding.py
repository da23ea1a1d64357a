"""An embedding of your own: tokens (B, T) -> stream (B, T, C), selected with `embedding=my_embedding`."""

import torch.nn.functional as F
from torch import Tensor, nn

from gptlab import register
from gptlab.model.roles import table


@register("embedding", "my_embedding")  # add source="arXiv:..." and `gptlab list embedding` shows it
class MyEmbedding(nn.Module):
    """A learned vector per token, rescaled to a root mean square of `rms`."""

    # Parameters before `*` are supplied by the model builder, by name. An embedding may ask for:
    #   dim           C, the width of the stream
    #   vocab_size    V, the number of tokens
    #   norm          makes the norm that was chosen: norm(dim)
    # Parameters after `*` are settings. They need a type and a default: `embedding.rms=0.1` sets this one.
    def __init__(self, dim: int, vocab_size: int, *, rms: float = 1.0):
        super().__init__()
        self.dim, self.rms = dim, rms
        self.weight = table(vocab_size, dim, "embedding")  # (V, C); a tied head reads it by this name

    def forward(self, tokens: Tensor) -> Tensor:
        """Look up the tokens' vectors.

        tokens: (B, T), int64. Returns (B, T, C).
        """
        x = F.embedding(tokens, self.weight)
        return self.rms * F.rms_norm(x, (self.dim,), eps=1e-6)
