"""A task of your own that makes its tokens from a seed, selected with `data=my_task`."""

import numpy as np

from gptlab import register
from gptlab.config import ConfigError
from gptlab.data.task import Examples, Task

SEPARATOR = 0


@register("data", "my_task")  # add source="arXiv:..." and `gptlab list data` shows it
class MyTask(Task):
    """A string of random symbols, a separator, and the string backwards."""

    score = "accuracy"  # reported as val/accuracy, and for each slice

    # Everything is a setting: parameters after `*`, with a type and a default. `data.n_symbols=8` sets this one.
    def __init__(self, *, n_symbols: int = 16, length: int = 8):
        if n_symbols < 2:
            raise ValueError(f"n_symbols={n_symbols}: must be at least 2")  # reported as data.n_symbols=...
        self.length = length
        self.vocab_size = 1 + n_symbols  # a task brings its vocabulary and needs no tokenizer

    def slices(self, window: int) -> list[str]:
        """Return the names of the difficulties; accuracy is reported for each. Refuse a window that is too short."""
        if window < 2 * self.length:
            raise ConfigError(f"data.window={window}: data.length={self.length} needs at least {2 * self.length}")
        return [f"length-{self.length}"]

    def training(self, rng: np.random.Generator, n: int, window: int) -> Examples:
        """Return the n rows of a training step. Draw from `rng` only; it is seeded by (seed, step).

        tokens: (n, T + 1), int64. counts: (n, T), true where the next token counts in loss and accuracy; every
        row must have the same number. slices: (n, T), indices into `slices`. floor: (n, T), nats that no model avoids.
        """
        tokens = np.full((n, window + 1), SEPARATOR)
        symbols = rng.integers(1, self.vocab_size, size=(n, self.length))
        tokens[:, : self.length] = symbols
        tokens[:, self.length + 1 : 2 * self.length + 1] = symbols[:, ::-1]
        counts = np.zeros((n, window), dtype=bool)
        counts[:, self.length : 2 * self.length] = True
        return Examples(tokens, counts, np.zeros((n, window), dtype=int), np.zeros((n, window)))

    def validation(self, rng: np.random.Generator, n: int, window: int) -> Examples:
        """Return about n rows, the same number of each difficulty; all runs get the same rows."""
        return self.training(rng, n, window)
