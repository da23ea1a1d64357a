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
from gptlab.compare.analysis.sequential import Looks
from gptlab.compare.analysis.statistics import LEVEL, Corrected
from gptlab.compare.analysis.text_share import MeanDifference, estimate
from gptlab.compare.analysis.verdict import BETTER, JUDGED, MIN_PAIRS, WITHIN_MARGIN, WORSE, decide_verdict
from gptlab.runs.metrics import metric_named

Deviations = Mapping[str, Mapping[int, np.ndarray]]  # arm -> seed -> block deviations of its run


@dataclass(frozen=True)
class Rules:
    """How the arms of an experiment are judged, whatever is measured of them."""

    metric: str  # a key of summary.json, which determines the better direction
    margin: float = float("nan")  # differences below it do not matter, in the unit of the metric; NaN if there is none
    family: int = 0  # the number of comparisons that were planned, if more than there are
    marks: Mapping[str, str] = field(default_factory=dict)  # the marks of words, see planned.py
    looks: Looks | None = None  # of a sequential plan


@dataclass(frozen=True)
class Evidence:
    """The facts about the arms beside their scores. All mappings are keyed by arm, and may lack arms."""

    diverged: Mapping[str, Sequence[int]] = field(default_factory=dict)  # the seeds that diverged
    # Block deviations of the runs, see text_share. Where a run of a pair lacks them, its interval covers seeds only.
    deviations: Deviations = field(default_factory=dict)
    unlike: Mapping[str, Mapping[int, str]] = field(default_factory=dict)  # seed -> why its pair is left out
    refused: Mapping[str, str] = field(default_factory=dict)  # why the arm must not be judged at all


@dataclass(frozen=True)
class Measured:
    """The numbers that follow from the pairs of one arm alone."""

    pairs: int
    difference: MeanDifference
    sd_unpaired: float
    p: float  # of the t test, valid at any look; NaN if there are too few pairs for a verdict
    p_equivalent: float  # likewise, of the two one-sided tests
    unlike: str  # the seeds that were left out, and why


@dataclass(frozen=True)
class Decision:
    """The word on one arm, and what it follows from."""

    word: str
    p: Corrected
    refusal: str  # why it must not be judged, or ""
    lost: str  # which seeds of the two arms diverged, or ""


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
    if step is None:
        step = resolution(score for series in scores.values() for score in series)
    beside = {arm: (reference_scores or {}).get(arm, scores[other]) for arm, other in references.items()}
    measured = {
        arm: measure(scores[arm], beside[arm], rules, evidence, arm=arm, reference=other, step=step)
        for arm, other in references.items()
    }
    tested = {arm: score.dropna().size for arm, score in scores.items()}
    decisions = decide(measured, references, tested, rules, evidence)
    family = max(rules.family, len(references))
    effects = {}
    for arm, found in measured.items():
        decision = decisions[arm]
        small = decision.word in (BETTER, WORSE) and found.p_equivalent < LEVEL
        notes = [decision.refusal or found.unlike, decision.lost, WITHIN_MARGIN if small else ""]
        effects[arm] = Effect(
            **_numbers(found, decision.p, rules, LEVEL / family),
            word=decision.word,
            standing=rules.marks.get(decision.word, ""),
            note="; ".join(filter(None, notes)),
        )
    return effects


def decide(
    measured: Mapping[str, Measured],
    references: Mapping[str, str],
    tested: Mapping[str, int],
    rules: Rules,
    evidence: Evidence,
) -> dict[str, Decision]:
    """Return the decision on each measured arm; `tested` is the number of finished runs of every arm."""
    family = max(rules.family, len(references))
    corrected = statistics.holm([found.p for found in measured.values()], family)
    diverged = {arm: evidence.diverged.get(arm, ()) for arm in tested}
    rates = compare_rates(diverged, tested, references, family)
    decisions = {}
    for (arm, found), p in zip(measured.items(), corrected, strict=True):
        refusal = evidence.refused.get(arm, "") or (found.unlike if found.unlike and not found.pairs else "")
        word = decide_verdict(
            pairs=found.pairs,
            mean=found.difference.estimate.mean,
            p_holm=p.p,
            p_equivalent=found.p_equivalent,
            unstable=_is_unstable(rates[arm]),
            higher=metric_named(rules.metric).higher_is_better,
            refused=bool(refusal),
        )
        lost = _diverged_note(diverged[arm], diverged[references[arm]], references[arm], word)
        decisions[arm] = Decision(word, p, refusal, lost)
    return decisions


def _of_pair(deviations: Deviations, arm: str, other: str) -> dict[int, np.ndarray]:
    """Return the differences of the block deviations by seed, for the seeds where both runs have the same blocks."""
    own, reference = deviations.get(arm, {}), deviations.get(other, {})
    common = own.keys() & reference.keys()
    return {seed: own[seed] - reference[seed] for seed in common if len(own[seed]) == len(reference[seed])}


def measure(
    scores: pd.Series,
    reference_scores: pd.Series,
    rules: Rules,
    evidence: Evidence,
    *,
    arm: str,
    reference: str,
    step: float,
) -> Measured:
    """Return what the common seeds of an arm and its reference show.

    Args:
        scores: the metric of the arm's finished runs by seed.
        reference_scores: that of its reference.
        rules: the margin and the looks are used.
        evidence: the pairs that are left out, and the block deviations.
        arm: its key in `evidence`.
        reference: the key of its reference.
        step: the resolution of the metric.
    """
    unlike, deviations = evidence.unlike.get(arm, {}), _of_pair(evidence.deviations, arm, reference)
    differences = (scores - reference_scores).dropna()
    left_out = [seed for seed in differences.index if seed in unlike]
    differences = differences.drop(left_out)
    pairs = len(differences)
    known = all(seed in deviations for seed in differences.index)
    blocks = [deviations[seed] for seed in differences.index] if pairs and known else None
    found = estimate(differences.to_numpy(dtype=float), blocks, step)
    reasons: dict[str, list[int]] = {}
    for seed in left_out:
        reasons.setdefault(unlike[seed], []).append(seed)
    p, p_equivalent = statistics.two_sided_p(found.estimate), statistics.equivalence_p(found.estimate, rules.margin)
    if rules.looks:
        p, p_equivalent = rules.looks.p(p, pairs), rules.looks.p(p_equivalent, pairs, sides=1)
    enough = pairs >= MIN_PAIRS
    return Measured(
        pairs=pairs,
        difference=found,
        sd_unpaired=float(np.hypot(scores.std(), reference_scores.std())),
        p=p if enough else float("nan"),
        p_equivalent=p_equivalent if enough else float("nan"),
        unlike="; ".join(f"{describe_seeds(seeds)} left out: {reason}" for reason, seeds in reasons.items()),
    )


def _numbers(found: Measured, p: Corrected, rules: Rules, first_step: float) -> dict[str, Any]:
    """Return the fields of an Effect that are numbers. `first_step` is the level that the smallest p needs."""
    level, needs = p.level, first_step
    if rules.looks:
        level, needs = (rules.looks.nominal(one, found.pairs) for one in (level, needs))
    difference, text = found.difference.estimate, found.difference.text_variance
    low, high = statistics.interval(difference, level)
    smallest = statistics.detectable(difference.df, needs) * difference.error
    down, up = statistics.spread_range(difference.df)
    fewer, more = statistics.spread_range(found.pairs - 1)
    needed = {
        name: statistics.seeds_needed(found.difference.sd * factor, rules.margin, needs, text if text == text else 0.0)
        for name, factor in (("seeds_needed", 1.0), ("seeds_low", fewer), ("seeds_high", more))
    }
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
        "p_any_look": found.p,
        "p_holm": p.p,
        "p_equivalent": found.p_equivalent,
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
