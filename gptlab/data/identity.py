"""What a run reads, by content: the hash of its text, and what the ids of its tokens depend on.

A text that has not changed is not read again: its hash is kept in the cache folder, under the stamps of its files.
"""

import functools
import hashlib
import json
import time
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path

from gptlab.config import ConfigError, Settings, registry
from gptlab.config.user_files import blaming, source_hash
from gptlab.data import corpora, documents
from gptlab.data.cache import Stamp, cache_folder
from gptlab.data.corpora import Corpus
from gptlab.data.task import Task
from gptlab.files import read_json, write_json

SETTLED_AFTER = 2.0  # seconds; a file written later than that may be written again without a new time

_known: dict[Hashable, tuple[str, int]] = {}  # (class of the corpus, its stamp) -> hash and length of its text


def content_of(cfg: Settings) -> dict[str, str]:
    """Return the sha256 of the text, in hex, and the cache key of the tokenizer, as `data` and `tokenizer`.

    A task reads neither: {}. Raises ConfigError if the text or the tokenizer cannot be read.
    """
    data = registry.build("data", cfg.data)
    if isinstance(data, Task):
        return {}
    with blaming():
        text_hash = identify(data)[0]
    return {"data": text_hash, "tokenizer": registry.build("tokenizer", cfg.tokenizer).cache_key}


def identify(data: Corpus) -> tuple[str, int, str | None]:
    """Return the text's sha256 in hex, its length in characters, and the text itself if it had to be read."""
    stamp = data.stamp() if hasattr(data, "stamp") else None  # a user's corpus may have no stamp
    key = type(data), stamp
    if stamp is not None:
        file = _cache_file(type(data), stamp)
        if key not in _known and (found := _read(file)):
            _known[key] = found
        if key in _known:
            return *_known[key], None
    text = data.text()
    if not isinstance(text, str):
        name = type(data).__name__
        raise ConfigError(f"data: {name}.text() returned {type(text).__name__}; return a str with the whole text")
    identity = hashlib.sha256(text.encode()).hexdigest(), len(text)
    if stamp is not None and _again(data) == stamp:  # else the text changed while it was read
        _known[key] = identity
        if _newest(stamp) < time.time() - SETTLED_AFTER:
            with suppress(OSError):  # it only saves time
                write_json(file, {"hash": identity[0], "characters": identity[1]})
    return *identity, text


def _again(data: Corpus) -> Hashable:
    """Return the stamp as it is now; a text made of files may have been written since the first one."""
    with suppress(OSError):
        return data.stamp()
    return None


def _read(file: Path) -> tuple[str, int] | None:
    try:
        content = read_json(file)
        return str(content["hash"]), int(content["characters"])
    except (OSError, ValueError, KeyError, TypeError):  # absent or damaged
        return None


def _cache_file(cls: type, stamp: Hashable) -> Path:
    key = json.dumps([_code(cls), cls.__qualname__, repr(stamp)])
    return cache_folder() / "identities" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


@functools.cache
def _code(cls: type) -> str:
    """Return a hash of the code that makes texts: another version of it may read the same files differently."""
    own = [Path(module.__file__).read_bytes() for module in (corpora, documents)]  # type: ignore[arg-type]
    return hashlib.sha256(b"".join([*own, source_hash(cls).encode()])).hexdigest()


def _newest(stamp: Hashable) -> float:
    """Return the time of the latest change of a file in a stamp, in seconds since 1970; 0 if it has no file."""
    if isinstance(stamp, Stamp):
        return max(stamp.modified, stamp.changed) / 1e9
    return max(map(_newest, stamp), default=0.0) if isinstance(stamp, tuple) else 0.0
