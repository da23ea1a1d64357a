"""A corpus as tokens: split, tokenised once, and opened from the cache as memory-mapped files."""

import functools
import hashlib
import json
import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gptlab.config import ConfigError
from gptlab.data.batches import TrainBatches, validation_batches
from gptlab.data.cache import cache_folder, locked, stamp, write_cached
from gptlab.data.corpora import Corpus
from gptlab.data.task import Tally
from gptlab.data.tokenizers import Tokenizer, TokenizerOption, tokenizer_from_json

if TYPE_CHECKING:  # listing the data options must not cost the import of torch
    import torch
    from torch import Tensor

FORMAT = 1  # of the cache; raise it when the same settings come to give other tokens or other files
SPLITS = ("train", "val")
META = "meta.json"  # beside the tokens: the tokenizer, and how many tokens of which type there are


@dataclass(frozen=True)
class Dataset:
    """Both splits as ids, memory-mapped and read-only."""

    train: np.ndarray  # (n_train,) uint16 or uint32
    val: np.ndarray  # (n_val,)
    tokenizer: Tokenizer
    hash: str  # sha256 of the text in UTF-8, hex
    metrics: ClassVar[tuple[str, ...]] = ("val/loss", "val/bpb")

    @property
    def n_train(self) -> int:
        """Tokens."""
        return len(self.train)

    @property
    def n_val(self) -> int:
        """Tokens."""
        return len(self.val)

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def describe(self) -> str:
        return f"{self.n_train:,} to train on, {self.n_val:,} to validate; vocabulary {self.vocab_size:,}"

    def train_batches(
        self, window: int, batch_size: int, seed: int, sampling: str, device: "torch.device | None" = None
    ) -> TrainBatches:
        return TrainBatches(self.train, window, batch_size, seed, sampling, device)

    def slices(self, window: int) -> list[str]:
        """A text is not told apart by difficulty."""
        return ["all"]

    def validation_batches(self, window: int, batch_size: int, n_tokens: int | None) -> "Iterator[tuple[Tensor, ...]]":
        """Inputs, targets, slices and floors: (B, T) each; a text has one slice, and no floor is known."""
        for x, y in validation_batches(self.val, window, batch_size, n_tokens):
            yield x, y, y.new_zeros(y.shape), y.new_zeros(y.shape)

    def measure(self, tally: Tally) -> dict[str, float]:
        """val/loss in nats per token, and val/bpb in bits per byte of text, which compares across tokenizers."""
        nats, n = float(tally.nats.sum()), int(tally.n.sum())
        return {"val/loss": nats / n, "val/bpb": nats / math.log(2) / self.val_bytes(n + 1)}

    def val_bytes(self, n_tokens: int | None = None) -> int:
        """Bytes of UTF-8 that `validation_batches` over the same n_tokens predicts: all but the first token's."""
        return int(self.tokenizer.token_bytes[self.val[1:n_tokens]].sum())


def load_dataset(data: Corpus, tokenizer: TokenizerOption, *, window: int, val_fraction: float) -> Dataset:
    """Split the text by characters, validation last, and tokenise each split, unless the cache has it.

    A split must have at least window + 1 tokens. What has not changed is read once in a process.
    """
    text_hash, n_characters, text = _identify(data)
    n_train = int((1 - val_fraction) * n_characters)
    key = json.dumps([FORMAT, text_hash, n_train, tokenizer.cache_key])
    folder = cache_folder() / "tokens" / hashlib.sha256(key.encode()).hexdigest()
    if not (opened := _open(folder)):
        with locked(folder):
            if not (opened := _open(folder)):  # else another run filled it while we waited
                text = data.text() if text is None else text
                _fill(folder, tokenizer, text[:n_train], text[n_train:])
                opened = _open(folder)
    assert opened
    train, val, ready = opened
    for split, tokens in zip(SPLITS, (train, val), strict=True):
        if len(tokens) <= window:
            raise ConfigError(
                f"data.window={window}: the {split} split has {len(tokens)} tokens and must have window + 1 = "
                f"{window + 1}; set a smaller window, give a longer text or change data.val_fraction"
            )
    return Dataset(train, val, ready, text_hash)


_known: dict[Hashable, tuple[str, int]] = {}  # by corpus and stamp, what _identify found


def _identify(data: Corpus) -> tuple[str, int, str | None]:
    """sha256 of the text in UTF-8, hex; its characters; the text itself, if it had to be read for that."""
    key = type(data), data.stamp() if hasattr(data, "stamp") else None  # a user's corpus may have none
    if key in _known:
        return *_known[key], None
    text = data.text()
    found = hashlib.sha256(text.encode()).hexdigest(), len(text)
    if key[1] is not None:
        _known[key] = found
    return *found, text


def _fill(folder: Path, option: TokenizerOption, train: str, val: str) -> None:
    tokenizer = option.fit(train, val)
    meta: dict[str, Any] = {"tokenizer": tokenizer.to_json(), "dtype": np.dtype(tokenizer.dtype).name}
    for split, text in zip(SPLITS, (train, val), strict=True):
        tokens = tokenizer.encode(text)
        meta[split] = len(tokens)
        write_cached(_tokens_file(folder, split), tokens.data)
    write_cached(folder / META, json.dumps(meta).encode())  # last: it says that the others are there


def _open(folder: Path) -> tuple[np.ndarray, np.ndarray, Tokenizer] | None:
    """Both splits and the tokenizer, if the folder was filled to the end and its files are as long as then."""
    try:
        files = [folder / META, *(_tokens_file(folder, split) for split in SPLITS)]
        return _open_unchanged(folder, tuple(map(stamp, files)))
    except OSError:
        return None


@functools.lru_cache(maxsize=4)
def _open_unchanged(
    folder: Path, stamps: tuple[tuple[str, int, int], ...]
) -> tuple[np.ndarray, np.ndarray, Tokenizer] | None:
    try:
        meta = json.loads((folder / META).read_bytes())
        sizes = [meta[split] * np.dtype(meta["dtype"]).itemsize for split in SPLITS]
        tokenizer = meta["tokenizer"]
    except (ValueError, KeyError, TypeError):  # not what _fill wrote
        return None
    if sizes != [size for _, size, _ in stamps[1:]]:
        return None
    train, val = (
        np.memmap(_tokens_file(folder, split), dtype=meta["dtype"], mode="r")
        if meta[split]
        else np.empty(0, dtype=meta["dtype"])  # which cannot be mapped
        for split in SPLITS
    )
    return train, val, tokenizer_from_json(tokenizer)


def _tokens_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.bin"
