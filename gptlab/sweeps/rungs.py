"""The rungs of an experiment: sizes with their budgets, at each of which its arms are compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptlab.compare.analysis.verdict import BETTER, EQUIVALENT, NOT_SHOWN, WORSE
from gptlab.config import ConfigError
from gptlab.config.overrides import parse, values_as_typed
from gptlab.sweeps.file_keys import is_number

TOKENS_PER_PARAM = "tokens_per_param"
ISOFLOP_KEYS = {"flops", "sizes"}
TUNE_AT = ("each", "first")  # rungs at which the values of a tuned setting are searched
PROMOTED = (BETTER, NOT_SHOWN, EQUIVALENT, WORSE)  # words that can take an arm to the next rung
NOT_OF_RUNG = {"seed", "name", "variant", "phase", "rung", "runs_dir", "use"}  # alike at all rungs, or set by the sweep
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
    named = any("=" in str(text) for texts in lists for text in texts) or bool(lists and not any(lists))
    rungs = _named(value, place) if named else _columns(value, place)
    _refuse_alike(rungs, place)
    return rungs


def _named(value: Mapping[str, Any], place: str) -> list[Rung]:
    """Return a rung for each name with its list of overrides."""
    for name, texts in value.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) and "=" in text for text in texts):
            raise ConfigError(f"{place}: {name} must have a list of overrides, such as [size=tiny, budget.steps=500]")
    return [Rung(name, _overrides(texts, place)) for name, texts in value.items()]


def _refuse_alike(rungs: Sequence[Rung], place: str) -> None:
    """Refuse names that are one folder on some file systems, names of the experiment's files, and equal rungs."""
    folders = [rung.name.casefold() for rung in rungs]
    if twice := next((rung.name for rung in rungs if folders.count(rung.name.casefold()) > 1), None):
        raise ConfigError(f"{place}: {twice} is given twice, but for the case of its letters; give another name")
    if file := next((rung.name for rung in rungs if rung.name.endswith(".yaml")), None):
        raise ConfigError(f"{place}: {file} could be one of the experiment's own files; leave out .yaml")
    for i, rung in enumerate(rungs):
        if same := next((other for other in rungs[:i] if sorted(other.overrides) == sorted(rung.overrides)), None):
            raise ConfigError(f"{place}: {same.name} and {rung.name} are the same rung; leave one out")


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
    if not lists or any(not isinstance(item, list) or not item for item in lists.values()):
        raise ConfigError(f"{place}: must be lists, such as {{flops: [1e13, 1e14], sizes: [tiny, mini, small]}}")
    for text in lists["flops"]:
        if not (isinstance(text, str) and is_positive(text)):
            raise ConfigError(f"{place}: flops has {text}, which must be a number above 0, such as 1e13")
    if odd := next((size for size in lists["sizes"] if not isinstance(size, str)), None):
        raise ConfigError(f"{place}: sizes has {odd}, which must be a name, such as tiny")
    for items in (list(map(float, lists["flops"])), lists["sizes"]):
        if twice := next((item for item in items if items.count(item) > 1), None):
            raise ConfigError(f"{place}: {twice} is given twice; leave one out")
    return [
        Rung(f"{size}-{flops}", (f"size={size}", f"budget.flops={flops}"), flops)
        for flops in lists["flops"]
        for size in lists["sizes"]
    ]


def read_promoted(value: Any, place: str) -> list[str]:
    """Take the words with which an arm goes on to the next rung from the value of `promote:`.

    Raises:
        ConfigError: it is no list of different verdicts.
    """
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or any(word not in PROMOTED or words.count(word) > 1 for word in words):
        raise ConfigError(f"{place}: must be a list of verdicts, such as [better, not shown]")
    return words


def _overrides(texts: Sequence[Any], place: str) -> tuple[str, ...]:
    """Return the overrides of a rung, each of which must set one value that may differ between rungs."""
    for text in map(str, texts):
        key = text.lstrip("+~").partition("=")[0]
        if key.split(".")[0] in NOT_OF_RUNG:
            raise ConfigError(f"{place}: has {text}, which no rung can set; leave it out")
        if any(len(values_as_typed(override)) > 1 for override in parse([text])):
            raise ConfigError(f"{place}: {text} has several values; give one, and vary the setting in the arms")
    return tuple(map(str, texts))


def is_positive(text: str) -> bool:
    """Return whether a text is a number above 0."""
    return is_number(text) and float(text) > 0


def _flat(items: Any) -> list[Any]:
    return [text for item in items for text in (item if isinstance(item, list) else [item])]
