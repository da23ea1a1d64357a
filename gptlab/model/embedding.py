"""From tokens to the residual stream: (B, T), int64 -> (B, T, C)."""

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config.registry import register
from gptlab.model.roles import Linear, table


@register("embedding", "table")
class TokenTable(nn.Module):
    """A learned vector per token; `weight`, (V, C), is also the head's matrix if that is tied.

    scale            factor of the vectors.
    scale_by_width   multiply the vectors by sqrt(C) as well (arXiv:1706.03762, section 3.4; Gemma).
    normed           apply the model's norm to the vectors (Bloom, arXiv:2211.05100; nanochat).
    width            width of the table; null: C. Another width is projected to C without bias (OPT-350m,
                     arXiv:1909.11942).
    padding_idx      a token whose vector the input does not train (OPT, XGLM); null for none.
    """

    def __init__(
        self,
        dim: int,
        vocab_size: int,
        norm: Callable[[int], nn.Module] = nn.Identity,
        *,
        scale: float = 1.0,
        scale_by_width: bool = False,
        normed: bool = False,
        width: int | None = None,
        padding_idx: int | None = None,
    ):
        super().__init__()
        if width is not None and width < 1:
            raise ValueError(f"width={width}: must be at least 1; null for the stream's")
        if padding_idx is not None and not 0 <= padding_idx < vocab_size:
            raise ValueError(f"padding_idx={padding_idx}: must be a token, from 0 to {vocab_size - 1}; null for none")
        self.scale = scale * math.sqrt(dim) if scale_by_width else scale
        self.padding_idx = padding_idx
        self.weight = table(vocab_size, width or dim, "embedding")
        self.norm = norm(width or dim) if normed else None
        self.project = Linear(width, dim, bias=False) if width not in (None, dim) else None

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T), int64 -> (B, T, C)."""
        x = F.embedding(tokens, self.weight, self.padding_idx)
        x = x if self.scale == 1 else x * self.scale
        x = x if self.norm is None else self.norm(x)
        return x if self.project is None else self.project(x)
