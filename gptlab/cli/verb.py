"""The parts that all verbs share: their help, their arguments, and the JSON document that `--json` prints."""

import argparse
import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from gptlab.config import ConfigError
from gptlab.files import finite

if TYPE_CHECKING:  # a TAB must not import it
    from rich.console import Console


@dataclass(frozen=True)
class Result:
    """The outcome of a verb: the document that `--json` prints, and the exit code."""

    document: Any = None
    code: int = 0


@dataclass(frozen=True)
class Verb:
    """A verb of the command line."""

    summary: str
    examples: str
    arguments: Callable[[ArgumentParser], object]
    run: Callable[[Namespace], Result]
    json: bool = False  # whether it takes --json
    notes: Callable[[], str] | None = None  # further text for --help

    def parser(self, name: str) -> ArgumentParser:
        """Return the parser of the verb's arguments."""
        parser = _Parser(
            f"gptlab {name}",
            description=self.summary,
            epilog=f"examples:\n{self.examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.notes = self.notes
        self.arguments(parser)
        if self.json:
            parser.add_argument(
                "--json", action="store_true", help="print the result as one JSON document; messages go to stderr"
            )
        return parser

    def flags(self, name: str) -> list[str]:
        """Return the long flags of the verb."""
        options = (option for action in self.parser(name)._actions for option in action.option_strings)
        return sorted(option for option in options if option.startswith("--"))

    def execute(self, name: str, arguments: list[str]) -> int:
        """Parse the verb's arguments, run it, print its document if `--json` was given, and return the exit code."""
        args = self.parser(name).parse_intermixed_args(arguments)
        if not wants_document(args):
            return self.run(args).code
        with messages_on_stderr() as stdout:
            result = self.run(args)
        print(json.dumps(finite({"verb": name, **result.document}), indent=2), file=stdout)
        return result.code


class _Parser(ArgumentParser):
    notes: Callable[[], str] | None = None

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog.removeprefix('gptlab ')}: {message}; see `{self.prog} --help`")

    def format_help(self) -> str:
        text = super().format_help()
        return f"{text}\n{self.notes()}\n" if self.notes else text


def wants_document(args: Namespace) -> bool:
    """Return whether `--json` was given. `bench --json FILE` names a file instead."""
    return getattr(args, "json", None) is True


def result_console(args: Namespace) -> "Console":
    """Return the console for the result as text: a silent one if `--json` asks for a document instead."""
    from rich.console import Console

    return Console(quiet=wants_document(args))


@contextmanager
def messages_on_stderr() -> Iterator[TextIO]:
    """Send everything that the block and its child processes print to stderr. Yields the real stdout."""
    stdout = sys.stdout
    stdout.flush()
    saved = os.dup(1) if stdout is sys.__stdout__ else None  # in a test, stdout is not file descriptor 1
    try:
        if saved is not None:
            os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield stdout
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)


def user_path(text: str) -> Path:
    """Return a path of the command line; a shell leaves a ~ as it is in quotes and after --flag=."""
    try:
        return Path(text).expanduser()
    except RuntimeError as e:
        raise ConfigError(f"{text}: no such home folder; write ./{text} for a file of that name") from e


def add_overrides(parser: ArgumentParser) -> None:
    """Add the argument for the overrides of one config."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that differ from the baseline; see `gptlab list`"
    )
