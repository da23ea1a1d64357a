"""A corpus as tokens: split, tokenised once, and opened from the cache as memory-mapped files."""

import functools
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gptlab.config import ConfigError
from gptlab.data.batches import (
    N_BLOCKS,
    Blocks,
    TrainBatches,
    ValidationBatch,
    stream,
    validation_batches,
    validation_starts,
)
from gptlab.data.cache import Stamp, cache_entry_locked, cache_folder, file_stamp, write_cached
from gptlab.data.corpora import Corpus
from gptlab.data.identity import identify
from gptlab.data.task import Tally
from gptlab.data.tokenizers import Tokenizer, TokenizerOption, tokenizer_from_json

if TYPE_CHECKING:  # listing the data options must not cost the import of torch
    import torch

CACHE_FORMAT = 1  # raise it when the same settings give other tokens or other files
SPLITS = ("train", "val")
SHUFFLE = 2**64 - 2  # takes the place of a run's seed, since all runs have the same order
META = "meta.json"  # the tokenizer, the type of the ids, and the number of tokens of each split


@dataclass(frozen=True)
class Dataset:
    """Both splits of a text as token ids, memory-mapped and read-only."""

    train: np.ndarray  # (n_train,) uint16 or uint32
    val: np.ndarray  # (n_val,)
    tokenizer: Tokenizer
    hash: str  # sha256 of the text in UTF-8, hex
    tokenizer_key: str  # names everything that the ids depend on besides the text
    shuffled: bool = False  # whether `train` is in random order
    metrics: ClassVar[tuple[str, ...]] = ("val/loss", "val/bpb")

    @property
    def n_train(self) -> int:
        """The training split's length in tokens."""
        return len(self.train)

    @property
    def n_val(self) -> int:
        """The validation split's length in tokens."""
        return len(self.val)

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def content(self) -> dict[str, str]:
        """The hashes of the text and the tokenizer, as `content_of` returns them."""
        return {"data": self.hash, "tokenizer": self.tokenizer_key}

    def describe(self) -> str:
        order = ", in random order" if self.shuffled else ""
        return f"{self.n_train:,} to train on{order}, {self.n_val:,} to validate; vocabulary {self.vocab_size:,}"

    def train_batches(
        self, window: int, batch_size: int, seed: int, sampling: str, device: "torch.device | None" = None
    ) -> TrainBatches:
        return TrainBatches(self.train, window, batch_size, seed, sampling, device)

    def slices(self, window: int) -> list[str]:
        """Return the names of the difficulties that metrics are split by; a text has one."""
        return ["all"]

    def final_tokens(self, n_tokens: int | None, n_final: int | None) -> int | None:
        """Return how much the last evaluation reads; `n_tokens` if it would read what the others read."""
        read, wanted = (self.n_val if n is None else min(n, self.n_val) for n in (n_tokens, n_final))
        return n_tokens if read == wanted else n_final

    def validation_batches(self, window: int, batch_size: int, n_tokens: int | None) -> Iterator[ValidationBatch]:
        """Yield the windows that an evaluation reads, each target with its bytes and its block of the text.

        Block b of N_BLOCKS has the targets that begin in the b-th part of the bytes that are read. So if all of the
        text is read, a block holds the same text whatever the tokenizer.
        """
        import torch

        starts = validation_starts(self.n_val, window, n_tokens)
        offset = int(self.tokenizer.token_bytes[self.val[starts[0]]])  # the first token is no target, but it is text
        total = offset + self._bytes_of_targets(starts, window)
        for x, y in validation_batches(self.val, window, batch_size, n_tokens):
            ids = y.numpy()
            n_bytes = np.where(ids < 0, 0, self.tokenizer.token_bytes[ids.clip(min=0)])
            ends = offset + n_bytes.cumsum().reshape(n_bytes.shape)
            blocks = ((ends - n_bytes) * N_BLOCKS // total).clip(max=N_BLOCKS - 1)  # a token of no bytes may come last
            offset = int(ends[-1, -1])
            yield ValidationBatch(x, y, torch.from_numpy(blocks), torch.from_numpy(n_bytes))

    def _bytes_of_targets(self, starts: np.ndarray, window: int, at_once: int = 2**20) -> int:
        """Return the bytes of text in the targets of the windows that begin at `starts`."""
        total, rows = 0, max(1, at_once // window)
        for i in range(0, len(starts), rows):
            at = (starts[i : i + rows, None] + np.arange(1, window + 1)).ravel()
            total += int(self.tokenizer.token_bytes[self.val[at[at < self.n_val]]].sum())
        return total

    def metrics_of(self, tally: Tally, blocks: Blocks) -> dict[str, float]:
        """Return val/loss in nats per token, and val/bpb in bits per byte of text, which compares across tokenizers."""
        nats = float(tally.nats.sum())
        return {
            "val/loss": nats / float(tally.n.sum()),
            "val/bpb": nats / math.log(2) / float(blocks.n_bytes.sum()),
        }


def load_dataset(
    data: Corpus, tokenizer: TokenizerOption, *, window: int, val_fraction: float, shuffle_tokens: bool = False
) -> Dataset:
    """Split the text by characters, validation last, and tokenise each split, unless the cache has the result.

    An unchanged text is read once per process. `shuffle_tokens` puts the training split into random order.
    Raises ConfigError for a split of fewer than window + 1 tokens.
    """
    text_hash, n_characters, text = identify(data)
    n_train = int((1 - val_fraction) * n_characters)
    key = json.dumps([CACHE_FORMAT, text_hash, n_train, tokenizer.cache_key])
    folder = cache_folder() / "tokens" / hashlib.sha256(key.encode()).hexdigest()
    if not (opened := _open(folder)):
        with cache_entry_locked(folder):
            if not (opened := _open(folder)):  # another run may have filled it while this one waited
                text = data.text() if text is None else text
                _fill(folder, tokenizer, text[:n_train], text[n_train:])
                opened = _open(folder)
    assert opened
    train, val, fitted = opened
    for split, tokens in zip(SPLITS, (train, val), strict=True):
        if len(tokens) <= window:
            raise ConfigError(
                f"data.window={window}: the {split} split has {len(tokens)} tokens and must have window + 1 = "
                f"{window + 1}; set a smaller window, give a longer text or change data.val_fraction"
            )
    if shuffle_tokens:
        train = _shuffled(folder, train)
    return Dataset(train, val, fitted, text_hash, tokenizer.cache_key, shuffle_tokens)


def _shuffled(folder: Path, train: np.ndarray) -> np.ndarray:
    """Return the training split in random order, memory-mapped from a file of its own in the cache entry.

    The order depends on the number of tokens alone. Making it takes the memory of the split once, in its own dtype.
    """
    file = _tokens_file(folder, "train-shuffled")
    if not file.is_file() or file.stat().st_size != train.nbytes:
        write_cached(file, stream(SHUFFLE, 0).permutation(train).data)
    return np.memmap(file, dtype=train.dtype, mode="r")


def _fill(folder: Path, option: TokenizerOption, train: str, val: str) -> None:
    """Fit the tokenizer and write an entry of the cache."""
    tokenizer = option.fit(train, val)
    _check_fitted(option, tokenizer)
    meta: dict[str, Any] = {"tokenizer": tokenizer.to_json(), "dtype": np.dtype(tokenizer.dtype).name}
    for split, text in zip(SPLITS, (train, val), strict=True):
        tokens = tokenizer.encode(text)
        if not isinstance(tokens, np.ndarray) or tokens.dtype != tokenizer.dtype:
            got = f"an array of {tokens.dtype}" if isinstance(tokens, np.ndarray) else type(tokens).__name__
            name = type(tokenizer).__name__
            raise ConfigError(f"tokenizer: {name}.encode() returned {got}; return a numpy array of type self.dtype")
        meta[split] = len(tokens)
        write_cached(_tokens_file(folder, split), tokens.data)
    write_cached(folder / META, json.dumps(meta).encode())  # last, so its presence means that the others are complete


def _check_fitted(option: TokenizerOption, fitted: object) -> None:
    """Reject what a user's `fit` returned if it is no tokenizer."""
    place = f"tokenizer: {type(option).__name__}.fit() returned {type(fitted).__name__}"
    if not isinstance(fitted, Tokenizer):
        raise ConfigError(f"{place}; return one that is derived from gptlab.data.tokenizers.Tokenizer")
    token_bytes = getattr(fitted, "token_bytes", None)
    if not isinstance(token_bytes, np.ndarray) or token_bytes.ndim != 1:
        raise ConfigError(f"{place} without token_bytes; set it to the bytes of each token, (V,) int64")


def _open(folder: Path) -> tuple[np.ndarray, np.ndarray, Tokenizer] | None:
    """Return both splits and the tokenizer of a cache entry, or None if it is missing, incomplete or damaged."""
    try:
        files = [folder / META, *(_tokens_file(folder, split) for split in SPLITS)]
        return _open_unchanged(folder, tuple(map(file_stamp, files)))
    except OSError:
        return None


@functools.lru_cache(maxsize=4)
def _open_unchanged(folder: Path, stamps: tuple[Stamp, ...]) -> tuple[np.ndarray, np.ndarray, Tokenizer] | None:
    try:
        meta = json.loads((folder / META).read_bytes())
        sizes = [meta[split] * np.dtype(meta["dtype"]).itemsize for split in SPLITS]
        tokenizer = meta["tokenizer"]
    except (ValueError, KeyError, TypeError):  # not written by _fill
        return None
    if sizes != [size for _, size, *_ in stamps[1:]]:
        return None
    train, val = (
        np.memmap(_tokens_file(folder, split), dtype=meta["dtype"], mode="r")
        if meta[split]
        else np.empty(0, dtype=meta["dtype"])  # an empty file cannot be mapped
        for split in SPLITS
    )
    return train, val, tokenizer_from_json(tokenizer)


def _tokens_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.bin"
