"""The rungs of an experiment: sizes with their budgets, at each of which its arms are compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptlab.compare.analysis.verdict import BETTER, EQUIVALENT, NOT_SHOWN, WORSE
from gptlab.config import ConfigError

TOKENS_PER_PARAM = "tokens_per_param"
ISOFLOP_KEYS = {"flops", "sizes"}
TUNE_AT = ("each", "first")  # rungs at which the values of a tuned setting are searched
PROMOTED = (BETTER, NOT_SHOWN, EQUIVALENT, WORSE)  # words that can take an arm to the next rung
EXAMPLE = "{size: [tiny, mini, small], tokens_per_param: 20}"


@dataclass(frozen=True)
class Rung:
    """A size with its budget."""

    name: str  # of its folder
    overrides: tuple[str, ...]
    flops: str | None = None  # the compute that it shares with other sizes, in an isoflop experiment

    @property
    def keys(self) -> set[str]:
        """The settings that it sets."""
        return {override.partition("=")[0] for override in self.overrides}


def read_rungs(value: Any, place: str) -> list[Rung]:
    """Take the rungs from the value of `rungs:` in an experiment file, whose numbers are text.

    It maps names to lists of overrides, or settings to lists with a value for each rung: `{size: [tiny, mini],
    tokens_per_param: 20}`, where a single value holds for all rungs. All arms at a rung get the tokens of the baseline.

    Raises:
        ConfigError: it is neither, or two rungs have the same name.
    """
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(f"{place}: must be sizes with a budget, such as {EXAMPLE}, or names with lists of overrides")
    lists = [item for item in value.values() if isinstance(item, list)]
    if lists == list(value.values()) and all("=" in str(text) for texts in lists for text in texts):
        return [Rung(name, _overrides(texts, place)) for name, texts in value.items()]
    return _columns(value, place)


def _columns(value: Mapping[str, Any], place: str) -> list[Rung]:
    """Return a rung for each place of the lists."""
    lengths = {len(item) for item in value.values() if isinstance(item, list)}
    if len(lengths) != 1 or any(isinstance(text, list | dict) for text in _flat(value.values())):
        raise ConfigError(f"{place}: must have lists of one length and single values, such as {EXAMPLE}")
    n = lengths.pop()
    rows = {key: item if isinstance(item, list) else [item] * n for key, item in value.items()}
    key, values = next((key, item) for key, item in value.items() if isinstance(item, list))
    names = [str(text) if key == "size" else f"{key.split('.')[-1]}-{text}" for text in values]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{place}: {twice} is given twice; the first list names the rungs, so give each value once")
    setting = {name: f"budget.{name}" if name == TOKENS_PER_PARAM else name for name in rows}
    return [
        Rung(rung, _overrides([f"{setting[name]}={row[i]}" for name, row in rows.items()], place))
        for i, rung in enumerate(names)
    ]


def read_isoflop(value: Any, place: str) -> list[Rung]:
    """Take the rungs from the value of `isoflop:`, which has every size at every number of FLOPs.

    Raises:
        ConfigError: it is not `{flops: [...], sizes: [...]}`.
    """
    lists = value if isinstance(value, Mapping) and set(value) == ISOFLOP_KEYS else {}
    if not lists or any(not isinstance(item, list) or len(set(map(str, item))) < len(item) for item in lists.values()):
        raise ConfigError(f"{place}: must be lists, such as {{flops: [1e13, 1e14], sizes: [tiny, mini, small]}}")
    return [
        Rung(f"{size}-{flops}", (f"size={size}", f"budget.flops={flops}"), flops)
        for flops in lists["flops"]
        for size in lists["sizes"]
    ]


def read_promoted(value: Any, place: str) -> list[str]:
    """Take the words with which an arm goes on to the next rung from the value of `promote:`.

    Raises:
        ConfigError: it is no list of verdicts.
    """
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or any(word not in PROMOTED for word in words):
        raise ConfigError(f"{place}: must be a list of verdicts, such as [better, not shown]")
    return words


def _overrides(texts: Sequence[Any], place: str) -> tuple[str, ...]:
    if seed := next((text for text in texts if str(text).startswith(("seed=", "name=", "rung="))), None):
        raise ConfigError(f"{place}: has {seed}, which no rung can set; leave it out")
    return tuple(map(str, texts))


def _flat(items: Any) -> list[Any]:
    return [text for item in items for text in (item if isinstance(item, list) else [item])]
