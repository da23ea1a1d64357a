"""The code of the user's components: what was imported, its hash, and whether an error came from it."""

import ast
import hashlib
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gptlab.config.schema import ConfigError

# module name -> the user's file as it was when imported: those of `use`, and the modules next to them that they import
contents: dict[str, bytes] = {}
imports: dict[str, list[str]] = {}  # name of a module that `use` names -> those that it imports, itself first
components: dict[str, type] = {}  # norm=my_norm -> its class


def content_of_file(file: str | None) -> bytes | None:
    """Return the content of a module's file; None for a built-in module."""
    return Path(file).read_bytes() if file and Path(file).is_file() else None


def note(stem: str, content: bytes, folder: Path) -> None:
    """Note a user's file, and the modules in `folder` that it imports, and that these import, with their content."""
    contents[stem] = content
    found = [stem]
    for name in found:
        for other in _imported_names(contents[name], name):
            if other not in found and (source := _content_within(other, folder)) is not None:
                contents.setdefault(other, source)
                found.append(other)
    imports[stem] = [stem, *sorted(found[1:])]


def _imported_names(source: bytes, module: str) -> Iterator[str]:
    """Yield the names that an import in `source` may give a module, also the packages above it."""
    above = getattr(sys.modules.get(module), "__package__", "") or ""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = above.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, [start, node.module]))
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _content_within(name: str, folder: Path) -> bytes | None:
    """Return the content of an imported module that lies in `folder`, next to a user's file or in a package there."""
    file = getattr(sys.modules.get(name), "__file__", None)
    is_installed = name.partition(".")[0] == "gptlab" or "site-packages" in str(file)
    if file is None or is_installed or not Path(file).resolve().is_relative_to(folder):
        return None
    return content_of_file(file)


def source_hash(cls: type) -> str:
    """Return the sha256, in hex, of the user's file that defines a class and of the modules next to it that it imports.

    For a class of gptlab it is empty; for one of a notebook it is that of the class alone.
    """
    module = cls.__module__
    if module.partition(".")[0] == "gptlab":
        return ""
    if module in imports:
        parts = [hashlib.sha256(contents[name]).hexdigest() for name in imports[module]]
    else:
        try:
            parts = [hashlib.sha256(inspect.getsource(cls).encode()).hexdigest()]
        except (OSError, TypeError):  # typed into an interpreter, which keeps no source
            parts = [cls.__qualname__]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def files_of(use: Iterable[str | Path]) -> dict[str, bytes]:
    """Return the user's files of `use` and the modules next to them that they import, as they were when imported.

    The keys are paths relative to the folder of the file that `use` names.
    """
    files = {}
    for module in dict.fromkeys(name for path in use for name in imports.get(Path(path).stem, ())):
        path = module.replace(".", "/")
        is_package = Path(getattr(sys.modules.get(module), "__file__", None) or "").name == "__init__.py"
        files[f"{path}/__init__.py" if is_package else f"{path}.py"] = contents[module]
    return files


class ComponentError(RuntimeError):
    """An error in the code of a user's component while a run was training: one line with its file and line."""


@contextmanager
def blaming() -> Iterator[None]:
    """Turn an error in the code of a user's component into a ConfigError of one line, with its file and line."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as e:
        if not (place := blame(e)):
            raise
        raise ConfigError(f"{place}; correct it: `gptlab check use=FILE` tries each of its parts") from e


def blame(error: BaseException) -> str:
    """Return `ffn=my_ffn: NameError: name 'y' is not defined (my_ffn.py:12)`; "" if no user's component is at fault."""
    message = " ".join(f"{type(error).__name__}: {error}".split())
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        by_file = [name for name, cls in components.items() if frame.filename in _files_of(cls)]
        if by_file and frame.lineno:
            within = [name for name in by_file if frame.lineno in _lines_of(components[name], frame.filename)]
            return f"{(within or by_file)[0]}: {message} ({Path(frame.filename).name}:{frame.lineno})"
    return ""


def _files_of(cls: type) -> set[str]:
    """Return the files of a component that `use` brought; none for any other."""
    modules = imports.get(cls.__module__, [])
    return {file for name in modules if (file := getattr(sys.modules.get(name), "__file__", None))}


def _lines_of(cls: type, file: str) -> range:
    try:
        lines, start = inspect.getsourcelines(cls)
        return range(start, start + len(lines)) if inspect.getsourcefile(cls) == file else range(0)
    except (OSError, TypeError):  # the file was edited, or is gone
        return range(0)
