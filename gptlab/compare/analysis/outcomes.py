"""Runs that diverged or got stuck: which they are, and whether one arm has more of them than another.

A run is stuck if it ended, but far above where its arm can end: above ln V, the loss of guessing, or above the lower
quartile of its arm by more than STUCK_SPREADS robust standard deviations and more than STUCK_BITS bits per byte. The
spread is estimated from all arms together, from the smaller differences between two seeds of one arm, which stuck runs
change little (the pooled form of Qn: Rousseeuw and Croux 1993, JASA 88: 1273-1283). Of normal runs fewer than 1 % are
called stuck; tests/compare/test_error_rates.py has the rates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log

import numpy as np

from gptlab.compare.analysis.statistics import fisher_p, holm
from gptlab.compare.read.runs import Run

STUCK_BITS = 0.1  # per byte
STUCK_SPREADS = 4.0
QN = 2.2219  # the standard deviation of normal numbers over the first quartile of their differences


@dataclass(frozen=True)
class Rate:
    """The number of times an arm and its reference had an outcome, with Fisher's exact test of equal rates."""

    hits: int
    runs: int
    other_hits: int  # of the reference
    other_runs: int
    p: float
    p_holm: float  # after Holm's correction over the planned arms


def compare_rates(
    hits: Mapping[str, Sequence[int]], others: Mapping[str, int], references: Mapping[str, str], family: int
) -> dict[str, Rate]:
    """Return the rate of an outcome in each arm in `references`.

    Args:
        hits: the seeds that had the outcome, for each arm.
        others: the number of seeds that had another outcome, for each arm.
        references: the arm that each arm is compared with.
        family: the number of comparisons that were planned.
    """
    counts = {arm: (len(seeds), len(seeds) + others[arm]) for arm, seeds in hits.items()}
    p = [fisher_p(*counts[arm], *counts[other]) for arm, other in references.items()]
    corrected = holm(p, family)
    return {
        arm: Rate(*counts[arm], *counts[other], raw, c.p)
        for (arm, other), raw, c in zip(references.items(), p, corrected, strict=True)
    }


def stuck_seeds(arms: Mapping[str, Sequence[Run]]) -> dict[str, list[int]]:
    """Return the seeds whose runs are stuck, for each arm. `arms` has the finished runs."""
    losses = {arm: {run.seed: run.number("val/loss") for run in runs} for arm, runs in arms.items()}
    spread = _spread([list(by_seed.values()) for by_seed in losses.values()])
    stuck = {}
    for arm, runs in arms.items():
        usual = float(np.quantile(list(losses[arm].values()), 0.25)) if runs else float("nan")
        stuck[arm] = [
            run.seed
            for run in runs
            if losses[arm][run.seed] - usual > max(_least_excess(run), STUCK_SPREADS * spread)
            or losses[arm][run.seed] > _guessing(run)
        ]
    return stuck


def _spread(groups: Sequence[Sequence[float]]) -> float:
    """Return the robust standard deviation within the groups; 0 if no group has two numbers."""
    gaps = [abs(a - b) for group in groups for a, b in combinations(group, 2)]
    known = [gap for gap in gaps if np.isfinite(gap)]
    return QN * float(np.quantile(known, 0.25)) if known else 0.0


def _least_excess(run: Run) -> float:
    """Return STUCK_BITS in nats per token; a token of a task counts as a byte."""
    bytes_per_token = run.number("val/loss") / (run.number("val/bpb") * log(2)) if run.number("val/bpb") > 0 else 1.0
    return STUCK_BITS * log(2) * bytes_per_token


def _guessing(run: Run) -> float:
    """Return the loss of a model that gives every token the same probability."""
    vocabulary = (run.config.get("model") or {}).get("vocab_size")
    return log(vocabulary) if vocabulary else float("inf")


def describe_seeds(seeds: Sequence[int]) -> str:
    """`seed 3` or `seeds 1, 2`."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
