"""The models before GPT: tokens (B, T), int64 -> logits (B, T, V).

All are trained, evaluated and sampled as GPT is, on the same windows: each position predicts the token after it from
what stands before that in its window, and from nothing of another window.
"""

from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gptlab.config.registry import register
from gptlab.model.dropout import Dropout
from gptlab.model.embedding import TokenTable
from gptlab.model.gpt import LanguageModel
from gptlab.model.head import LinearHead
from gptlab.model.position import Position
from gptlab.model.roles import Linear


class State:
    """What a baseline keeps of the tokens that it has read. It does not grow with their number."""

    def __init__(self) -> None:
        self.n_read = 0  # tokens
        self.kept: dict[int, tuple[Tensor, ...]] = {}  # by layer

    def n_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for kept in self.kept.values() for t in kept)


class Baseline(LanguageModel):
    def new_cache(self) -> State:
        return State()


@register("model", "bigram")
class Bigram(Baseline):
    """A V x V table: the logits of the next token are the row of this one. At its best it is the table of counts."""

    def __init__(self, max_len: int, vocab_size: int):
        super().__init__(max_len)
        self.embedding = TokenTable(vocab_size, vocab_size, norm=None)

    def stream(self, tokens: Tensor, cache: State | None = None) -> Tensor:
        return self.embedding(tokens)  # (B, T, V)

    def logits(self, x: Tensor) -> Tensor:
        return x

    def head_parameters(self) -> list[nn.Parameter]:
        return []


@register("model", "bigram_pos")
class BigramPos(Baseline):
    """Token and position embeddings added, and a linear layer: it knows one token and where in the window that stands.

    The linear layer is no `head` slot: tied to the token table it would give a token's followers as its predecessors.
    """

    def __init__(self, dim: int, max_len: int, vocab_size: int, dropout: float, bias: bool, embedding, position):
        super().__init__(max_len)
        self.embedding = embedding()
        self.dropout = Dropout(dropout)
        self.position: Any = position()
        if type(self.position).embed is Position.embed:
            raise ValueError("adds its positions to the embeddings; choose position=learned or position=sinusoidal")
        self.head = LinearHead(dim, vocab_size, tied=False, bias=bias)

    def stream(self, tokens: Tensor, cache: State | None = None) -> Tensor:
        start = cache.n_read if cache else 0
        self._refuse_beyond_window(start + tokens.shape[1])
        if cache:
            cache.n_read += tokens.shape[1]
        return self.dropout(self.position.embed(self.embedding(tokens), start))


@register("model", "mlp", source="Bengio et al. (2003), JMLR 3:1137")
class MLP(Baseline):
    """tanh(norm(linear(the last n tokens' embeddings, side by side))), then the head.

    context   n, the token itself included. Before the window's first token there are zeros for embeddings.
    hidden    width of the tanh layer; null: C. A tied head takes another one through a projection: head.width=C.

    Departs from the source: a norm, a head that can be tied, and no direct connections from embeddings to logits.
    """

    allows_leak = True

    def __init__(
        self,
        dim: int,
        max_len: int,
        dropout: float,
        bias: bool,
        embedding,
        norm,
        head,
        *,
        context: int = 8,
        hidden: int | None = None,
    ):
        super().__init__(max_len)
        for name, value in {"context": context, "hidden": hidden}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self.context = context
        self.embedding = embedding()
        self.dropout = Dropout(dropout)
        self.hidden = Linear(context * dim, hidden or dim, bias)
        self.norm = norm(hidden or dim)
        self.head = head(hidden or dim)

    def stream(self, tokens: Tensor, cache: State | None = None) -> Tensor:
        x = self.dropout(self.embedding(tokens))  # (B, T, C)
        B, T, C = x.shape
        (before,) = (cache and cache.kept.get(0)) or (x.new_zeros(B, self.context - 1, C),)
        x = torch.cat([before, x], 1)  # (B, n - 1 + T, C)
        if cache:
            cache.kept[0] = (x[:, T:],)
        x = torch.cat([x[:, i : i + T] for i in range(self.context)], -1)  # (B, T, n C)
        return torch.tanh(self.norm(self.hidden(x)))


@register("model", "rnn", source="Mikolov et al. (2010), Interspeech; arXiv:1409.2329")
class RNN(Baseline):
    """Layers of a recurrent cell, a norm after each, then the head: what came before is in a state of fixed size.

    cell   gru (arXiv:1406.1078), lstm (Hochreiter and Schmidhuber, 1997) or tanh (Elman, 1990), as torch writes them.

    The state is zero at the start of each window and gradients go back to there: the window is what backpropagation
    through time is truncated to. Carried into the next window it would need windows in the order of the text, which
    would be other batches than all other models get.
    """

    def __init__(
        self,
        dim: int,
        max_len: int,
        n_layer: int,
        dropout: float,
        bias: bool,
        embedding,
        norm,
        head,
        *,
        cell: Literal["gru", "lstm", "tanh"] = "gru",
    ):
        super().__init__(max_len)
        self.embedding = embedding()
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Recurrent(dim, cell, bias, dropout, norm()) for _ in range(n_layer))
        self.head = head()

    def stream(self, tokens: Tensor, cache: State | None = None) -> Tensor:
        x = self.dropout(self.embedding(tokens))  # (B, T, C)
        for i, block in enumerate(self.blocks):
            x, state = block(x, cache.kept.get(i) if cache else None)
            if cache:
                cache.kept[i] = state
        return x


class Recurrent(nn.Module):
    """h_t = cell(x_t, h_(t-1)), then the norm: (B, T, C) -> (B, T, C). The state is h, and of an LSTM c as well."""

    GATES = {"gru": 3, "lstm": 4, "tanh": 1}

    def __init__(self, dim: int, cell: str, bias: bool, dropout: float, norm: nn.Module):
        super().__init__()
        self.cell = cell
        self.input = Linear(dim, self.GATES[cell] * dim, bias)
        self.state = Linear(dim, self.GATES[cell] * dim, bias)
        self.dropout = Dropout(dropout)
        self.norm = norm

    def forward(self, x: Tensor, state: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`state`, each (1, B, C), is that after the tokens before; None is zero."""
        x = x.to(self.input.weight.dtype)  # they differ under autocast, which the recurrence is not to run in
        weights = [self.input.weight, self.state.weight]
        if self.input.bias is not None:
            weights += [self.input.bias, self.state.bias]
        n_states = 2 if self.cell == "lstm" else 1
        start = state or (x.new_zeros(1, len(x), x.shape[-1]),) * n_states
        run: Any = {"gru": torch.gru, "lstm": torch.lstm, "tanh": torch.rnn_tanh}[self.cell]
        options = {"num_layers": 1, "dropout": 0.0, "train": self.training, "bidirectional": False, "batch_first": True}
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            h = start if self.cell == "lstm" else start[0]
            y, *state_after = run(x, h, weights, self.input.bias is not None, **options)
        return self.norm(self.dropout(y)), tuple(state_after)
