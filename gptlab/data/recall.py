"""Tasks that ask for tokens from earlier in the same row: recall, induction, copy. Every answer follows from a rule."""

from abc import abstractmethod
from typing import ClassVar, Literal

import numpy as np

from gptlab.config import ConfigError
from gptlab.config.registry import register
from gptlab.data.task import Examples, Task

NOTHING = 0  # the padding token of recall and copy
GAP_POWER = 0.01  # a gap of length g before a question has a probability proportional to g ** (GAP_POWER - 1)


class Graded(Task):
    """A task with levels of difficulty. All rows of a training step have the same level."""

    levels: list[int] | None  # None: the largest level that fits the window, its half and its quarter
    setting: ClassVar[str]  # the name under which users set `levels`
    unit: ClassVar[str]  # the first part of a slice's name

    @abstractmethod
    def largest(self, window: int) -> int:
        """Return the highest level that fits the window."""

    @abstractmethod
    def rows(self, rng: np.random.Generator, level: int, n: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens, and which predictions count: (n, T + 1), (n, T)."""

    def draw(self, rng: np.random.Generator, levels: list[int]) -> int:
        """Draw the level of a training step, anywhere from easiest to hardest, so that no distance can be memorised."""
        return int(rng.integers(levels[0], levels[-1] + 1))

    def levels_in(self, window: int) -> list[int]:
        """Return the levels in a window, ascending; ConfigError if none or one of them does not fit."""
        top = self.largest(window)
        if not top:
            raise ConfigError(f"data.window={window}: too short to ask anything; give at least 4")
        levels = sorted({top // 4, top // 2, top} - {0} if self.levels is None else set(self.levels))
        if not levels or levels[0] < 1 or levels[-1] > top:
            fits = f"from 1 to {top} fit data.window={window} and the vocabulary"
            raise ConfigError(f"data.{self.setting}={self.levels}: {fits}; change one of them")
        return levels

    def slices(self, window: int) -> list[str]:
        return [f"{self.unit}-{level}" for level in self.levels_in(window)]

    def training(self, rng: np.random.Generator, n: int, window: int) -> Examples:
        return self._examples(*self.rows(rng, self.draw(rng, self.levels_in(window)), n, window))

    def validation(self, rng: np.random.Generator, n: int, window: int) -> Examples:
        levels = self.levels_in(window)
        parts = [
            self._examples(*self.rows(rng, level, -(-n // len(levels)), window), i) for i, level in enumerate(levels)
        ]
        return Examples(*map(np.concatenate, zip(*parts, strict=True)))

    def _examples(self, tokens: np.ndarray, counts: np.ndarray, index: int = 0) -> Examples:
        return Examples(tokens, counts, np.full(counts.shape, index), np.zeros(counts.shape))


@register("data", "recall", source="arXiv:2312.04927")
class Recall(Graded):
    """Multi-query associative recall: pairs of key and value, then each key again, as a question for its value.

    Keys and values of a row are distinct; gaps before the questions follow a power law. It departs from the paper's
    code in two ways: the answer follows its question, so that a target is always the next token, and gaps hold one
    padding token instead of random ones.
    """

    setting = unit = "pairs"

    def __init__(
        self,
        *,
        pairs: list[int] | None = None,
        n_keys: int = 32,
        train_on: Literal["answers", "all"] = "answers",
    ):
        if n_keys < 2:
            raise ValueError(f"n_keys={n_keys}: must be at least 2")
        self.levels, self.n_keys, self.train_on = pairs, n_keys, train_on
        self.vocab_size = 1 + 2 * n_keys  # NOTHING, the keys, and as many values

    def largest(self, window: int) -> int:
        return min(window // 4, self.n_keys)

    def draw(self, rng: np.random.Generator, levels: list[int]) -> int:
        return int(rng.choice(levels))

    def rows(self, rng: np.random.Generator, level: int, n: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        keys = 1 + _distinct(rng, n, self.n_keys, level)
        values = 1 + self.n_keys + _distinct(rng, n, self.n_keys, level)
        tokens = np.full((n, window + 1), NOTHING)
        tokens[:, 0 : 2 * level : 2], tokens[:, 1 : 2 * level : 2] = keys, values
        slots = (window + 1 - 2 * level) // 2  # each holds a question and its answer
        weights = np.arange(1, slots + 1) ** (GAP_POWER - 1)
        asked = 2 * level + 2 * _distinct(rng, n, slots, level, weights)
        np.put_along_axis(tokens, asked, keys, axis=1)
        np.put_along_axis(tokens, asked + 1, values, axis=1)
        counts = np.zeros((n, window), dtype=bool)
        np.put_along_axis(counts, asked, True, axis=1)
        return tokens, counts


@register("data", "induction", source="arXiv:2209.11895")
class Induction(Graded):
    """A period of distinct random tokens, repeated: from the second time on, each token follows from the period before.

    The length of the period is the distance to the token that must be found. For a training step it is drawn between
    the smallest and the largest of `distances`.
    """

    setting, unit = "distances", "distance"

    def __init__(
        self,
        *,
        distances: list[int] | None = None,
        n_symbols: int = 64,
        train_on: Literal["answers", "all"] = "answers",
    ):
        if n_symbols < 2:
            raise ValueError(f"n_symbols={n_symbols}: must be at least 2")
        self.levels, self.train_on = distances, train_on
        self.vocab_size = n_symbols

    def largest(self, window: int) -> int:
        return min(window // 2, self.vocab_size)

    def rows(self, rng: np.random.Generator, level: int, n: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        period = _distinct(rng, n, self.vocab_size, level)
        counts = np.broadcast_to(np.arange(window) >= level, (n, window))
        return period[:, np.arange(window + 1) % level], counts


@register("data", "copy", source="arXiv:2402.01032")
class Copy(Graded):
    """A string of random letters, a separator, and the string again; its length is drawn for each training step.

    A row holds one string, as in the paper's evaluation; the paper's training packs several into a row.
    """

    setting, unit = "lengths", "length"

    def __init__(
        self,
        *,
        lengths: list[int] | None = None,
        n_symbols: int = 26,
        train_on: Literal["answers", "all"] = "answers",
    ):
        if n_symbols < 2:
            raise ValueError(f"n_symbols={n_symbols}: must be at least 2")
        self.levels, self.n_symbols, self.train_on = lengths, n_symbols, train_on
        self.vocab_size = 2 + n_symbols  # NOTHING, the separator, the letters

    def largest(self, window: int) -> int:
        return window // 2

    def rows(self, rng: np.random.Generator, level: int, n: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.full((n, window + 1), NOTHING)
        tokens[:, :level] = rng.integers(2, self.vocab_size, size=(n, level))
        tokens[:, level] = 1
        tokens[:, level + 1 : 2 * level + 1] = tokens[:, :level]
        asked = np.arange(window)
        return tokens, np.broadcast_to((level <= asked) & (asked < 2 * level), (n, window))


def _distinct(rng: np.random.Generator, n: int, among: int, k: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Draw k distinct numbers of range(among), one after the other by `weights`, n times: (n, k).

    The k largest of log w + Gumbel noise are such draws, in their order (arXiv:1903.06059, section 2.3).
    """
    scores = rng.gumbel(size=(n, among)) + (0 if weights is None else np.log(weights))
    return np.argsort(-scores, axis=1)[:, :k]
