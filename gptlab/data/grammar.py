"""A language from a context-free grammar, for which the lowest loss that any model can reach is known."""

import numpy as np

from gptlab.config.registry import register
from gptlab.data.task import Examples, Task

DEPTHS = 4  # slices of bracket depth: 0, 1, 2, and 3 or more
LANGUAGE = 0  # the seed of the grammar itself, which is the same in every run
END = 0  # the kind that is innermost when no bracket is open: its closing token, 0, ends the sentence


@register("data", "grammar")
class Grammar(Task):
    """Sentences of words in nested brackets of several kinds; the innermost open one decides which words are likely.

    C_i -> word_w C_i | open_j C_j C_i | close_i, from C_0, whose close_0 is a full stop. Every rule starts with a token
    of its own, so the tokens so far determine the derivation so far, and the next token has the probabilities of the
    innermost open C_i. For each i they are the same numbers in a different order, so the entropy of every token at any
    position is the same `entropy` nats. val/excess is the loss above what the grammar itself loses on the same tokens.
    """

    score = "excess"

    def __init__(self, *, n_kinds: int = 4, n_words: int = 8, p_open: float = 0.2, p_close: float = 0.25):
        for name, value in (("n_kinds", n_kinds), ("n_words", n_words)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if not (0 < p_open < p_close and p_open + p_close < 1):
            raise ValueError(f"p_open={p_open}: must be above 0, below p_close={p_close}, and both together below 1")
        self.n_kinds, self.n_words, self.p_open, self.p_close = n_kinds, n_words, p_open, p_close
        self.vocab_size = 1 + 2 * n_kinds + n_words  # full stop, closing and opening brackets, words

    def probabilities(self) -> np.ndarray:
        """Return the next token's probabilities by the innermost open kind, END first: (kinds, V)."""
        zipf = 1 / np.arange(1, self.n_words + 1)
        words = (1 - self.p_open - self.p_close) * zipf / zipf.sum()
        rng = np.random.default_rng(LANGUAGE)
        p = np.zeros((1 + self.n_kinds, self.vocab_size))
        for kind, row in enumerate(p):
            row[kind] = self.p_close
            row[1 + self.n_kinds : 1 + 2 * self.n_kinds] = self.p_open / self.n_kinds
            row[1 + 2 * self.n_kinds :] = rng.permutation(words)
        return p

    @property
    def entropy(self) -> float:
        """Nats per token, at any position of any sentence."""
        p = self.probabilities()[END]
        p = p[p > 0]
        return float(-(p * np.log(p)).sum())

    def slices(self, window: int) -> list[str]:
        return [f"depth-{depth}" for depth in range(DEPTHS - 1)] + [f"depth-{DEPTHS - 1}-up"]

    def training(self, rng: np.random.Generator, n: int, window: int) -> Examples:
        return self.validation(rng, n, window)

    def validation(self, rng: np.random.Generator, n: int, window: int) -> Examples:
        """Return rows that begin with a full stop, which starts a sentence; every token after it counts."""
        p = self.probabilities()
        up_to = p.cumsum(1)
        up_to[:, -1] = 1  # rounding may have left it below 1
        tokens = np.zeros((n, window + 1), dtype=np.int64)
        depths, floor = np.zeros((n, window), dtype=np.int64), np.zeros((n, window))
        open_kinds = np.zeros((n, window + 1), dtype=np.int64)  # a row's open brackets, outermost first, after END
        depth, rows = np.zeros(n, dtype=np.int64), np.arange(n)
        for t, u in enumerate(rng.random((window, n))):
            kind = open_kinds[rows, depth]
            token = (u[:, None] >= up_to[kind]).sum(1)
            opened = token - self.n_kinds  # the kind of the token, if it is an opening bracket
            opens = (opened > 0) & (opened <= self.n_kinds)
            tokens[:, t + 1], depths[:, t], floor[:, t] = token, depth, -np.log(p[kind, token])
            depth = depth + opens - ((token == kind) & (depth > 0))
            open_kinds[rows[opens], depth[opens]] = opened[opens]
        return Examples(tokens, np.ones((n, window), dtype=bool), depths.clip(max=DEPTHS - 1), floor)
