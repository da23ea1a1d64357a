"""The analysis of a grid over several settings: main effects and pairwise interactions.

A linear model is fitted to the single runs by ordinary least squares. It has a block for each seed, the main effect of
every level, and every pairwise interaction (Montgomery, Design and Analysis of Experiments, ch. 5 and 8). It gives

    main         the mean at a level minus the mean at the baseline's level, where the other settings are averaged
                 over all their levels with equal weight
    interaction  how much that difference grows when a second setting leaves the baseline's level too

A main effect is thus not the difference of two arms. A fraction of a grid cannot determine every effect: an effect is
reported if the runs determine it whatever the other effects are. If some main effect is not determined in this way, the
main effects are estimated as if no two settings interacted, and the note says so.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis.comparison import CONFIDENCE, Factorial, Result
from gptlab.compare.analysis.statistics import holm

TOLERANCE = 1e-8  # for the part of a contrast that the runs do not determine
EFFECT_COLUMNS = ["kind", "slots", "levels", "effect", "low", "high", "p", "p_holm"]
Contrast = tuple[str, str, str, np.ndarray]  # kind, slots, levels, weights of the coefficients


@dataclass(frozen=True)
class Grid:
    """The settings and levels of a grid, and the terms of the linear model over them."""

    levels: dict[str, list[str]]  # for each setting, the baseline's level first
    interactions: bool

    def row(self, at: Mapping[str, str | None]) -> np.ndarray:
        """Return the terms of the model where each setting has the level `at`; None averages over all its levels."""
        coded = {key: self._coded(key, at.get(key)) for key in self.levels}
        pairs = itertools.combinations(coded.values(), 2) if self.interactions else ()
        return np.concatenate([*coded.values(), *(np.outer(a, b).ravel() for a, b in pairs)])

    def _coded(self, key: str, level: str | None) -> np.ndarray:
        levels = self.levels[key]
        return np.array([1 / len(levels) if level is None else float(level == other) for other in levels[1:]])

    def contrasts(self) -> list[Contrast]:
        """Return the main effects and interactions as weights of the coefficients."""
        contrasts: list[Contrast] = []
        for key, (first, *others) in self.levels.items():
            for level in others:
                weights = self.row({key: level}) - self.row({key: first})
                contrasts.append(("main", key, f"{level} instead of {first}", weights))
        for a, b in itertools.combinations(self.levels, 2) if self.interactions else ():
            for level_a, level_b in itertools.product(self.levels[a][1:], self.levels[b][1:]):
                weights = sum(
                    (1 if (i, j) in ((0, 0), (1, 1)) else -1) * self.row({a: x, b: y})
                    for i, x in enumerate((self.levels[a][0], level_a))
                    for j, y in enumerate((self.levels[b][0], level_b))
                )
                contrasts.append(("interaction", f"{a} x {b}", f"{level_a}, {level_b}", np.asarray(weights)))
        return contrasts


def factorial(results: Sequence[Result], left_out: Sequence[str] = ()) -> Factorial | None:
    """Analyse the arms, the baseline first; return None if they do not form a grid.

    `left_out` are settings that are determined by the others, such as tuned ones.
    """
    levels = _levels(results, left_out)
    runs = pd.DataFrame(
        [{**r.arm.settings, "seed": seed, "score": score} for r in results for seed, score in r.scores.dropna().items()]
    )
    if not levels or len(runs) < 2:
        return None
    full, main = Grid(levels, interactions=True), Grid(levels, interactions=False)
    rows, undetermined = _estimates(full, runs)
    note = f"Linear model with a block for each seed, {len(runs)} runs of {_size(results, levels)}."
    if any(kind == "main" for kind, _, _ in undetermined):
        alone, unknown = _estimates(main, runs)
        if unknown:
            return None
        rows = alone + [row for row in rows if row["kind"] == "interaction"]
        note += " The main effects are estimated as if no two settings interacted."
    if missing := list(dict.fromkeys(slots for kind, slots, _ in undetermined if kind == "interaction")):
        note += f" These runs cannot determine {', '.join(missing)}."
    if rows and all(np.isnan(row["p"]) for row in rows):
        note += " No intervals: there are no more runs than effects; add seeds."
    effects = pd.DataFrame(rows)
    effects["p_holm"] = holm(list(effects["p"]))
    return Factorial(effects[EFFECT_COLUMNS], _means(results, levels), note)


def _levels(results: Sequence[Result], left_out: Sequence[str]) -> dict[str, list[str]]:
    """Return the settings of the grid and their levels; {} if the arms do not form a grid.

    In a grid every arm has all the settings, and every level occurs in at least two arms. If each arm changes only
    one thing, there is nothing to average over.
    """
    settings = [{k: v for k, v in r.arm.settings.items() if k not in left_out} for r in results]
    levels = {key: list(dict.fromkeys(arm.get(key, "") for arm in settings)) for key in settings[0]}
    crossed = all(
        sum(arm.get(key) == level for arm in settings) > 1 for key, values in levels.items() for level in values
    )
    same = all(arm.keys() == levels.keys() for arm in settings)
    return levels if len(levels) > 1 and crossed and same else {}


def _size(results: Sequence[Result], levels: Mapping[str, Sequence[str]]) -> str:
    sizes = [len(values) for values in levels.values()]
    n_cells = prod(sizes)
    grid = f"grid of {' x '.join(map(str, sizes))}"
    return f"the full {grid}" if len(results) == n_cells else f"{len(results)} of the {n_cells} arms of a {grid}"


def _estimates(grid: Grid, runs: pd.DataFrame) -> tuple[list[dict[str, Any]], list[tuple[str, str, str]]]:
    """Return the effects that the runs determine, and the kind, slots and levels of all others."""
    from statsmodels.regression.linear_model import OLS  # two seconds to import

    seeds = pd.get_dummies(runs["seed"]).to_numpy(dtype=float)  # a block for each, which replaces the intercept
    terms = np.stack([grid.row(run) for run in runs.astype(object).to_dict("records")])  # type: ignore[arg-type]
    # An orthonormal basis of the space that the runs span; a fraction of a grid does not span all terms.
    basis, sizes, directions = np.linalg.svd(np.hstack([seeds, terms]), full_matrices=False)
    rank = int((sizes > TOLERANCE * sizes[0]).sum())
    basis, sizes, directions = basis[:, :rank], sizes[:rank], directions[:rank]
    fit = OLS(runs["score"].to_numpy(), basis).fit()
    rows, undetermined = [], []
    for kind, slots, levels, weights in grid.contrasts():
        contrast = np.concatenate([np.zeros(seeds.shape[1]), weights])
        within = directions @ contrast
        if np.abs(contrast - within @ directions).max() > TOLERANCE:
            undetermined.append((kind, slots, levels))
            continue
        rows.append({"kind": kind, "slots": slots, "levels": levels, **_tested(fit, within / sizes)})
    return rows, undetermined


def _tested(fit: Any, contrast: np.ndarray) -> dict[str, float]:
    if fit.df_resid < 1:
        return {"effect": float(contrast @ fit.params), **dict.fromkeys(("low", "high", "p"), float("nan"))}
    test = fit.t_test(contrast)
    (low, high) = np.ravel(test.conf_int(alpha=1 - CONFIDENCE))
    return {"effect": float(contrast @ fit.params), "low": low, "high": high, "p": float(np.ravel(test.pvalue)[0])}


def _means(results: Sequence[Result], levels: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], pd.DataFrame]:
    """Return, for each pair of settings, a table of means: levels of the first down, of the second across."""
    table = pd.DataFrame([{**r.arm.settings, "mean": r.mean} for r in results])
    return {
        (a, b): table.pivot_table(index=a, columns=b, values="mean", aggfunc="mean").reindex(
            index=list(levels[a]), columns=list(levels[b])
        )
        for a, b in itertools.combinations(levels, 2)
    }
