"""The settings and levels of a grid of arms, and the contrasts between its cells: main effects and interactions.

main         the mean at a level minus the mean at the baseline's level, where the other settings are averaged over all
             their levels with equal weight
interaction  how much that difference grows when a second setting leaves the baseline's level too
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from gptlab.compare.analysis.comparison import Result


@dataclass(frozen=True)
class Contrast:
    """A main effect or an interaction: the settings that it compares, each with its level beside the baseline's."""

    levels: dict[str, tuple[str, str]]  # setting -> the baseline's level, and the one that is compared with it

    @property
    def kind(self) -> str:
        """`main` or `interaction`."""
        return "main" if len(self.levels) == 1 else "interaction"

    @property
    def slots(self) -> str:
        """The settings: `norm` or `norm x ffn`."""
        return " x ".join(self.levels)

    @property
    def text(self) -> str:
        """The levels: `rmsnorm instead of layernorm` or `rmsnorm, swiglu`."""
        pairs = list(self.levels.values())
        return f"{pairs[0][1]} instead of {pairs[0][0]}" if len(pairs) == 1 else ", ".join(level for _, level in pairs)


@dataclass(frozen=True)
class Grid:
    """The settings and levels of a grid; the baseline's level comes first."""

    levels: dict[str, list[str]]

    @property
    def n_cells(self) -> int:
        """The number of arms of the full grid."""
        return prod(map(len, self.levels.values()))

    def __str__(self) -> str:
        return f"grid of {' x '.join(str(len(values)) for values in self.levels.values())}"

    def contrasts(self, interactions: bool = True) -> list[Contrast]:
        """Return the main effects, and then the interactions of two settings."""
        most = 2 if interactions else 1
        return [
            Contrast(
                dict(
                    zip(
                        keys,
                        ((self.levels[key][0], level) for key, level in zip(keys, chosen, strict=True)),
                        strict=True,
                    )
                )
            )
            for size in range(1, most + 1)
            for keys in itertools.combinations(self.levels, size)
            for chosen in itertools.product(*(self.levels[key][1:] for key in keys))
        ]

    def weight(self, contrast: Contrast, cell: Mapping[str, str]) -> float:
        """Return the weight of a cell's mean in a contrast of the full grid; 0 if the cell does not enter it."""
        sign = 1.0
        for key, (first, level) in contrast.levels.items():
            sign *= {first: -1.0, level: 1.0}.get(cell[key], 0.0)
        return sign / prod(len(values) for key, values in self.levels.items() if key not in contrast.levels)

    def terms(self, at: Mapping[str, str | None], interactions: bool) -> np.ndarray:
        """Return the terms of a linear model at a cell; None averages over all levels of a setting."""
        coded = [self._coded(key, at.get(key)) for key in self.levels]
        pairs = itertools.combinations(coded, 2) if interactions else ()
        return np.concatenate([*coded, *(np.outer(a, b).ravel() for a, b in pairs)])

    def coefficients(self, contrast: Contrast, interactions: bool) -> np.ndarray:
        """Return the contrast as weights of the terms of the linear model."""
        total = 0.0
        for ends in itertools.product((0, 1), repeat=len(contrast.levels)):
            at = {key: pair[end] for (key, pair), end in zip(contrast.levels.items(), ends, strict=True)}
            total = total + (-1) ** (len(ends) - sum(ends)) * self.terms(at, interactions)
        return np.asarray(total)

    def _coded(self, key: str, level: str | None) -> np.ndarray:
        levels = self.levels[key]
        return np.array([1 / len(levels) if level is None else float(level == other) for other in levels[1:]])


def grid_of(results: Sequence[Result], left_out: Sequence[str]) -> Grid | None:
    """Return the grid that the arms form, the baseline first; None if they form none.

    In a grid every arm has all the settings, and every level occurs in at least two arms. If each arm changes only
    one thing, there is nothing to average over. `left_out` are settings that are determined by the others.
    """
    settings = [{k: v for k, v in r.arm.settings.items() if k not in left_out} for r in results]
    levels = {key: list(dict.fromkeys(arm.get(key, "") for arm in settings)) for key in settings[0]}
    crossed = all(
        sum(arm.get(key) == level for arm in settings) > 1 for key, values in levels.items() for level in values
    )
    same = all(arm.keys() == levels.keys() for arm in settings)
    return Grid(levels) if len(levels) > 1 and crossed and same else None
