"""The difference of each arm from the arm that it is compared with, and the verdict on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis import statistics
from gptlab.compare.analysis.comparison import Effect
from gptlab.compare.analysis.verdict import BETTER, LEVEL, UNSTABLE, WITHIN_MARGIN, WORSE, decide_verdict
from gptlab.runs.metrics import metric_named


def compare_scores(
    scores: Mapping[str, pd.Series],
    references: Mapping[str, str],
    diverged: Mapping[str, Sequence[int]],
    *,
    metric: str,
    margin: float,
    unlike: Mapping[str, Mapping[int, str]] | None = None,
) -> dict[str, Effect]:
    """Return the effect of each arm in `references`, with p corrected over these arms.

    Args:
        scores: the metric of the finished runs by seed, for each arm.
        references: the arm that each arm is compared with.
        diverged: the seeds that diverged, for each arm.
        metric: name of the metric, which determines the better direction.
        margin: differences below it do not matter, in the unit of the metric.
        unlike: for an arm and a seed, why this pair must not be judged. The pair is left out.
    """
    refused = unlike or {}
    alike = {arm: scores[arm].drop(list(refused.get(arm, ())), errors="ignore") for arm in references}
    higher = metric_named(metric).higher_is_better
    measured = {arm: _measure(alike[arm], scores[other], margin) for arm, other in references.items()}
    corrected = statistics.holm([numbers["p"] for numbers in measured.values()])
    effects = {}
    for (arm, numbers), p_holm in zip(measured.items(), corrected, strict=True):
        lost = _diverged_note(diverged[arm], diverged[references[arm]], references[arm])
        verdict = decide_verdict(
            pairs=numbers["pairs"],
            mean=numbers["mean"],
            p_holm=p_holm,
            p_equivalent=numbers["p_equivalent"],
            diverged=bool(lost),
            higher=higher,
        )
        small = verdict in (BETTER, WORSE) and numbers["p_equivalent"] < LEVEL
        note = lost if verdict == UNSTABLE else WITHIN_MARGIN if small else ""
        if left_out := _unlike_note(refused.get(arm, {})):
            verdict = verdict if numbers["pairs"] else "no verdict"
            note = "; ".join(filter(None, [left_out, note]))
        effects[arm] = Effect(**numbers, p_holm=p_holm, verdict=verdict, note=note)
    return effects


def _measure(scores: pd.Series, reference: pd.Series, margin: float) -> dict[str, Any]:
    """Return the fields of an Effect that do not depend on other arms."""
    differences = (scores - reference).dropna().to_numpy(dtype=float)
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
        "sd_unpaired": float(np.hypot(scores.std(), reference.std())),
        "p": statistics.paired_p(differences),
        "p_equivalent": statistics.equivalence_p(differences, margin),
        "detectable": statistics.detectable(pairs) * sd,
        "seeds_needed": statistics.seeds_needed(margin / sd if sd else float("inf")),
    }


def _diverged_note(arm_seeds: Sequence[int], reference_seeds: Sequence[int], reference: str) -> str:
    """`seed 3 diverged; seeds 1, 2 of pre diverged`, or "" if none did."""
    return "; ".join(
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}{owner} diverged"
        for seeds, owner in ((arm_seeds, ""), (reference_seeds, f" of {reference}"))
        if seeds
    )


def _unlike_note(reasons: Mapping[int, str]) -> str:
    """`seeds 0, 1 left out: other text`, or "" if there are none."""
    seeds: dict[str, list[str]] = {}
    for seed, reason in sorted(reasons.items()):
        seeds.setdefault(reason, []).append(str(seed))
    return "; ".join(f"seed{'s' * (len(of) > 1)} {', '.join(of)} left out: {reason}" for reason, of in seeds.items())
