"""Texts to train on: one class per option of `data`, each of which gives one string."""

import functools
import glob
import hashlib
import itertools
import os
import sysconfig
import tokenize
import urllib.request
from collections.abc import Hashable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

from gptlab.config import ConfigError
from gptlab.config.registry import register
from gptlab.data.cache import cache_folder, file_stamp, write_cached
from gptlab.data.documents import (
    find_files,
    join_documents,
    read_documents,
    read_utf8,
    refuse_more_than_memory,
    search,
    text_of,
)


class Corpus(Protocol):
    """A class registered as `data` that gives a text."""

    def text(self) -> str:
        """Return all documents with a blank line between them; never empty."""
        ...

    def stamp(self) -> Hashable | None:
        """Return, without reading the text, a value that changes whenever the text may; None if that is unknown."""
        ...


@register("data", "pystdlib", source="docs.python.org/3/library")
class PyStdlib:
    """The running interpreter's standard library as source text, about 9 MB; nothing to download.

    Modules and packages are sorted by path and decoded as their coding lines say (PEP 263), or as UTF-8.
    Tests, demos, tables (encodings, pydoc_data), the big applications idlelib and lib2to3, installed packages and
    _sysconfigdata, which describes one machine, are left out. Every Python version has a different text and hash.
    """

    LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "encodings"}

    def text(self) -> str:
        root = Path(sysconfig.get_path("stdlib"))
        return join_documents(map(_read_source, self.modules(root)), f"data=pystdlib: no source text in {root}")

    def stamp(self) -> Hashable:
        return _stdlib_stamp(Path(sysconfig.get_path("stdlib")))

    def modules(self, root: Path) -> list[Path]:
        """Return the source files that the text is made of, sorted."""
        modules = []
        for folder, subfolders, names in os.walk(root):
            # Names that are not identifiers (site-packages, config-3.11-...) are not packages of the standard library.
            subfolders[:] = [s for s in subfolders if s.isidentifier() and s not in self.LEFT_OUT]
            modules += [Path(folder, n) for n in names if n.endswith(".py") and not n.startswith("_sysconfigdata")]
        return sorted(modules)


@functools.cache  # the library of a running interpreter does not change
def _stdlib_stamp(root: Path) -> Hashable:
    return tuple(map(file_stamp, PyStdlib().modules(root)))


def _read_source(file: Path) -> str:
    with tokenize.open(file) as f:
        return f.read()


@register("data", "tinyshakespeare", source="github.com/karpathy/char-rnn")
class TinyShakespeare:
    """Tiny Shakespeare, 1,115,394 characters, 65 distinct; downloaded once, or read from `path` unchecked."""

    URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

    def __init__(self, *, path: str | None = None):
        self.path = None if path is None else Path(path).expanduser()
        if self.path and not self.path.is_file():
            raise ConfigError(f"data.path={path}: no such file; give one that exists, or null to download it")

    def text(self) -> str:
        if self.path:
            return join_documents([read_utf8(self.path)], f"data.path={self.path}")
        cached = self._cached()
        if not cached.is_file() or not self._is_genuine(cached.read_bytes()):
            write_cached(cached, self._download())
        return read_utf8(cached)

    def stamp(self) -> Hashable | None:
        file = self.path or self._cached()
        return file_stamp(file) if file.is_file() else None

    def _cached(self) -> Path:
        return cache_folder() / "tinyshakespeare.txt"

    def _download(self) -> bytes:
        mend = "use data=pystdlib, which needs no network, or data.path=FILE"
        try:
            with urllib.request.urlopen(self.URL, timeout=30) as response:
                content: bytes = response.read()
        except (OSError, HTTPException) as e:
            raise ConfigError(f"data=tinyshakespeare: cannot be downloaded ({e}); {mend}") from e
        if not self._is_genuine(content):
            raise ConfigError(f"data=tinyshakespeare: {self.URL} gave another file (its sha256 differs); {mend}")
        return content

    def _is_genuine(self, content: bytes) -> bool:
        return hashlib.sha256(content).hexdigest() == self.SHA256


@register("data", "text")
class Text:
    """Your own .txt, .md, .py, .jsonl or .parquet: `path` is a file, a folder or a glob.

    A file is one document; in .jsonl and .parquet each record is one, with its text in `field`. Files are in the order
    of their paths.
    """

    def __init__(self, *, path: str | None = None, field: str = "text"):
        if path is None:
            raise ConfigError("data.path=null: data=text needs one; give a file, a folder or a glob")
        self.files = find_files(path)  # already here, so that a missing file stops a sweep before its first run
        self.path, self.field = path, field

    def text(self) -> str:
        refuse_more_than_memory(self.files, str(self.path))
        documents = (document for file in self.files for document in read_documents(file, self.field))
        return join_documents(documents, f"data.path={self.path}")

    def stamp(self) -> Hashable:
        return self.field, tuple(map(file_stamp, self.files))


@register("data", "huggingface", source="github.com/huggingface/datasets")
class HuggingFaceCorpus:
    """A dataset of the Hugging Face Hub, or a local folder in its layout; streamed, one document per record.

    The text of a dataset from the Hub is kept in the cache folder, so that a sweep streams it once. Its name on the
    Hub is `data.path`.
    """

    name_means = "path"  # users who set data.name, which is the component's name, are pointed to data.path

    def __init__(
        self,
        *,
        path: str | None = None,
        subset: str | None = None,
        split: str = "train",
        field: str = "text",
        max_documents: int | None = 10_000,
    ):
        if path is None:
            raise ConfigError("data.path=null: data=huggingface needs one; give a name on the Hub or a local folder")
        if max_documents is not None and max_documents < 1:
            raise ConfigError(f"data.max_documents={max_documents}: must be at least 1; null takes all")
        self.path, self.subset, self.split, self.field, self.max_documents = path, subset, split, field, max_documents

    def text(self) -> str:
        if os.path.isdir(self.path):  # it may change, and is quick to read
            return self._stream()
        cached = self._cached()
        if not cached.is_file():
            write_cached(cached, self._stream().encode())
        return read_utf8(cached)

    def stamp(self) -> Hashable | None:
        key = self._cached().name
        if os.path.isdir(self.path):
            names = search(os.path.join(glob.escape(self.path), "**"), self.path)
            return key, tuple(file_stamp(f) for f in sorted(map(Path, names)) if f.is_file())
        return (key, file_stamp(self._cached())) if self._cached().is_file() else None

    def _cached(self) -> Path:
        key = hashlib.sha256(repr(sorted(vars(self).items())).encode()).hexdigest()
        return cache_folder() / "huggingface" / f"{key}.txt"

    def _stream(self) -> str:
        try:
            return join_documents(itertools.islice(self._documents(), self.max_documents), f"data.path={self.path}")
        except ConfigError:
            raise
        except Exception as e:  # the library passes on errors of half a dozen others, without a common class
            reason = f"{type(e).__name__}: {e}".partition("\n")[0]
            raise ConfigError(
                f"data.path={self.path}: {reason}; correct data.path, data.subset or data.split, "
                f"or use data=text or data=pystdlib, which need no network"
            ) from e

    def _documents(self) -> Iterator[str | None]:
        try:
            from datasets import load_dataset
        except ImportError as e:
            raise ConfigError("data=huggingface: needs the datasets library; pip install 'gptlab[hf]'") from e
        records: Any = load_dataset(self.path, self.subset, split=self.split, streaming=True)
        for number, record in enumerate(records, 1):
            yield text_of(record, self.field, f"{self.path} record {number}")
