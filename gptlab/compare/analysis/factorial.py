"""The analysis of a grid over several settings: main effects and pairwise interactions.

In a complete grid each effect is a contrast between the means of cells, and is computed seed by seed, over the seeds
that all its cells finished. It is then tested like the difference of two arms: paired t test over the seeds, Holm's
correction over the effects, the same words. That is exact however much the cells differ in spread. An effect that a
diverged cell enters gets no verdict, since its other seeds are survivors.

A fraction of a grid has no such contrasts. There a linear model is fitted to the single runs by ordinary least squares,
with a block for each seed and one pooled error (Montgomery, Design and Analysis of Experiments, ch. 5 and 8). An effect
is reported if the runs determine it whatever the other effects are. If some main effect is not determined in this way,
the main effects are estimated as if no two settings interacted, and the note says so. Where cells differ in spread the
pooled error is wrong, so that such effects get no words.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis.comparison import Factorial, Result
from gptlab.compare.analysis.effects import Deviations, Evidence, Rules, compare_scores
from gptlab.compare.analysis.grid import Contrast, Grid, grid_of
from gptlab.compare.analysis.outcomes import describe_seeds
from gptlab.compare.analysis.resolution import resolution
from gptlab.compare.analysis.statistics import Estimate, holm, interval, two_sided_p

TOLERANCE = 1e-8  # for the part of a contrast that the runs do not determine
NUMBERS = ("effect", "low", "high", "p", "p_holm")
EFFECT_COLUMNS = ["kind", "slots", "levels", *NUMBERS, "verdict", "note"]


def factorial(
    results: Sequence[Result], rules: Rules, evidence: Evidence, left_out: Sequence[str] = ()
) -> Factorial | None:
    """Analyse the arms, the baseline first; return None if they do not form a grid.

    Args:
        results: of the arms.
        rules: how effects are judged; they are a family of their own.
        evidence: the block deviations of the arms, and the reasons why arms must not be judged.
        left_out: settings that are determined by the others, such as tuned ones.
    """
    grid = grid_of(results, left_out)
    if grid is None or sum(r.scores.notna().sum() for r in results) < 2:
        return None
    cells = {tuple(r.arm.settings[key] for key in grid.levels) for r in results}
    if len(cells) == len(results) == grid.n_cells:
        rows, note = _by_seed(grid, results, replace(rules, family=0), evidence)
    elif (fitted := _by_least_squares(grid, results)) is not None:
        rows, note = fitted
    else:
        return None
    return Factorial(pd.DataFrame(rows)[EFFECT_COLUMNS], _means(results, grid.levels), note)


def _by_seed(
    grid: Grid, results: Sequence[Result], rules: Rules, evidence: Evidence
) -> tuple[list[dict[str, Any]], str]:
    """Return the effects of a complete grid and how they were computed."""
    contrasts = {f"{c.slots}: {c.text}": c for c in grid.contrasts()}
    scores, blocks, refused, stuck = {}, {}, {}, {}
    for name, contrast in contrasts.items():
        cells = {r: weight for r in range(len(results)) if (weight := grid.weight(contrast, results[r].arm.settings))}
        weighted = [weight * results[r].scores.dropna() for r, weight in cells.items()]
        scores[name] = pd.concat(weighted, axis=1, join="inner").sum(axis=1)
        blocks[name] = _weighted_blocks({results[r].name: weight for r, weight in cells.items()}, evidence.deviations)
        refused[name] = "; ".join(_reasons([results[r] for r in cells], evidence.refused))
        stuck[name] = "; ".join(
            f"{describe_seeds(results[r].stuck)} of {results[r].name} stuck" for r in cells if results[r].stuck
        )
    zero = {name: values * 0.0 for name, values in scores.items()}
    effects = compare_scores(
        scores,
        dict(zip(scores, scores, strict=True)),
        rules,
        Evidence(deviations=blocks, refused=refused),
        reference_scores=zero,
        step=resolution(score for r in results for score in r.scores),
    )
    rows = [
        {
            "kind": contrast.kind,
            "slots": contrast.slots,
            "levels": contrast.text,
            "effect": effects[name].mean,
            "low": effects[name].low,
            "high": effects[name].high,
            "p": effects[name].p,
            "p_holm": effects[name].p_holm,
            "verdict": effects[name].verdict,
            "note": "; ".join(filter(None, [effects[name].note, stuck[name]])),
        }
        for name, contrast in contrasts.items()
    ]
    note = (
        f"Each effect is computed seed by seed in the full {grid} and tested by a paired t test, with Holm's correction"
        f" over these {len(rows)} effects, which are a family of their own."
    )
    if lost := _reasons(results, evidence.refused):
        note += f" {'; '.join(lost)}: the effects that this enters get no verdict."
    if any(stuck.values()):
        names = "; ".join(f"{describe_seeds(r.stuck)} of {r.name}" for r in results if r.stuck)
        note += f" Stuck, and counted: {names}."
    return rows, note


def _weighted_blocks(weights: Mapping[str, float], deviations: Deviations) -> dict[int, np.ndarray]:
    """Return the contrast of the block deviations, for the seeds where all cells have them."""
    known = [deviations.get(name, {}) for name in weights]
    common = set.intersection(*(set(by_seed) for by_seed in known))
    return {
        seed: np.sum([weight * by_seed[seed] for weight, by_seed in zip(weights.values(), known, strict=True)], axis=0)
        for seed in common
    }


def _reasons(results: Sequence[Result], refused: Mapping[str, str]) -> list[str]:
    """Return why an effect that these arms enter gets no verdict."""
    lost = [_diverged(result) for result in results if result.states["diverged"]]
    return lost + [f"{result.name}: {refused[result.name]}" for result in results if result.name in refused]


def _diverged(result: Result) -> str:
    """`rmsnorm post diverged in 3 of 5 seeds`."""
    lost, finished = result.states["diverged"], result.states["finished"]
    return f"{result.name} diverged in {lost} of {lost + finished} seeds"


def _by_least_squares(grid: Grid, results: Sequence[Result]) -> tuple[list[dict[str, Any]], str] | None:
    """Return the effects that a fraction of a grid determines and how; None if it does not determine the main ones."""
    runs = pd.DataFrame(
        [{**r.arm.settings, "seed": seed, "score": score} for r in results for seed, score in r.scores.dropna().items()]
    )
    rows, undetermined = _estimates(grid, runs, interactions=True)
    note = (
        f"{len(runs)} runs of {len(results)} of the {grid.n_cells} arms of a {grid}: a fraction, fitted by a linear"
        " model with a block for each seed and one pooled error. Where arms differ in spread that error is wrong, so"
        " that no verdicts are given."
    )
    if any(contrast.kind == "main" for contrast in undetermined):
        alone, unknown = _estimates(grid, runs, interactions=False)
        if unknown:
            return None
        rows = alone + [row for row in rows if row["kind"] == "interaction"]
        note += " The main effects are estimated as if no two settings interacted."
    if missing := list(dict.fromkeys(contrast.slots for contrast in undetermined if contrast.kind == "interaction")):
        note += f" These runs cannot determine {', '.join(missing)}."
    if rows and all(np.isnan(row["estimate"].df) for row in rows):
        note += " No intervals: there are no more runs than effects; add seeds."
    return _tested(rows), note


def _tested(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with the numbers of their estimates, corrected over all of them."""
    found: list[Estimate] = [row["estimate"] for row in rows]
    p = [two_sided_p(one) for one in found]
    tested = []
    for row, one, raw, corrected in zip(rows, found, p, holm(p), strict=True):
        low, high = interval(one, corrected.level)
        numbers = dict(zip(NUMBERS, (one.mean, low, high, raw, corrected.p), strict=True))
        tested.append({**row, **numbers, "verdict": "", "note": ""})
    return tested


def _estimates(grid: Grid, runs: pd.DataFrame, *, interactions: bool) -> tuple[list[dict[str, Any]], list[Contrast]]:
    """Return the effects that the runs determine, and the contrasts that they do not."""
    from statsmodels.regression.linear_model import OLS  # two seconds to import

    seeds = pd.get_dummies(runs["seed"]).to_numpy(dtype=float)  # a block for each, which replaces the intercept
    cells: Any = runs.astype(object).to_dict("records")
    terms = np.stack([grid.terms(cell, interactions) for cell in cells])
    # An orthonormal basis of the space that the runs span; a fraction of a grid does not span all terms.
    basis, sizes, directions = np.linalg.svd(np.hstack([seeds, terms]), full_matrices=False)
    rank = int((sizes > TOLERANCE * sizes[0]).sum())
    basis, sizes, directions = basis[:, :rank], sizes[:rank], directions[:rank]
    fit = OLS(runs["score"].to_numpy(), basis).fit()
    rows, undetermined = [], []
    for contrast in grid.contrasts(interactions):
        weights = np.concatenate([np.zeros(seeds.shape[1]), grid.coefficients(contrast, interactions)])
        within = directions @ weights
        if np.abs(weights - within @ directions).max() > TOLERANCE:
            undetermined.append(contrast)
            continue
        names = {"kind": contrast.kind, "slots": contrast.slots, "levels": contrast.text}
        rows.append(names | {"estimate": _estimate(fit, within / sizes)})
    return rows, undetermined


def _estimate(fit: Any, weights: np.ndarray) -> Estimate:
    effect = float(weights @ fit.params)
    if fit.df_resid < 1:
        return Estimate(effect, float("nan"), float("nan"))
    return Estimate(effect, float(np.ravel(fit.t_test(weights).sd)[0]), float(fit.df_resid))


def _means(results: Sequence[Result], levels: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], pd.DataFrame]:
    """Return, for each pair of settings, a table of means: levels of the first down, of the second across."""
    table = pd.DataFrame([{**r.arm.settings, "mean": r.mean} for r in results])
    return {
        (a, b): table.pivot_table(index=a, columns=b, values="mean", aggfunc="mean").reindex(
            index=list(levels[a]), columns=list(levels[b])
        )
        for a, b in itertools.combinations(levels, 2)
    }
