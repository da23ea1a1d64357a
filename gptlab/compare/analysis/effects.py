"""The difference of each arm from the arm that it is compared with, and the verdict on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis import statistics
from gptlab.compare.analysis.comparison import Effect
from gptlab.compare.analysis.outcomes import Rate, compare_rates, describe_seeds
from gptlab.compare.analysis.resolution import resolution
from gptlab.compare.analysis.statistics import LEVEL, Corrected
from gptlab.compare.analysis.text_share import MeanDifference, estimate
from gptlab.compare.analysis.verdict import BETTER, JUDGED, MIN_PAIRS, WITHIN_MARGIN, WORSE, decide_verdict
from gptlab.runs.metrics import metric_named

Deviations = Mapping[str, Mapping[int, np.ndarray]]  # arm -> seed -> block deviations of its run


@dataclass(frozen=True)
class _Measured:
    """The numbers that follow from the pairs of one arm alone."""

    pairs: int
    difference: MeanDifference
    sd_unpaired: float
    p: float  # NaN if there are too few pairs for a verdict
    unlike: str  # the seeds that were left out, and why


@dataclass(frozen=True)
class Rules:
    """How the arms of an experiment are judged, whatever is measured of them."""

    metric: str  # a key of summary.json, which determines the better direction
    margin: float = float("nan")  # differences below it do not matter, in the unit of the metric; NaN if there is none
    family: int = 0  # the number of comparisons that were planned, if more than there are
    marks: Mapping[str, str] = field(default_factory=dict)  # the marks of words, see planned.py


@dataclass(frozen=True)
class Evidence:
    """What is known of the arms beside their scores. All mappings are keyed by arm, and may lack some."""

    diverged: Mapping[str, Sequence[int]] = field(default_factory=dict)  # the seeds that diverged
    # Block deviations of the runs, see text_share. Where a run of a pair lacks them, its interval covers seeds only.
    deviations: Deviations = field(default_factory=dict)
    unlike: Mapping[str, Mapping[int, str]] = field(default_factory=dict)  # seed -> why its pair is left out
    refused: Mapping[str, str] = field(default_factory=dict)  # why the arm must not be judged at all


def compare_scores(
    scores: Mapping[str, pd.Series],
    references: Mapping[str, str],
    rules: Rules,
    evidence: Evidence | None = None,
    *,
    reference_scores: Mapping[str, pd.Series] | None = None,
    step: float | None = None,
) -> dict[str, Effect]:
    """Return the effect of each arm in `references`, with p corrected over these arms.

    Args:
        scores: the metric of the finished runs by seed, for each arm.
        references: the arm that each arm is compared with.
        rules: how they are judged.
        evidence: what else is known of the arms.
        reference_scores: for an arm, the scores of its reference, where they are not those in `scores`.
        step: the resolution of the metric; by default it is taken from the scores.
    """
    evidence = evidence or Evidence()
    family = max(rules.family, len(references))
    if step is None:
        step = resolution(score for series in scores.values() for score in series)
    beside = {arm: (reference_scores or {}).get(arm, scores[other]) for arm, other in references.items()}
    measured = {
        arm: _measure(
            scores[arm], beside[arm], step, evidence.unlike.get(arm, {}), _of_pair(evidence.deviations, arm, other)
        )
        for arm, other in references.items()
    }
    corrected = statistics.holm([found.p for found in measured.values()], family)
    tested = {arm: score.dropna().size for arm, score in scores.items()}
    diverged = {arm: evidence.diverged.get(arm, ()) for arm in scores}
    rates = compare_rates(diverged, tested, references, family)
    effects = {}
    for (arm, found), p in zip(measured.items(), corrected, strict=True):
        numbers = _numbers(found, p, rules.margin, LEVEL / family)
        refusal = evidence.refused.get(arm, "") or (found.unlike if found.unlike and not found.pairs else "")
        word = decide_verdict(
            pairs=found.pairs,
            mean=numbers["mean"],
            p_holm=p.p,
            p_equivalent=numbers["p_equivalent"],
            unstable=_is_unstable(rates[arm]),
            higher=metric_named(rules.metric).higher_is_better,
            refused=bool(refusal),
        )
        small = word in (BETTER, WORSE) and numbers["p_equivalent"] < LEVEL
        lost = _diverged_note(diverged[arm], diverged[references[arm]], references[arm], word)
        notes = [refusal or found.unlike, lost, WITHIN_MARGIN if small else ""]
        note = "; ".join(filter(None, notes))
        effects[arm] = Effect(**numbers, word=word, standing=rules.marks.get(word, ""), note=note)
    return effects


def _of_pair(deviations: Deviations, arm: str, other: str) -> dict[int, np.ndarray]:
    """Return the differences of the block deviations by seed, for the seeds where both runs have the same blocks."""
    own, reference = deviations.get(arm, {}), deviations.get(other, {})
    common = own.keys() & reference.keys()
    return {seed: own[seed] - reference[seed] for seed in common if len(own[seed]) == len(reference[seed])}


def _measure(
    scores: pd.Series,
    reference: pd.Series,
    step: float,
    unlike: Mapping[int, str],
    deviations: Mapping[int, np.ndarray],
) -> _Measured:
    differences = (scores - reference).dropna()
    left_out = [seed for seed in differences.index if seed in unlike]
    differences = differences.drop(left_out)
    pairs = len(differences)
    known = all(seed in deviations for seed in differences.index)
    blocks = [deviations[seed] for seed in differences.index] if pairs and known else None
    found = estimate(differences.to_numpy(dtype=float), blocks, step)
    reasons: dict[str, list[int]] = {}
    for seed in left_out:
        reasons.setdefault(unlike[seed], []).append(seed)
    return _Measured(
        pairs=pairs,
        difference=found,
        sd_unpaired=float(np.hypot(scores.std(), reference.std())),
        p=statistics.two_sided_p(found.estimate) if pairs >= MIN_PAIRS else float("nan"),
        unlike="; ".join(f"{describe_seeds(seeds)} left out: {reason}" for reason, seeds in reasons.items()),
    )


def _numbers(found: _Measured, p: Corrected, margin: float, first_step: float) -> dict[str, Any]:
    """Return the fields of an Effect that are numbers. `first_step` is the level that the smallest p needs."""
    difference, text = found.difference.estimate, found.difference.text_variance
    low, high = statistics.interval(difference, p.level)
    smallest = statistics.detectable(difference.df, first_step) * difference.error
    down, up = statistics.spread_range(difference.df)
    fewer, more = statistics.spread_range(found.pairs - 1)
    needed = {
        name: statistics.seeds_needed(found.difference.sd * factor, margin, first_step, text if text == text else 0.0)
        for name, factor in (("seeds_needed", 1.0), ("seeds_low", fewer), ("seeds_high", more))
    }
    enough = found.pairs >= MIN_PAIRS
    return {
        "pairs": found.pairs,
        "mean": difference.mean,
        "low": low,
        "high": high,
        "confidence": 1 - p.level,
        "error": difference.error,
        "df": difference.df,
        "sd": found.difference.sd,
        "sd_unpaired": found.sd_unpaired,
        "text_share": text / difference.error**2 if difference.error else float("nan"),
        "p": statistics.two_sided_p(difference),
        "p_holm": p.p,
        "p_equivalent": statistics.equivalence_p(difference, margin) if enough else float("nan"),
        "detectable": smallest,
        "detectable_low": smallest * down,
        "detectable_high": smallest * up,
        **needed,
    }


def _is_unstable(rate: Rate) -> bool:
    """Return whether the arm diverges where its reference does not, or significantly more often."""
    if not rate.hits:
        return False
    more = rate.hits / rate.runs > rate.other_hits / max(rate.other_runs, 1)
    return not rate.other_hits or (more and rate.p_holm < LEVEL)


def _diverged_note(arm_seeds: Sequence[int], reference_seeds: Sequence[int], reference: str, word: str) -> str:
    """`seed 3 diverged`, or `seeds 1, 2 of pre diverged, judged on the others`; "" if none did."""
    lost = " and ".join(
        describe_seeds(seeds) + owner
        for seeds, owner in ((arm_seeds, ""), (reference_seeds, f" of {reference}"))
        if seeds
    )
    return f"{lost} diverged" + (", judged on the others" * (word in JUDGED)) if lost else ""
