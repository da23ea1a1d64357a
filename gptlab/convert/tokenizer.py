"""A run's tokenizer as one of transformers, which needs nothing of gptlab."""

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

END = "<|endoftext|>"  # in all that OpenAI published
ANY_CHARACTER = r"[\s\S]"


def to_hf_tokenizer(tokenizer: Tokenizer) -> "PreTrainedTokenizerFast":
    """The same ids for any text and the same text for any ids, also once saved and read again by AutoTokenizer.

    Half a surrogate pair is no text to transformers. A character that char does not know is an error there as well.

    Those that tiktoken publishes have an end token, and huggingface's what its folder names; char, byte and bpe have
    no special token, and none is added: the model has no weights for one. lm-evaluation-harness (0.4.13) then scores
    only if `prefix_token_id=` gives it the token to begin a text with, such as a line end's, and cannot generate.
    """
    try:
        from transformers import PreTrainedTokenizerFast
    except ImportError as e:
        raise ConfigError("tokenizer: needs transformers to become one of its; pip install 'gptlab[hf]'") from e
    config: dict[str, Any] = {"split_special_tokens": True}  # as ours, which never reads them from a text
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
        raise ConfigError(f"tokenizer={kind}: has no form in transformers; train with one of gptlab's to have it there")
    return PreTrainedTokenizerFast(
        tokenizer_object=library,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],  # else there are token types too, which few decoders take
        **config,
    )


def _characters(tokenizer: CharTokenizer) -> "LibraryTokenizer":
    from tokenizers import decoders, models

    vocabulary = {c: i for i, c in enumerate(tokenizer.characters)}
    library = _library(models.WordLevel(vocabulary), ANY_CHARACTER)  # without a token for unknown ones: hence the error
    library.decoder = decoders.Fuse()
    return library


def _byte_pairs(encoding: "Encoding") -> "LibraryTokenizer":
    special = {i: encoding.decode_single_token_bytes(i).decode() for i in encoding._special_tokens.values()}
    library = _byte_level(encoding._mergeable_ranks, {name: i for i, name in special.items()}, _ruby(encoding._pat_str))
    library.add_special_tokens([special[i] for i in sorted(special)])  # in the vocabulary: they keep their ids
    return library


def _byte_level(ranks: dict[bytes, int], special: dict[str, int], split: str) -> "LibraryTokenizer":
    from tokenizers import decoders, models, pre_tokenizers

    character_of = {b: c for c, b in byte_of_character().items()}
    name = {token: "".join(character_of[b] for b in token) for token in ranks}
    merges = [_last_merge(token, ranks) for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1]
    model = models.BPE(
        {name[token]: rank for token, rank in ranks.items()} | special,
        [(name[pair[0]], name[pair[1]]) for pair in merges if pair],
        ignore_merges=True,  # as tiktoken, which takes a whole word that is a token as it is
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
    """The two tokens that tiktoken makes this one of; none if its merges never lead there.

    They are the same in any text: what becomes one token is merged as if there were nothing around it.
    """
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        rank, at = min((ranks.get(a + b, math.inf), i) for i, (a, b) in enumerate(pairwise(parts)))
        if rank == math.inf:
            return None
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _ruby(pattern: str) -> str:
    """A pattern of tiktoken's for the tokenizers library, where `$` is also before a line end, and `{1,3}+` a loop.

    Possessive quantifiers become greedy: in the published patterns nothing that follows one matches what it took.
    """
    greedy = re.sub(r"([*+?]|\{\d+(?:,\d*)?\})\+", r"\1", pattern)
    return greedy.replace("$", r"(?![\s\S])")
