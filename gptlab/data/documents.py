"""From a path to documents: which files the path names, and how each type of file is read."""

import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from gptlab.config import ConfigError
from gptlab.config.environment import machine_memory
from gptlab.files import FileError, decode_utf8

MOST_ENTRIES = 200_000  # files and folders that are searched: some seconds


def find_files(path: str) -> list[Path]:
    """Return the files that a path names, sorted: one file, the matches of a glob, or all readable files in a folder.

    Files of other types and hidden ones in a folder are skipped. Raises ConfigError if `path` itself, or a match of the
    glob, is a file of another type, or if there is too much to search, as in the folder /.
    """
    target = os.path.expanduser(path)
    folder = os.path.isdir(target)
    pattern = os.path.join(glob.escape(target), "**", "*") if folder else target
    named = [target] if os.path.isfile(target) else search(pattern, path)
    files = sorted(Path(name) for name in named if os.path.isfile(name))
    if folder:
        files = [file for file in files if file.suffix.lower() in READERS]
    if not files:
        missing = "has no file ending in" if folder else "no such file or folder, and no glob that matches a file in"
        raise ConfigError(f"data.path={path}: {missing} {FILE_TYPES}; give one that exists")
    for file in files:
        if file.suffix.lower() not in READERS:
            raise ConfigError(
                f"data.path={file}: cannot read a file ending in {file.suffix!r}; choose from {FILE_TYPES}"
            )
    return files


def search(pattern: str, path: str) -> list[str]:
    """Return what matches a glob, in no order.

    Raises ConfigError for `path` if a ** would look at more than MOST_ENTRIES files and folders.
    """
    above, stars, _ = pattern.partition("**")
    n = 0
    for top in glob.glob(os.path.dirname(above) or ".") if stars else ():
        for _, folders, files in os.walk(top, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            n += len(folders) + len(files)
            if n > MOST_ENTRIES:
                raise ConfigError(
                    f"data.path={path}: has more than {MOST_ENTRIES:,} files and folders to search; give a smaller"
                    " folder, or put the documents into a few .jsonl or .parquet files"
                )
    return glob.glob(pattern, recursive=True)


def refuse_more_than_memory(files: Iterable[Path], path: str) -> None:
    """Raise ConfigError for `path` if its text, which is read as a whole, is larger than the machine's memory.

    Files of records have other fields too, so they are not counted.
    """
    n_bytes = sum(file.stat().st_size for file in files if READERS[file.suffix.lower()] is _read_text)
    if (memory := machine_memory()) is not None and n_bytes > memory:
        sizes = f"{n_bytes / 2**30:,.1f} GiB of text, and this machine has {memory / 2**30:,.1f} GiB of memory"
        raise ConfigError(f"data.path={path}: {sizes}, into which it is read as a whole; give less")


def read_documents(file: Path, field: str) -> Iterator[str | None]:
    """Return the documents of one file, None for a null record.

    `field` names the text in a record of a .jsonl or .parquet file.
    """
    return READERS[file.suffix.lower()](file, field)


def read_utf8(file: Path) -> str:
    """Return a file's text without a byte-order mark, its line ends unchanged; ConfigError if it is not UTF-8."""
    try:
        return decode_utf8(file.read_bytes(), f"data.path={file}")
    except FileError as e:
        raise ConfigError(str(e)) from e
    except OSError as e:
        raise ConfigError(f"data.path={file}: {e.strerror}; give a file that can be read") from e


def text_of(record: Any, field: str, source: str) -> str | None:
    """Return a record's text, or None for a record that is null or whose text is; `source` names it in a ConfigError.

    Data sets mark absent texts with null; such a record is no document.
    """
    if record is None:
        return None
    if not isinstance(record, dict) or field not in record:
        has = (
            f"choose from {', '.join(record)}" if isinstance(record, dict) else f"it is not a record but {record!r:.40}"
        )
        raise ConfigError(f"data.field={field}: not in {source}; {has}")
    text = record[field]
    if text is None:
        return None
    if not isinstance(text, str):
        raise ConfigError(
            f"data.field={field}: not text but {text!r:.40} in {source}; choose a field that is always text"
        )
    try:
        text.encode()
    except UnicodeEncodeError as e:  # JSON can spell half of a surrogate pair
        raise ConfigError(
            f"data.field={field}: {text[e.start]!r} in {source} is not a character; correct the record"
        ) from e
    return text


def join_documents(documents: Iterable[str | None], source: str) -> str:
    """Join documents with a blank line between them, without those that are None.

    `source` names them in the ConfigError for an empty text.
    """
    text = "\n\n".join(document for document in documents if document is not None)
    if not text:
        raise ConfigError(f"{source}: the text is empty; give one that is not")
    return text


def _read_text(file: Path, field: str) -> Iterator[str]:
    yield read_utf8(file)


def _read_jsonl(file: Path, field: str) -> Iterator[str | None]:
    """Read one JSON object per line; blank lines are skipped."""
    for number, line in enumerate(read_utf8(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise ConfigError(f"data.path={file}: line {number} is not JSON ({e}); give one object per line") from e
        yield text_of(record, field, f"{file} line {number}")


def _read_parquet(file: Path, field: str) -> Iterator[str | None]:
    try:
        import pyarrow.parquet
    except ImportError as e:
        raise ConfigError(f"data.path={file}: .parquet needs pyarrow; pip install 'gptlab[hf]'") from e
    damaged = f"data.path={file}: cannot be read as parquet; give a whole parquet file"
    try:
        table = pyarrow.parquet.ParquetFile(file)
    except (OSError, ValueError) as e:
        raise ConfigError(damaged) from e
    if field not in table.schema_arrow.names:
        raise ConfigError(f"data.field={field}: not in {file}; choose from {', '.join(table.schema_arrow.names)}")
    rows = (row for batch in table.iter_batches(columns=[field]) for row in batch.to_pylist())
    try:
        for number, row in enumerate(rows, 1):
            yield text_of(row, field, f"{file} row {number}")
    except ConfigError:
        raise
    except (OSError, ValueError) as e:  # a damaged page, or text that is not UTF-8
        raise ConfigError(damaged) from e


READERS: dict[str, Callable[[Path, str], Iterator[str | None]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".py": _read_text,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
FILE_TYPES = ", ".join(READERS)
