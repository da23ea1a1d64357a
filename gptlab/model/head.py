"""From the residual stream to logits: (B, T, C) -> (B, T, V)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config.registry import register
from gptlab.model.roles import Linear, table, tag


@register("head", "linear", source="arXiv:1608.05859")
class LinearHead(nn.Module):
    """W x, where W is the token table if tied, as in the source, or a matrix of its own.

    scale      factor of the logits, before the soft cap (Cohere).
    softcap    logits z become c * tanh(z / c) (arXiv:2408.00118).
    width      width of the matrix; null: C. The stream is projected to another width without bias (OPT-350m).
    z_loss     weight of mean(logsumexp(z)^2), which is added to the training loss (arXiv:2204.02311, section 5).
    """

    def __init__(
        self,
        dim: int,
        vocab_size: int,
        *,
        tied: bool = True,
        softcap: float | None = None,
        z_loss: float | None = None,
        bias: bool = False,
        scale: float = 1.0,
        width: int | None = None,
    ):
        super().__init__()
        for name, value in {"softcap": softcap, "z_loss": z_loss, "width": width}.items():
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value}: must be above 0; null for none")
        self.softcap, self.z_loss, self.scale = softcap, z_loss, scale
        self.project = Linear(dim, width, bias=False) if width not in (None, dim) else None
        self.weight = None if tied else table(vocab_size, width or dim, "head", std=0.02)
        self.bias = tag(nn.Parameter(torch.zeros(vocab_size)), "bias") if bias else None

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """(..., C) -> (..., V). A tied head needs the token table `embedding`, (V, width)."""
        x = x if self.project is None else self.project(x)
        logits = F.linear(x, embedding if self.weight is None else self.weight, self.bias)  # type: ignore[arg-type]
        logits = logits if self.scale == 1 else logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def auxiliary_loss(self, logits: Tensor) -> Tensor | None:
        """Return the term that is added to the training loss, in nats. The validation loss does not have it."""
        return None if self.z_loss is None else self.z_loss * logits.float().logsumexp(-1).square().mean()
