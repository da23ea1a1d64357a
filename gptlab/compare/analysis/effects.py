"""Scores of the arms -> what each differs by from the arm that it is compared with, and the verdict on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis import statistics
from gptlab.compare.analysis.comparison import Effect
from gptlab.compare.analysis.verdict import BETTER, UNSTABLE, WITHIN_MARGIN, WORSE, higher_is_better, word


def compare_scores(
    scores: Mapping[str, pd.Series],
    references: Mapping[str, str],
    diverged: Mapping[str, Sequence[int]],
    *,
    metric: str,
    margin: float,
) -> dict[str, Effect]:
    """The effect of each arm in `references`, which names the arm that it is compared with.

    `scores` are by seed, of finished runs; `diverged` lists the seeds that did. p is corrected over `references`.
    """
    higher = higher_is_better(metric)
    measured = {arm: _measure(scores[arm], scores[other], margin) for arm, other in references.items()}
    corrected = statistics.holm([found["p"] for found in measured.values()])
    effects = {}
    for (arm, found), p_holm in zip(measured.items(), corrected, strict=True):
        lost = _lost(diverged[arm], diverged[references[arm]], references[arm])
        verdict = word(
            pairs=found["pairs"],
            mean=found["mean"],
            p_holm=p_holm,
            p_equivalent=found["p_equivalent"],
            diverged=bool(lost),
            higher=higher,
        )
        small = verdict in (BETTER, WORSE) and found["p_equivalent"] < statistics.ALPHA
        note = lost if verdict == UNSTABLE else WITHIN_MARGIN if small else ""
        effects[arm] = Effect(**found, p_holm=p_holm, verdict=verdict, note=note)
    return effects


def _measure(own: pd.Series, reference: pd.Series, margin: float) -> dict[str, Any]:
    """All of an Effect that needs no other arm."""
    differences = (own - reference).dropna().to_numpy(dtype=float)
    pairs = len(differences)
    sd = float(differences.std(ddof=1)) if pairs > 1 else float("nan")
    low, high = statistics.t_interval(differences)
    boot_low, boot_high = statistics.bootstrap_interval(differences)
    return {
        "pairs": pairs,
        "mean": float(differences.mean()) if pairs else float("nan"),
        "low": low,
        "high": high,
        "boot_low": boot_low,
        "boot_high": boot_high,
        "sd": sd,
        "sd_unpaired": float(np.hypot(own.std(), reference.std())),
        "p": statistics.paired_p(differences),
        "p_equivalent": statistics.equivalence_p(differences, margin),
        "detectable": statistics.detectable(pairs) * sd,
        "seeds_needed": statistics.seeds_needed(margin / sd if sd else float("inf")),
    }


def _lost(own: Sequence[int], others: Sequence[int], other: str) -> str:
    """`seed 3 diverged`, `seeds 1, 2 of pre diverged`."""
    return "; ".join(
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}{of} diverged"
        for seeds, of in ((own, ""), (others, f" of {other}"))
        if seeds
    )
