"""Conversion of a run's tokenizer to one of transformers, which does not need gptlab."""

import math
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gptlab.config import ConfigError
from gptlab.data.bpe import EncodingTokenizer, byte_of_character
from gptlab.data.hf_tokenizer import HuggingFaceTokenizer
from gptlab.data.tokenizers import Byte, CharTokenizer, Tokenizer

if TYPE_CHECKING:
    from tiktoken import Encoding
    from tokenizers import Tokenizer as LibraryTokenizer
    from tokenizers.models import Model
    from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"  # in every encoding that OpenAI published
ANY_CHARACTER = r"[\s\S]"


def to_hf_tokenizer(tokenizer: Tokenizer) -> "PreTrainedTokenizerFast":
    """Return a tokenizer of transformers with the same ids for any text, and the same text for any ids.

    This also holds after it is saved and read by AutoTokenizer. transformers rejects half a surrogate pair, and, as in
    gptlab, a character that tokenizer=char has not seen.

    The encodings of tiktoken have an end token; tokenizer=huggingface has the one that its folder names. char, byte and
    bpe have no special token, and none is added, since the model has no weights for one. With these three,
    lm-evaluation-harness (0.4.13) cannot generate, and scores only if `prefix_token_id=` names the token that begins a
    text, such as a line break.

    Raises:
        ConfigError: transformers is not installed, or the tokenizer has no equivalent there.
    """
    try:
        from transformers import PreTrainedTokenizerFast
    except ImportError as e:
        raise ConfigError("tokenizer: conversion needs transformers; pip install 'gptlab[hf]'") from e
    config: dict[str, Any] = {"split_special_tokens": True}  # gptlab never reads special tokens from a text
    if isinstance(tokenizer, HuggingFaceTokenizer):
        library, config = tokenizer.library, tokenizer.state["config"]
    elif isinstance(tokenizer, EncodingTokenizer):
        library = _byte_pairs(tokenizer.encoding)
        if END in tokenizer.encoding.special_tokens_set:
            config["eos_token"] = END
    elif isinstance(tokenizer, Byte):
        library = _byte_level({bytes([b]): b for b in range(256)}, {}, ANY_CHARACTER)
    elif isinstance(tokenizer, CharTokenizer):
        library = _characters(tokenizer)
    else:
        kind = type(tokenizer).__name__
        raise ConfigError(
            f"tokenizer={kind}: has no equivalent in transformers; train with a tokenizer of gptlab instead"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=library,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],  # no token types, which few decoders take
        **config,
    )


def _characters(tokenizer: CharTokenizer) -> "LibraryTokenizer":
    from tokenizers import decoders, models

    vocabulary = {c: i for i, c in enumerate(tokenizer.characters)}
    library = _library(models.WordLevel(vocabulary), ANY_CHARACTER)  # no token for unknown characters: an error
    library.decoder = decoders.Fuse()
    return library


def _byte_pairs(encoding: "Encoding") -> "LibraryTokenizer":
    special = {i: encoding.decode_single_token_bytes(i).decode() for i in encoding._special_tokens.values()}
    library = _byte_level(encoding._mergeable_ranks, {name: i for i, name in special.items()}, _ruby(encoding._pat_str))
    library.add_special_tokens([special[i] for i in sorted(special)])  # they are in the vocabulary and keep their ids
    return library


def _byte_level(ranks: dict[bytes, int], special: dict[str, int], split: str) -> "LibraryTokenizer":
    from tokenizers import decoders, models, pre_tokenizers

    character_of = {b: c for c, b in byte_of_character().items()}
    name = {token: "".join(character_of[b] for b in token) for token in ranks}
    merges = [_last_merge(token, ranks) for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1]
    model = models.BPE(
        {name[token]: rank for token, rank in ranks.items()} | special,
        [(name[pair[0]], name[pair[1]]) for pair in merges if pair],
        ignore_merges=True,  # a word that is a token stays whole, as in tiktoken
    )
    library = _library(model, split)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([library.pre_tokenizer, to_bytes])
    library.decoder = decoders.ByteLevel()
    return library


def _library(model: "Model", split: str) -> "LibraryTokenizer":
    from tokenizers import Regex
    from tokenizers import Tokenizer as LibraryTokenizer
    from tokenizers.pre_tokenizers import Split

    library = LibraryTokenizer(model)
    library.pre_tokenizer = Split(Regex(split), "isolated")
    return library


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """Return the two tokens that tiktoken merges into this one; None if its merges never lead to it.

    They do not depend on the text: the bytes of a token are merged as if nothing surrounded them.
    """
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        rank, at = min((ranks.get(a + b, math.inf), i) for i, (a, b) in enumerate(pairwise(parts)))
        if rank == math.inf:
            return None
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _ruby(pattern: str) -> str:
    """Translate a pattern of tiktoken for the tokenizers library, where `$` also matches before a line break.

    Possessive quantifiers, which the library reads as loops, become greedy. In the published patterns this matches the
    same, as nothing that follows one could match what it took.
    """
    greedy = re.sub(r"([*+?]|\{\d+(?:,\d*)?\})\+", r"\1", pattern)
    return greedy.replace("$", r"(?![\s\S])")
