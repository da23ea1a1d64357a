"""The planned seeds: a fixed list, or `first` to `last` of them, with a look after each from the first on."""

import re
from dataclasses import dataclass
from typing import Any

from gptlab.compare.analysis.sequential import FEWEST, MOST
from gptlab.config import ConfigError

WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
RANGE = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")
SEQUENTIAL_KEYS = ("first", "last")


@dataclass(frozen=True)
class SeedPlan:
    """The seeds in the order in which they are run; `first_look` is None if their number is fixed."""

    seeds: tuple[int, ...] = ()
    first_look: int | None = None

    @classmethod
    def read(cls, value: Any, place: str) -> "SeedPlan":
        """Take the plan from the value of `seeds:` in an experiment file, whose numbers are text.

        Raises:
            ConfigError: it is neither a list of whole numbers nor a mapping with `first` and `last`.
        """
        if isinstance(value, dict):
            if set(value) != set(SEQUENTIAL_KEYS) or not all(WHOLE_NUMBER.fullmatch(str(n)) for n in value.values()):
                raise ConfigError(f"{place}: must be a list such as [0, 1, 2], or {{first: 3, last: 12}}")
            return cls._sequential(int(value["first"]), int(value["last"]), place)
        return cls(tuple(whole_numbers(value, place)))

    @classmethod
    def parse(cls, text: str) -> "SeedPlan":
        """Take the plan from the value of --seeds, such as 3..12.

        Raises:
            ConfigError: it is no such range.
        """
        if not (match := RANGE.fullmatch(text)):
            raise ConfigError(f"--seeds {text}: must be two whole numbers, such as 3..12; seed=0,1,2 fixes the seeds")
        return cls._sequential(int(match[1]), int(match[2]), f"--seeds {text}")

    @classmethod
    def _sequential(cls, first: int, last: int, place: str) -> "SeedPlan":
        if not FEWEST <= first <= last <= MOST:
            raise ConfigError(f"{place}: the looks must begin at {FEWEST} seeds or more, and end at {MOST} or fewer")
        return cls(tuple(range(last)), first)


def whole_numbers(value: Any, place: str) -> list[int]:
    """Return the numbers of a list in an experiment file, where they are text."""
    if not isinstance(value, list) or not all(WHOLE_NUMBER.fullmatch(str(number)) for number in value):
        raise ConfigError(f"{place}: must be a list of whole numbers, such as [0, 1, 2]")
    return [int(number) for number in value]
