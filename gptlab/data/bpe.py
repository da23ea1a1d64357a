"""Byte-level BPE as a tiktoken.Encoding: vocabularies that OpenAI published, and one trained on the text."""

import base64
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import regex

from gptlab.config import ConfigError
from gptlab.config.registry import register
from gptlab.data.tokenizers import Tokenizer

if TYPE_CHECKING:  # listing the options must not cost the import
    from tiktoken import Encoding

# How GPT-2 splits a text before it merges bytes (encoder.py of github.com/openai/gpt-2).
GPT2_SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

LONGEST_SPACE = 10_000  # characters of white space that are encoded at once
LONGEST_WORD = 1000  # characters that BPE is trained on at once


class EncodingTokenizer(Tokenizer):
    """A tiktoken encoding that treats special tokens in a text as ordinary text. `state` is what `to_json` returns."""

    def __init__(self, encoding: "Encoding", state: dict[str, Any]):
        self.encoding, self.state = encoding, state
        self.token_bytes = np.array([self._n_bytes(i) for i in range(encoding.n_vocab)], dtype=np.int64)

    def _n_bytes(self, token: int) -> int:
        try:
            return len(self.encoding.decode_single_token_bytes(token))
        except KeyError:  # some published vocabularies have gaps
            return 0

    def encode(self, text: str, place: str = "text") -> np.ndarray:
        # The library's stack overflows at a million spaces; no ordinary text is cut here.
        pieces = re.split(rf"(\s{{{LONGEST_SPACE}}})", text)
        ids = itertools.chain.from_iterable(map(self.encoding.encode_ordinary, pieces))
        return np.fromiter(ids, dtype=self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        return self.encoding.decode([int(i) for i in ids], errors="replace")

    def to_json(self) -> dict[str, Any]:
        return self.state


class Published:
    """A vocabulary that tiktoken downloads once; TIKTOKEN_CACHE_DIR is its cache folder."""

    encodings: ClassVar[tuple[str, ...]]  # tiktoken's names for it; the first is also the option's name
    fixed_vocab_size: ClassVar[int]

    @property
    def cache_key(self) -> str:
        return self.encodings[0]

    def fit(self, train: str, val: str) -> EncodingTokenizer:
        return self.from_json({"name": self.encodings[0]})

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> EncodingTokenizer:
        import tiktoken

        for name in cls.encodings:
            try:
                return EncodingTokenizer(tiktoken.get_encoding(name), state)
            except (OSError, ValueError) as e:  # not in the cache, and the download failed
                reason = type(e).__name__
        raise ConfigError(
            f"tokenizer={cls.encodings[0]}: cannot be downloaded ({reason}); set TIKTOKEN_CACHE_DIR to a folder that "
            f"has it, or use tokenizer=bpe, char or byte, which need no network"
        )


# tiktoken's names, the vocabulary size in tokens, and what it is
PUBLISHED: list[tuple[tuple[str, ...], int, str]] = [
    (
        ("gpt2", "r50k_base"),
        50257,
        "GPT-2's vocabulary; r50k_base, if only that is in tiktoken's cache, has the same ones.",
    ),
    (("r50k_base",), 50257, "GPT-3's vocabulary, which is GPT-2's."),
    (("p50k_base",), 50281, "Codex's vocabulary: GPT-2's, and runs of spaces."),
    (("p50k_edit",), 50284, "Codex's vocabulary with the marks for filling in."),
    (("cl100k_base",), 100277, "GPT-4's vocabulary."),
    (("o200k_base",), 200019, "GPT-4o's vocabulary."),
    (("o200k_harmony",), 201088, "gpt-oss's vocabulary: GPT-4o's, and the marks of its chat format."),
]
for _names, _size, _summary in PUBLISHED:
    _members = {
        "__doc__": f"{_size:,} tokens: {_summary}",
        "__module__": __name__,
        "encodings": _names,
        "fixed_vocab_size": _size,
    }
    register("tokenizer", _names[0], source="github.com/openai/tiktoken")(type(_names[0], (Published,), _members))


@register("tokenizer", "bpe", source="arXiv:1508.07909")
class BPE:
    """Byte-level BPE like GPT-2's, trained on the training split by the tokenizers library; no special tokens."""

    def __init__(self, *, vocab_size: int = 4096):
        if vocab_size < 256:
            raise ConfigError(f"tokenizer.vocab_size={vocab_size}: must be at least 256, one token per byte; raise it")
        self.fixed_vocab_size = vocab_size
        self.cache_key = f"bpe-{vocab_size}"

    def fit(self, train: str, val: str) -> EncodingTokenizer:
        tokens = _train_bpe(train, self.fixed_vocab_size)
        if len(tokens) < self.fixed_vocab_size:
            raise ConfigError(
                f"tokenizer.vocab_size={self.fixed_vocab_size}: the training text has only enough pairs for "
                f"{len(tokens)} tokens; set at most {len(tokens)}"
            )
        return self.from_json({"name": "bpe", "tokens": [base64.b64encode(t).decode() for t in tokens]})

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> EncodingTokenizer:
        from tiktoken import Encoding

        ranks = {base64.b64decode(token): rank for rank, token in enumerate(state["tokens"])}
        return EncodingTokenizer(Encoding("bpe", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens={}), state)


def _train_bpe(text: str, vocab_size: int) -> list[bytes]:
    """Return the tokens in the order of their ranks: the 256 bytes, then the merges, most frequent pair first."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)  # splits by GPT2_SPLIT
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    # In one piece the text would take 80 times its size in memory. GPT2_SPLIT always splits at these line ends too.
    lines = re.split(r"(?<=\S\n)(?=\S)", text)
    tokenizer.train_from_iterator(itertools.chain.from_iterable(map(_cut_long_words, lines)), trainer)
    vocabulary = tokenizer.get_vocab()
    byte_of = byte_of_character()
    return [bytes(byte_of[c] for c in token) for token in sorted(vocabulary, key=vocabulary.__getitem__)]


def _cut_long_words(line: str) -> Iterator[str]:
    """Cut what GPT2_SPLIT leaves in one piece after every LONGEST_WORD characters; other texts stay whole.

    The time of a merge grows with the square of the length of a word, and a million letters without a space, such as
    DNA, are one word.
    """
    start = 0
    if len(line) > LONGEST_WORD:
        for word in regex.finditer(GPT2_SPLIT, line):
            for cut in range(word.start() + LONGEST_WORD, word.end(), LONGEST_WORD):
                yield line[start:cut]
                start = cut
    yield line[start:]


def byte_of_character() -> dict[str, int]:
    """Return the byte for each printable character that byte-level BPE writes (bytes_to_unicode in encoder.py)."""
    printable = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
