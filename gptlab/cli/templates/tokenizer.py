"""A tokenizer of your own, selected with `tokenizer=my_tokenizer`."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from gptlab import register
from gptlab.data.tokenizers import Tokenizer

PIECES = re.compile(r"\w+|\W", re.DOTALL)


class WordsAndBytes(Tokenizer):
    """Tokens 0 to 255 are bytes of UTF-8; those after them are whole words."""

    def __init__(self, words: list[str]):
        self.words = words
        self.ids = {word: 256 + i for i, word in enumerate(words)}
        # (V,), bytes of text that each token stands for; val/bpb is computed from it
        self.token_bytes = np.array([1] * 256 + [len(word.encode()) for word in words], dtype=np.int64)

    def encode(self, text: str, place: str = "text") -> np.ndarray:
        """Return the token ids, (N,). Raise a ConfigError that names `place` if the text cannot be encoded."""
        ids: list[int] = []
        for piece in PIECES.findall(text):
            ids += [self.ids[piece]] if piece in self.ids else piece.encode(errors="surrogateescape")
        return np.array(ids, dtype=self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text; decoding what was encoded gives it back."""
        pieces = (bytes([i]) if i < 256 else self.words[i - 256].encode() for i in map(int, ids))
        return b"".join(pieces).decode(errors="replace")

    def to_json(self) -> dict[str, Any]:
        """Return the state that a run saves; "name" is the name under which the option is registered."""
        return {"name": "my_tokenizer", "words": self.words}


@register("tokenizer", "my_tokenizer")  # add source="arXiv:..." and `gptlab list tokenizer` shows it
class MyTokenizer:
    """The `n_words` most frequent words of the training text, and bytes for everything else."""

    fixed_vocab_size = None  # the number of tokens, where no text is needed to know it

    # Everything is a setting: parameters after `*`, with a type and a default. `tokenizer.n_words=100` sets this one.
    def __init__(self, *, n_words: int = 1000):
        self.n_words = n_words

    @property
    def cache_key(self) -> str:
        """Return a name for all settings that the tokens depend on; the token cache is keyed by it."""
        return f"my_tokenizer {self.n_words}"

    def fit(self, train: str, val: str) -> WordsAndBytes:
        """Return the tokenizer for this text. Learn from `train` only."""
        counts = Counter(piece for piece in PIECES.findall(train) if len(piece) > 1)
        return WordsAndBytes([word for word, _ in counts.most_common(self.n_words)])

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> WordsAndBytes:
        """Return the tokenizer that `to_json` described."""
        return WordsAndBytes(state["words"])
