"""A text of your own, selected with `data=my_data`. For files, `data=text data.path=...` is enough."""

import random
from collections.abc import Hashable

from gptlab import register


@register("data", "my_data")  # add source="..." and `gptlab list data` shows it
class MyData:
    """Sums such as 12+345=357, one per line."""

    # Everything is a setting: parameters after `*`, with a type and a default. `data.n_lines=1000` sets this one.
    # All texts also have data.window, data.sampling, data.val_fraction and data.shuffle_tokens.
    def __init__(self, *, n_lines: int = 50_000, largest: int = 999):
        if n_lines < 1:
            raise ValueError(f"n_lines={n_lines}: must be at least 1")  # reported as data.n_lines=...
        self.n_lines, self.largest = n_lines, largest

    def text(self) -> str:
        """Return the whole text, the same at every call: it is split, tokenised and cached once.

        The last `data.val_fraction` of it is for validation. Separate documents by a blank line.
        """
        draw = random.Random(0)
        pairs = ((draw.randint(0, self.largest), draw.randint(0, self.largest)) for _ in range(self.n_lines))
        return "".join(f"{a}+{b}={a + b}\n" for a, b in pairs)

    def stamp(self) -> Hashable:
        """Return a value that changes whenever the text may have changed; only then is the text read again."""
        return self.n_lines, self.largest
