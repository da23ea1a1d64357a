"""What is trained: tokens (B, T), int64 -> logits (B, T, V). GPT here, what came before it in baselines.py.

What trains, measures and samples a model knows no more of it than LanguageModel: a token table `embedding`, a `stream`,
which is what the head reads, the `logits` made of it, `blocks`, where some repeat, and the `cache` of generation. Which
slots a model has, its constructor says: others are refused by name when they are set (gptlab/model.py).

Letters in shapes, here and in all components: B batch, T tokens, C width of the stream, H heads, D width of a head,
F width of the FFN, V vocabulary, L layers.
"""

from typing import Any

from torch import Tensor, nn

from gptlab.config.registry import register
from gptlab.model.attention import KVCache
from gptlab.model.dropout import Dropout


class LanguageModel(nn.Module):
    """The head makes logits of the stream; a model says what the stream is, and overrides what it does otherwise."""

    allows_leak = False  # whether a norm over batch and positions may be in it unasked (norm.allow_leak)
    cfg: Any  # what build_model made it from
    hf_config: Any = None  # of the transformers model that it was converted from
    embedding: Any  # its weight, (V, ...), says how large the vocabulary is
    head: Any

    def __init__(self, max_len: int):
        super().__init__()
        self.max_len = max_len
        self.blocks = nn.ModuleList()

    def forward(self, tokens: Tensor, cache: Any = None) -> Tensor:
        """With a cache, `tokens` follow those seen in earlier calls, and logits are those of the new ones."""
        return self.logits(self.stream(tokens, cache))

    def stream(self, tokens: Tensor, cache: Any = None) -> Tensor:
        """What the head reads: (B, T) -> (B, T, C)."""
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        """What the head makes of the stream: (..., C) -> (..., V)."""
        return self.head(x, self.embedding.weight)

    def head_parameters(self) -> list[nn.Parameter]:
        """All that `logits` can depend on; the token table is among them even where the head does not read it."""
        return [p for p in dict.fromkeys([*self.head.parameters(), self.embedding.weight]) if p.requires_grad]

    def new_cache(self) -> Any:
        """What generation keeps of the tokens seen so far, empty."""
        raise NotImplementedError

    def auxiliary_loss(self, logits: Tensor) -> Tensor | None:
        """The sum of what components add to the training loss, in nats; None if none does."""
        losses = [x for x in (m.auxiliary_loss(logits) for m in self._with_auxiliary_loss()) if x is not None]
        return sum(losses[1:], losses[0]) if losses else None

    def has_auxiliary_loss_outside_head(self) -> bool:
        return any(m is not self.head for m in self._with_auxiliary_loss())

    def _with_auxiliary_loss(self) -> list[Any]:
        return [m for m in self.modules() if m is not self and hasattr(m, "auxiliary_loss")]

    def _refuse_beyond_window(self, n_tokens: int) -> None:
        """For models whose positions end somewhere."""
        if n_tokens > self.max_len:
            raise ValueError(f"{n_tokens} tokens: the model was built for at most {self.max_len}")


@register("model", "gpt", source="GPT (2018), GPT-2 (2019)")
class GPT(LanguageModel):
    """The decoder-only transformer out of components: embedding -> blocks -> norm -> head."""

    def __init__(self, max_len: int, dropout: float, n_layer: int, embedding, position, block, placement, norm, head):
        super().__init__(max_len)
        self.embedding = embedding()
        self.dropout = Dropout(dropout)
        self.position: Any = position()
        self.blocks = nn.ModuleList(block(i) for i in range(n_layer))
        self.norm = norm() if placement().final_norm else nn.Identity()
        self.head = head()

    def stream(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        start = cache.length(0) if cache else 0
        self._refuse_beyond_window(start + tokens.shape[1])
        x = self.dropout(self.position.embed(self.embedding(tokens), start))  # (B, T, C)
        for block in self.blocks:
            x = block(x, self.position, cache)
        return self.norm(x)

    def new_cache(self) -> KVCache:
        return KVCache(len(self.blocks))
