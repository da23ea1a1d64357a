"""The models before GPT: tokens (B, T), int64 -> logits (B, T, V).

They are trained, evaluated and sampled like GPT and on the same windows: each position predicts the next token from the
tokens before it in its own window.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gptlab.config.registry import register
from gptlab.model.cache import Cache, LayerCache
from gptlab.model.dropout import Dropout
from gptlab.model.embedding import TokenTable
from gptlab.model.gpt import LanguageModel
from gptlab.model.head import LinearHead
from gptlab.model.position import Position
from gptlab.model.roles import Linear

ModuleFactory = Callable[..., nn.Module]


@register("model", "bigram")
class Bigram(LanguageModel):
    """A V x V table: the row of a token holds the logits of its successor. Its optimum is the table of counts."""

    def __init__(self, max_len: int, vocab_size: int):
        super().__init__(max_len)
        self.embedding = TokenTable(vocab_size, vocab_size)

    def stream(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """(B, T) -> (B, T, V)."""
        return self.embedding(tokens)

    def logits(self, x: Tensor) -> Tensor:
        return x

    def head_parameters(self) -> list[nn.Parameter]:
        return []


@register("model", "bigram_pos")
class BigramPos(LanguageModel):
    """Token plus position embedding, then a linear layer: it sees one token and its position in the window.

    The linear layer is not the `head` slot: tied to the token table, its logits would be symmetric in a token and its
    successor.
    """

    def __init__(
        self,
        dim: int,
        max_len: int,
        vocab_size: int,
        dropout: float,
        bias: bool,
        embedding: ModuleFactory,
        position: Callable[[], Position],
    ):
        super().__init__(max_len)
        self.embedding = embedding()
        self.dropout = Dropout(dropout)
        self.position = position()
        if type(self.position).embed is Position.embed:
            raise ValueError("adds its positions to the embeddings; choose position=learned or position=sinusoidal")
        self.head = LinearHead(dim, vocab_size, tied=False, bias=bias)

    def stream(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """(B, T) -> (B, T, C)."""
        start = 0 if cache is None else cache.n_read
        self._check_length(start + tokens.shape[1])
        return self.dropout(self.position.embed(self.embedding(tokens), start))


class LastTokens(nn.Module):
    """The vectors of the last n tokens side by side, zeros before the first token: (B, T, C) -> (B, T, n C)."""

    def __init__(self, n: int):
        super().__init__()
        self.n = n

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, n C)."""
        B, T, C = x.shape
        layer_cache = self.new_cache() if cache is None else cache.of(self)
        (before,) = layer_cache.tensors or (x.new_zeros(B, self.n - 1, C),)
        x = torch.cat([before, x], 1)  # (B, n - 1 + T, C)
        layer_cache.tensors = (x[:, T:],)
        return torch.cat([x[:, i : i + T] for i in range(self.n)], -1)

    def new_cache(self) -> LayerCache:
        return LayerCache()


@register("model", "mlp", source="Bengio et al. (2003), JMLR 3:1137")
class MLP(LanguageModel):
    """tanh(norm(linear(embeddings of the last n tokens, side by side))), then the head.

    context   n, the token itself included. Zeros stand in for embeddings before the window's first token.
    hidden    width of the tanh layer; null: C. A tied head needs head.width=C to project from another width.

    Differs from the source: it has a norm and a head that can be tied, and no direct connections from embeddings to
    logits.
    """

    allows_leak = True

    def __init__(
        self,
        dim: int,
        max_len: int,
        dropout: float,
        bias: bool,
        embedding: ModuleFactory,
        norm: ModuleFactory,
        head: ModuleFactory,
        *,
        context: int = 8,
        hidden: int | None = None,
    ):
        super().__init__(max_len)
        for name, value in {"context": context, "hidden": hidden}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self.embedding = embedding()
        self.dropout = Dropout(dropout)
        self.last_tokens = LastTokens(context)
        self.hidden = Linear(context * dim, hidden or dim, bias)
        self.norm = norm(hidden or dim)
        self.head = head(hidden or dim)

    def stream(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """(B, T) -> (B, T, hidden)."""
        x = self.last_tokens(self.dropout(self.embedding(tokens)), cache)  # (B, T, n C)
        return torch.tanh(self.norm(self.hidden(x)))


@register("model", "rnn", source="Mikolov et al. (2010), Interspeech; arXiv:1409.2329")
class RNN(LanguageModel):
    """Layers of a recurrent cell, a norm after each, then the head: the past is in a state of fixed size.

    cell   gru (arXiv:1406.1078), lstm (Hochreiter and Schmidhuber, 1997) or tanh (Elman, 1990), in torch's form.

    The state is zero at the start of each window, and gradients go back to there: backpropagation through time is
    truncated to the window. Carrying the state to the next window would need windows in the order of the text, and
    so batches that differ from those of all other models.
    """

    def __init__(
        self,
        dim: int,
        max_len: int,
        n_layer: int,
        dropout: float,
        bias: bool,
        embedding: ModuleFactory,
        norm: ModuleFactory,
        head: ModuleFactory,
        *,
        cell: Literal["gru", "lstm", "tanh"] = "gru",
    ):
        super().__init__(max_len)
        self.embedding = embedding()
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Recurrent(dim, cell, bias, dropout, norm(dim)) for _ in range(n_layer))
        self.head = head()

    def stream(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """(B, T) -> (B, T, C)."""
        x = self.dropout(self.embedding(tokens))  # (B, T, C)
        for block in self.blocks:
            x = block(x, cache)
        return x


class Recurrent(nn.Module):
    """h_t = cell(x_t, h_(t-1)), then the norm: (B, T, C) -> (B, T, C)."""

    GATES = {"gru": 3, "lstm": 4, "tanh": 1}
    loops_over_time = True  # so that NextTokenLoss does not compile the model

    def __init__(self, dim: int, cell: str, bias: bool, dropout: float, norm: nn.Module):
        super().__init__()
        self.cell = cell
        self.input = Linear(dim, self.GATES[cell] * dim, bias)
        self.state = Linear(dim, self.GATES[cell] * dim, bias)
        self.dropout = Dropout(dropout)
        self.norm = norm

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C). The cache keeps h, and for an LSTM c too, each (1, B, C)."""
        x = x.to(self.input.weight.dtype)  # they differ under autocast, in which the recurrence must not run
        weights = [self.input.weight, self.state.weight]
        if self.input.bias is not None:
            weights += [self.input.bias, self.state.bias]
        n_states = 2 if self.cell == "lstm" else 1
        layer_cache = self.new_cache() if cache is None else cache.of(self)
        start = layer_cache.tensors or (x.new_zeros(1, len(x), x.shape[-1]),) * n_states
        run: Any = {"gru": torch.gru, "lstm": torch.lstm, "tanh": torch.rnn_tanh}[self.cell]
        options = {"num_layers": 1, "dropout": 0.0, "train": self.training, "bidirectional": False, "batch_first": True}
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            h = start if self.cell == "lstm" else start[0]
            y, *states = run(x, h, weights, self.input.bias is not None, **options)
        layer_cache.tensors = tuple(states)
        return self.norm(self.dropout(y))

    def new_cache(self) -> LayerCache:
        return LayerCache()
