"""Text <-> token ids. An option of `tokenizer` holds settings; its `fit` gives the Tokenizer that a run keeps.

    Option(**settings).fit(train, val) -> Tokenizer
    tokenizer_from_json(tokenizer.to_json()) -> the same Tokenizer

This file has char and byte; bpe.py has those built on tiktoken. V is the size of the vocabulary in tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from gptlab.config import ConfigError, registry
from gptlab.config.registry import register


class Tokenizer(ABC):
    """A fitted tokenizer, ready to use."""

    token_bytes: np.ndarray  # (V,) int64, the bytes of UTF-8 that each token stands for

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes)

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The smallest integer type that holds every id."""
        return np.uint16 if self.vocab_size <= 2**16 else np.uint32

    @abstractmethod
    def encode(self, text: str, place: str = "text") -> np.ndarray:
        """Return the ids of a text, of type `dtype`; `place` names the text in a ConfigError."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids. Bytes that are not UTF-8, such as half a character, become U+FFFD."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return what `tokenizer_from_json` needs; "name" is the option's name."""


class TokenizerOption(Protocol):
    """The interface of a class registered as `tokenizer`."""

    @property
    def fixed_vocab_size(self) -> int | None:
        """The vocabulary size in tokens if it is known without a text, else None."""

    @property
    def cache_key(self) -> str:
        """A name for all settings that token ids depend on."""

    def fit(self, train: str, val: str) -> Tokenizer:
        """Return the tokenizer for a text, given as its two splits."""

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Tokenizer:
        """Return the tokenizer that gave `state` by `to_json`."""


def tokenizer_from_json(state: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer that gave `state` by `to_json`."""
    option: type[TokenizerOption] = registry.entry("tokenizer", state["name"]).cls
    return option.from_json(state)


@register("tokenizer", "char")
class Char:
    """One token per character; the vocabulary is the sorted set of the whole text's characters."""

    fixed_vocab_size = None
    cache_key = "char"

    def fit(self, train: str, val: str) -> "CharTokenizer":
        return CharTokenizer("".join(sorted(set(train) | set(val))))

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> "CharTokenizer":
        return CharTokenizer(state["characters"])


class CharTokenizer(Tokenizer):
    """A tokenizer whose ids are indices into `characters`, which are distinct and sorted."""

    def __init__(self, characters: str):
        self.characters = characters
        self.codes = _code_points(characters)
        self.token_bytes = np.array([len(c.encode()) for c in characters], dtype=np.int64)

    def encode(self, text: str, place: str = "text") -> np.ndarray:
        codes = _code_points(text)
        ids = np.searchsorted(self.codes, codes).clip(max=self.vocab_size - 1)
        unknown = np.flatnonzero(self.codes[ids] != codes)
        if unknown.size:
            rule = f"the vocabulary is the {self.vocab_size} characters of the training data; leave it out"
            raise ConfigError(f"{place}: character {text[unknown[0]]!r} at {unknown[0]} is unknown; {rule}")
        return ids.astype(self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.characters[i] for i in ids)

    def to_json(self) -> dict[str, Any]:
        return {"name": "char", "characters": self.characters}


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


@register("tokenizer", "byte", source="arXiv:2105.13626")
class Byte(Tokenizer):
    """One token per byte of UTF-8: 256 tokens, for any text."""

    fixed_vocab_size = 256
    cache_key = "byte"
    token_bytes = np.ones(256, dtype=np.int64)

    def fit(self, train: str, val: str) -> "Byte":
        return self

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> "Byte":
        return cls()

    def encode(self, text: str, place: str = "text") -> np.ndarray:
        # A terminal passes on bytes that are not UTF-8 as surrogates; they become those bytes again.
        return np.frombuffer(text.encode(errors="surrogateescape"), dtype=np.uint8).astype(self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(int(i) for i in ids).decode(errors="replace")

    def to_json(self) -> dict[str, Any]:
        return {"name": "byte"}
