"""Language models: tokens (B, T), int64 -> logits (B, T, V). GPT is here; simpler models are in baselines.py.

Training, evaluation, cost and generation use only what LanguageModel declares. The parameters of a model's constructor
say which slots it has; setting any other slot is an error (build.py).

Letters in shapes, here and in all components: B batch, T tokens, C width of the residual stream, H heads, D width of a
head, F width of the FFN, V vocabulary, L layers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gptlab.config.registry import register
from gptlab.model.attention import SoftmaxAttention
from gptlab.model.block import Serial
from gptlab.model.cache import Cache
from gptlab.model.dropout import Dropout
from gptlab.model.embedding import TokenTable
from gptlab.model.ffn import GELU
from gptlab.model.head import LinearHead
from gptlab.model.init import GPT2Init, initialise
from gptlab.model.norm import LayerNorm
from gptlab.model.placement import Placement, Pre
from gptlab.model.position import Learned

ModuleFactory = Callable[..., nn.Module]


class LanguageModel(nn.Module):
    """Base of all models: `stream` computes the residual stream, and `logits` applies the head to it.

    Attributes:
        allows_leak: Whether a norm over batch and positions is accepted without `norm.allow_leak`.
        cfg: The config that build_model made it from.
        hf_config: The config of the transformers model it was converted from, if any.
        max_len: Most tokens that it can read at once.
        embedding: The token table; the first dimension of its `weight` is the size of the vocabulary.
        blocks: The repeated layers, if there are any.
    """

    allows_leak = False
    cfg: Any
    hf_config: Any = None
    embedding: Any
    head: Any

    def __init__(self, max_len: int):
        super().__init__()
        self.max_len = max_len
        self.blocks = nn.ModuleList()

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the logits of each token's successor: (B, T) -> (B, T, V).

        With a cache, `tokens` follow those of earlier calls, and the logits are those of the new tokens.
        """
        logits = self.logits(self.stream(tokens, cache))
        if cache is not None:
            cache.n_read += tokens.shape[1]
        return logits

    def stream(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the residual stream that the head reads: (B, T) -> (B, T, C)."""
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        """Apply the head to the stream: (..., C) -> (..., V)."""
        return self.head(x, self.embedding.weight)

    def head_parameters(self) -> list[nn.Parameter]:
        """Return all parameters that `logits` may depend on, the token table included even if the head is not tied."""
        return [p for p in dict.fromkeys([*self.head.parameters(), self.embedding.weight]) if p.requires_grad]

    def new_cache(self) -> Cache:
        """Return the empty state of generation."""
        return Cache()

    def auxiliary_loss(self, logits: Tensor) -> Tensor | None:
        """Return the sum of the losses that components add in training, in nats; None if there are none."""
        losses = [x for x in (m.auxiliary_loss(logits) for m in self._with_auxiliary_loss()) if x is not None]
        return sum(losses[1:], losses[0]) if losses else None

    def has_auxiliary_loss_outside_head(self) -> bool:
        return any(m is not self.head for m in self._with_auxiliary_loss())

    def _with_auxiliary_loss(self) -> list[Any]:
        return [m for m in self.modules() if m is not self and hasattr(m, "auxiliary_loss")]

    def metrics(self) -> dict[str, Tensor]:
        """Return the numbers that components report for the training log, each a float32 tensor without dimensions.

        A component reports by a method `metrics() -> dict[str, Tensor | float]` on the last forward pass. A number is
        named by the component's path and its key, such as `head/z`. In the blocks, `ffn/gate` is the mean over the
        layers that report it, and `ffn/gate/03` the value of layer 3, counted from 0.
        """
        device = self.embedding.weight.device
        reported: dict[str, Tensor] = {}
        by_layer: dict[str, list[Tensor]] = {}
        for path, module in self.named_modules():
            if module is self or not hasattr(module, "metrics"):
                continue
            for key, value in module.metrics().items():
                value = (
                    value.full_tensor() if hasattr(value, "full_tensor") else value
                )  # the value of a sharded parameter
                number = torch.as_tensor(value, dtype=torch.float32, device=device).detach().reshape(())
                if path.startswith("blocks."):
                    _, layer, *parts = path.split(".", 2)
                    name = f"{parts[0] if parts else 'block'}/{key}"
                    by_layer.setdefault(name, []).append(number)
                    reported[f"{name}/{int(layer):02}"] = number
                else:
                    reported[f"{path}/{key}"] = number
        return {name: torch.stack(numbers).mean() for name, numbers in by_layer.items()} | reported

    def _check_length(self, n_tokens: int) -> None:
        """Raise ValueError if there are more tokens than positions. Models without positions need not call this."""
        if n_tokens > self.max_len:
            raise ValueError(f"{n_tokens} tokens: the model was built for at most {self.max_len}")


@register("model", "gpt", source="GPT (2018), GPT-2 (2019)")
class GPT(LanguageModel):
    """The decoder-only transformer: embedding, position, blocks, norm, head.

    In a notebook its sizes are enough. A part is a function that returns a module: `embedding()`, `position()`,
    `block(layer_idx)`, `placement()`, `norm(dim)` or `head()`. Parts that are left out are GPT-2's. If one of the
    first four or the head is left out, all weights are drawn as in GPT-2, from torch's random generator.
    """

    def __init__(
        self,
        n_layer: int,
        n_head: int,
        dim: int,
        vocab_size: int,
        max_len: int,
        dropout: float = 0.0,
        embedding: ModuleFactory | None = None,
        position: ModuleFactory | None = None,
        block: ModuleFactory | None = None,
        placement: Callable[[], Placement] | None = None,
        norm: ModuleFactory = LayerNorm,
        head: ModuleFactory | None = None,
    ):
        super().__init__(max_len)
        wiring = placement or (lambda: Pre(lambda: norm(dim)))

        def gpt2_block(layer_idx: int) -> nn.Module:
            def attention() -> nn.Module:
                return SoftmaxAttention(dim, n_head, layer_idx, dropout)

            return Serial(attention, lambda: GELU(dim, dropout), wiring)

        self.embedding = embedding() if embedding else TokenTable(dim, vocab_size)
        self.dropout = Dropout(dropout)
        self.position: Any = position() if position else Learned(dim, max_len)
        self.blocks = nn.ModuleList((block or gpt2_block)(i) for i in range(n_layer))
        self.norm = norm(dim) if wiring().final_norm else nn.Identity()
        self.head = head() if head else LinearHead(dim, vocab_size)
        if None in (embedding, position, block, placement, head):  # build_model gives all and draws the weights itself
            initialise(self, GPT2Init(n_layer), seed=int(torch.randint(2**62, (), device="cpu")))

    def stream(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the residual stream that the head reads: (B, T) -> (B, T, C)."""
        start = 0 if cache is None else cache.n_read
        self._check_length(start + tokens.shape[1])
        x = self.dropout(self.position.embed(self.embedding(tokens), start))  # (B, T, C)
        for block in self.blocks:
            x = block(x, self.position, cache)
        return self.norm(x)
