"""rungs.yaml in the folder of an experiment with rungs; each rung has a folder below it, with a sweep.yaml."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlab.files import FileError, read_json

NAME = "rungs.yaml"


@dataclass(frozen=True)
class RungEntry:
    """A rung as rungs.yaml lists it."""

    name: str  # of its folder
    overrides: Sequence[str]
    flops: float | None = None  # the compute that it shares with other sizes, in an isoflop experiment
    arms: Sequence[str] | None = None  # those that run there, the baseline first; None until it is known


@dataclass(frozen=True)
class RungsFile:
    """The rungs of an experiment, from the smallest on, and what was planned over them."""

    question: str | None
    literature: str | None
    command: str | None
    arms: Sequence[str]  # all of them, the baseline first
    rungs: Sequence[RungEntry]
    promote: Sequence[str] = ()  # the words with which an arm goes on to the next rung; empty if all do
    tune_at: str | None = None  # "each" rung or the "first", if something is tuned
    target_flops: float | None = None
    published: Mapping[str, str] = field(default_factory=dict)  # arm -> its difference from the baseline, or a word
    experiment_file: str | None = None  # its text
    planned: Sequence[str] = ()  # the names of the rungs when the first run ended; fewer make words exploratory

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "RungsFile":
        """Take the parts from the content of a rungs.yaml."""
        rungs = [RungEntry(**entry) for entry in content["rungs"]]
        return cls(**{**{key: value for key, value in content.items() if key in cls.__annotations__}, "rungs": rungs})


def has_rungs(folder: str | Path) -> bool:
    """Return whether a folder is that of an experiment with rungs."""
    return (Path(folder) / NAME).is_file()


def read_rungs_file(folder: Path) -> RungsFile:
    """Return the content of the rungs.yaml of a folder that has one.

    Raises:
        FileError: it is not one that gptlab has written.
    """
    try:
        return RungsFile.of(read_json(folder / NAME))
    except (KeyError, TypeError) as e:
        raise FileError(f"{folder / NAME}: lacks what a sweep writes ({e}); start the sweep again") from e
