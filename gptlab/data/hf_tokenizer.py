"""The tokenizer of a transformers folder: its tokenizer.json, which the run keeps a whole copy of."""

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptlab.config import ConfigError
from gptlab.config.registry import register
from gptlab.data.bpe import GPT2_SPLIT, byte_of_character
from gptlab.data.cache import file_stamp
from gptlab.data.tokenizers import Tokenizer

if TYPE_CHECKING:  # listing the options must not cost the import
    from tokenizers import Tokenizer as LibraryTokenizer

PIECE = 2**18  # characters; to encode a text the library needs a hundred times its size in memory
# Where all of SPLIT_PATTERNS split, whatever comes before and after.
LINE_END = re.compile(r"(?<=\S\n)(?=\S)")
_WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"""
_OTHERS = r""" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
SPLIT_PATTERNS = (  # the patterns of GPT-2, Llama 3 and Qwen
    GPT2_SPLIT,
    rf"{_WORDS}|\p{{N}}{{1,3}}|{_OTHERS}",
    rf"{_WORDS}|\p{{N}}|{_OTHERS}",
)
TOKENIZER_CONFIGS, MODEL_CONFIG = ("special_tokens_map.json", "tokenizer_config.json"), "config.json"
BYTE = re.compile("<0x[0-9A-F]{2}>")  # how a SentencePiece vocabulary writes a single byte


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of the tokenizers library that adds no special tokens around a text.

    `state` is what `to_json` returns: "tokenizer" is the text of tokenizer.json, "config" the settings of the files
    next to it that belong to the vocabulary (`_special_tokens`).
    """

    def __init__(self, state: dict[str, Any]):
        from tokenizers import Tokenizer as LibraryTokenizer

        self.state = state
        self.library = LibraryTokenizer.from_str(state["tokenizer"])
        self.library.no_truncation()
        self.library.no_padding()
        self.library.encode_special_tokens = state["config"].get("split_special_tokens", False)
        settings = json.loads(state["tokenizer"])
        self.token_bytes = _token_bytes(self.library, settings.get("decoder"))
        self.encodes_in_pieces = can_encode_in_pieces(settings)

    def encode(self, text: str, place: str = "text") -> np.ndarray:
        """Encode as AutoTokenizer(text, add_special_tokens=False); half a surrogate pair becomes U+FFFD."""
        ids = []
        for piece in pieces_of(text) if self.encodes_in_pieces else [text]:
            characters = piece.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            [encoding] = self.library.encode_batch_fast([characters], add_special_tokens=False)
            ids.append(np.array(encoding.ids, dtype=self.dtype))
        return np.concatenate(ids)

    def decode(self, ids: Iterable[int]) -> str:
        return self.library.decode([int(i) for i in ids], skip_special_tokens=False)

    def to_json(self) -> dict[str, Any]:
        return self.state


def _token_bytes(library: "LibraryTokenizer", decoder: dict[str, Any] | None) -> np.ndarray:
    """Return the bytes that each token adds to a decoded text, 0 for special tokens and unused ids: (V,) int64."""
    kinds = {step["type"] for step in (decoder or {}).get("decoders", [decoder or {"type": "none"}])}
    alphabet = frozenset(byte_of_character()) if "ByteLevel" in kinds else frozenset()
    special = {token.content for token in library.get_added_tokens_decoder().values() if token.special}
    vocabulary = library.get_vocab(with_added_tokens=True)
    join = library.decoder.decode if library.decoder else " ".join
    # Decoded between two other tokens, since a token at the start of a text may lose its space.
    neighbours = len(join(["a", "a"]))
    n_bytes = np.zeros(_vocab_size(vocabulary), dtype=np.int64)
    for token, number in vocabulary.items():
        if token in special:
            continue
        if alphabet.issuperset(token):
            n_bytes[number] = len(token)
        elif "ByteFallback" in kinds and BYTE.fullmatch(token):
            n_bytes[number] = 1
        else:
            n_bytes[number] = len(join(["a", token, "a"]).encode()) - neighbours
    return n_bytes


def _vocab_size(vocabulary: dict[str, int]) -> int:
    return max(vocabulary.values()) + 1


def can_encode_in_pieces(settings: dict[str, Any]) -> bool:
    """Return whether a text and its `pieces_of` encode to the same ids: with byte-level BPE and one of SPLIT_PATTERNS.

    `settings` is the content of tokenizer.json.
    """
    if (settings.get("normalizer") or {"type": "NFC"})["type"] != "NFC":  # others may prepend something to a text
        return False
    if any("\n" in token["content"] or token["lstrip"] for token in settings.get("added_tokens", ())):
        return False
    first = settings.get("pre_tokenizer") or {"type": "none"}
    steps = [step for step in first.get("pretokenizers", [first]) if step["type"] != "Digits"]
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return False
    if steps[-1].get("use_regex", True):  # GPT2_SPLIT
        return len(steps) == 1
    return len(steps) == 2 and steps[0] in [
        {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
        for split in SPLIT_PATTERNS
    ]


def pieces_of(text: str) -> Iterator[str]:
    """Split a text at line ends into pieces of about PIECE characters."""
    start = 0
    while cut := LINE_END.search(text, start + PIECE):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


@register("tokenizer", "huggingface", source="github.com/huggingface/tokenizers")
class HuggingFaceVocabulary:
    """The tokenizer of a transformers folder: `path` is that folder, or its tokenizer.json.

    Special tokens that are spelled out in a text become special tokens, as in transformers, unless the folder sets
    split_special_tokens.
    """

    def __init__(self, *, path: str | None = None):
        if path is None:
            raise ConfigError("tokenizer.path=null: tokenizer=huggingface needs one; give a folder with tokenizer.json")
        given = Path(path).expanduser()
        file = given / "tokenizer.json" if given.is_dir() else given
        configs = [file.parent / name for name in (*TOKENIZER_CONFIGS, MODEL_CONFIG)]
        stamps = tuple(file_stamp(f) if f.is_file() else None for f in (file, *configs))
        self.fixed_vocab_size, self.state, self.cache_key = _open(path, file, stamps)

    def fit(self, train: str, val: str) -> HuggingFaceTokenizer:
        return self.from_json(self.state)

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> HuggingFaceTokenizer:
        return HuggingFaceTokenizer(state)


@functools.lru_cache(maxsize=2)  # large files take a second, and a config is composed more than once
def _open(path: str, file: Path, stamps: tuple[object, ...]) -> tuple[int, dict[str, Any], str]:
    """Read a tokenizer.json and the files next to it; return vocabulary size, tokenizer state and cache key.

    `stamps` makes the cache forget files that have changed.
    """
    from tokenizers import Tokenizer as LibraryTokenizer

    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as e:
        missing = "no such file or folder" if file == Path(path).expanduser() else "no tokenizer.json in it"
        mend = "give one that exists; an older folder gets it by AutoTokenizer.from_pretrained and save_pretrained"
        raise ConfigError(f"tokenizer.path={path}: {missing}; {mend}") from e
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"tokenizer.path={path}: cannot be read ({_line(e)}); give a tokenizer.json") from e
    try:
        size = _vocab_size(LibraryTokenizer.from_str(text).get_vocab(with_added_tokens=True))
    except Exception as e:  # the library raises no class of its own
        raise ConfigError(
            f"tokenizer.path={path}: {file.name} is not a file of the tokenizers library ({_line(e)}); give one that is"
        ) from e
    config = _special_tokens(file.parent, json.loads(text))
    content = json.dumps([text, config], sort_keys=True)
    key = f"huggingface-{hashlib.sha256(content.encode()).hexdigest()}"
    return size, {"name": "huggingface", "tokenizer": text, "config": config}, key


def _line(e: Exception) -> str:
    return " ".join(str(e).split())[:80]


def _special_tokens(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the tokens that begin, end and pad a text, by transformers' names, and whether text can spell them."""
    named = _read(folder / TOKENIZER_CONFIGS[0]) | _read(folder / TOKENIZER_CONFIGS[1])
    model = _read(folder / MODEL_CONFIG)  # older folders give the ids only there
    contents = {token["id"]: token["content"] for token in settings.get("added_tokens", ())}
    config: dict[str, Any] = {"split_special_tokens": bool(named.get("split_special_tokens", False))}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        number = model.get(f"{name}_id")
        number = number[0] if isinstance(number, list) and number else number
        token = named[name] if name in named else contents.get(number) if isinstance(number, int) else None
        token = token.get("content") if isinstance(token, dict) else token
        if token in contents.values():  # transformers would add any other to the vocabulary
            config[name] = token
    return config


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
