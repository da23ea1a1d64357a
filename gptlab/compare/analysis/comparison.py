"""The result of a comparison as plain data. build.py makes it; the views show it and compute nothing of their own.

NaN stands for a number that cannot be known.
"""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from gptlab.compare.analysis.arms import Arm

CONFIDENCE = 0.95  # the level of every interval


@dataclass(frozen=True)
class Effect:
    """An arm minus its reference, over the seeds that both finished, in the unit of the metric."""

    pairs: int  # number of those seeds
    mean: float
    low: float  # the 95 % t interval
    high: float
    boot_low: float  # the 95 % bootstrap interval
    boot_high: float
    sd: float  # standard deviation of the paired differences
    sd_unpaired: float  # expected if the arms had different seeds: sqrt(sd_arm^2 + sd_reference^2)
    p: float  # two-sided paired t test
    p_holm: float  # p after Holm's correction over the arms of the experiment
    p_equivalent: float  # two one-sided t tests against the margin
    detectable: float  # the smallest true effect that this many pairs detect with 80 % power
    seeds_needed: float  # pairs that detect an effect as large as the margin with 80 % power
    verdict: str  # a word of verdict.py
    note: str = ""  # remark on the verdict: which seeds diverged, or that the difference is within the margin


@dataclass(frozen=True)
class Result:
    """The numbers of one arm."""

    arm: Arm
    name: str
    reference: str | None  # the name of the arm that this one is compared with; None for the baseline
    differs: str  # differences from the baseline: "ffn=swiglu ffn.hidden=344"
    scores: pd.Series  # the metric of the finished runs, by seed
    mean: float
    sd: float  # standard deviation over seeds, with n - 1
    states: dict[str, int]  # the number of finished, diverged, failed and unfinished runs
    costs: dict[str, float]  # its keys are those of compare.columns.COLUMNS
    effect: Effect | None  # None for the baseline


@dataclass(frozen=True)
class EqualBudgetComparison:
    """The arms compared at the point where each has spent the same amount of one axis.

    If that cannot be read from the runs, there are neither effects nor means, and `note` says why.
    """

    axis: str  # a key of AXES
    budget: float  # the total of the finished run that spent least
    effects: dict[str, Effect]  # by arm, without the baseline
    means: dict[str, float]  # the metric at the budget, by arm
    reliable: bool  # False for seconds if the runs of an arm differ much in speed
    note: str = ""  # a warning, such as that the machine was shared


@dataclass(frozen=True)
class Tuning:
    """The dependence of each arm's metric on a tuned setting.

    `points` has the columns arm, value, mean, low, high, seeds, diverged, chosen (bool) and at_edge (bool); low and
    high are the extremes over seeds. If a seed diverged, the mean is infinitely bad: inf, or -inf if higher is better.
    With several tuned settings a point is the best over the values of the others.
    """

    setting: str  # "optimizer.lr"
    seeds: list[int]
    points: pd.DataFrame


@dataclass(frozen=True)
class Breakdown:
    """A metric by position in the window, or by the difficulty of a task."""

    metric: str  # val/accuracy
    by: str  # "position", or the task's name for its difficulty: "pairs"
    length: int  # length of the windows, as a multiple of the training window
    levels: dict[str, list[tuple[float, float]]]  # mean and standard deviation for each arm, the baseline first

    @property
    def title(self) -> str:
        """The heading of the table."""
        longer = f", in windows {self.length} times as long as in training" if self.length > 1 else ""
        return f"{self.metric} by {self.by}{longer}"


@dataclass(frozen=True)
class Factorial:
    """The analysis of a grid of settings: main effects and pairwise interactions.

    `effects` has the columns kind (main or interaction), slots ("norm" or "norm x ffn"), levels ("rmsnorm instead of
    layernorm" or "rmsnorm, swiglu"), effect, low, high, p and p_holm.
    """

    effects: pd.DataFrame
    means: dict[tuple[str, str], pd.DataFrame]  # the mean metric for each pair of slots: rows x columns
    note: str  # the model, the number of runs, and what a fraction of a grid cannot determine


@dataclass(frozen=True)
class Comparison:
    """Everything that `gptlab compare` reports.

    `runs` has a row for each run, with the columns arm, seed, phase ("", or of a tuned arm
    "tune" or "neighbour": the run does not count), state, tokens, seconds, folder
    (safe to publish), path (which can be opened), where (W&B's address, or the command that uploads the run) and the
    metric.
    """

    metric: str
    question: str | None
    literature: str | None  # published findings, with their sources
    command: str | None  # the command that makes the runs again
    margin: float  # smaller differences do not matter
    noise: float  # standard deviation of the baseline over its seeds
    results: list[Result]  # the baseline first
    equal_budgets: list[EqualBudgetComparison]
    tuning: list[Tuning]
    factorial: Factorial | None
    curves: dict[str, pd.DataFrame]  # by arm: columns seed, step, tokens, flops, seconds, and the metric
    curve_metric: str  # the metric, or val/loss or train/loss if the metric has no curve
    hardware: list[str]  # one line for each combination of machine and versions
    runs: pd.DataFrame
    breakdowns: list[Breakdown] = field(default_factory=list)
    matched: list[dict[str, Any]] = field(default_factory=list)  # from sweep.yaml: what match= changed in which arm
    snapshots: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # diagnostics of one run of each arm
    repeats: int = 0  # runs left out because a later run has the same config and seed

    @property
    def baseline(self) -> Result:
        """The arm that the others are compared with."""
        return self.results[0]
