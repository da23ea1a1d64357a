"""The result of a comparison as plain data. build.py makes it; the views show it and compute nothing of their own.

NaN stands for a number that cannot be known.
"""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from gptlab.compare.analysis.arms import Arm
from gptlab.compare.analysis.multiplier import Multiplier
from gptlab.compare.analysis.outcomes import Rate
from gptlab.compare.analysis.sequential import Looks, Progress
from gptlab.compare.analysis.setup import Fact
from gptlab.compare.analysis.statistics import LEVEL

CONFIDENCE = 1 - LEVEL  # with which all intervals of a table hold together


@dataclass(frozen=True)
class Effect:
    """An arm minus its reference, over the seeds that both finished, in the unit of the metric."""

    pairs: int  # number of those seeds
    mean: float
    low: float  # the t interval that agrees with the corrected p
    high: float
    confidence: float  # its own level; those of all arms hold together with CONFIDENCE
    error: float  # standard error of the mean, over seeds and, if the blocks are known, over the validation text
    df: float  # its degrees of freedom
    sd: float  # standard deviation of the paired differences
    sd_unpaired: float  # expected if the arms had different seeds: sqrt(sd_arm^2 + sd_reference^2)
    text_share: float  # of the variance of the mean: the validation text's; NaN if the blocks are not known
    p: float  # two-sided t test
    p_any_look: float  # the same, such that it holds at any look of a sequential plan; NaN with fewer than three pairs
    p_holm: float  # p after Holm's correction over the planned arms; NaN with fewer than three pairs
    p_equivalent: float  # two one-sided t tests against the margin
    detectable: float  # the smallest true effect that these pairs detect with 80 % power, at Holm's first step
    detectable_low: float  # its 90 % range, since the standard deviation is estimated
    detectable_high: float
    seeds_needed: float  # pairs that detect an effect as large as the margin, likewise
    seeds_low: float
    seeds_high: float
    word: str  # of verdict.py
    standing: str = ""  # exploratory, interim, or "" if the comparison is the one that was planned
    progress: Progress | None = None  # in a sequential experiment
    note: str = ""  # remark on the verdict: which seeds diverged, or that the difference is within the margin

    @property
    def verdict(self) -> str:
        """The word with its mark: `better (exploratory)`."""
        return f"{self.word} ({self.standing})" if self.standing else self.word

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return self.high - self.mean


@dataclass(frozen=True)
class ComputeMultiplier:
    """How many times the arm's compute the baseline needs to reach the arm's loss, in three units of compute."""

    tokens: Multiplier
    flops: Multiplier
    seconds: Multiplier
    unsteady: str = ""  # why the seconds are not reliable


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
    stuck: list[int] = field(default_factory=list)  # the finished seeds that are stuck, see outcomes.py
    without_stuck: Effect | None = None  # the effect without the stuck seeds of both arms; None if there are none
    multiplier: ComputeMultiplier | None = None  # None for the baseline, and without runs at other budgets
    rates: dict[str, Rate] = field(default_factory=dict)  # of "diverged" and "stuck", beside the reference's


@dataclass(frozen=True)
class Reading:
    """An arm beside its reference at the point where both have spent the same amount of one axis.

    `effect` has a word only if the runs of both arms end at this budget. Otherwise the metric is read before the end of
    a schedule, where the learning rate has not decayed yet, and `why` says so.
    """

    budget: float  # the total of that run of the two arms, among their common seeds, that spent least
    effect: Effect
    mean: float  # the metric of the arm
    reference_mean: float
    why: str = ""  # why there is no word
    reliable: bool = True  # False for seconds if the runs of an arm differ much in speed
    shift: Effect | None = None  # how much the difference is above the one at the end of the runs, by seed


@dataclass(frozen=True)
class EqualBudgetComparison:
    """Each arm beside its reference where both have spent the same amount of one axis.

    If that cannot be read from the runs of any arm, there are no readings, and `note` says why.
    """

    axis: str  # a key of AXES
    readings: dict[str, Reading]  # by arm, without the baseline
    note: str = ""  # what was left out, and why


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
    layernorm" or "rmsnorm, swiglu"), effect, low, high, p, p_holm, verdict and note. In a fraction of a grid, which is
    analysed with one pooled error, the verdict is "".
    """

    effects: pd.DataFrame
    means: dict[tuple[str, str], pd.DataFrame]  # the mean metric for each pair of slots: rows x columns
    note: str  # the model, the number of runs, and what a fraction of a grid cannot determine


@dataclass(frozen=True)
class PublishedLine:
    """A published finding about one arm, beside what the runs found; see published.py."""

    arm: str
    published: str  # as the experiment file says it: -0.053, or better
    expected: str  # the word that this stands for
    found: str  # the verdict with its mark; "" if the arm has no run
    agreement: str  # agrees, disagrees or not shown
    reason: str = ""  # why the arm has no verdict


@dataclass(frozen=True)
class PublishedOrder:
    """The order of the arms that have a published number, beside the one that the runs show."""

    arms: list[str]  # from the best one on, as published; the baseline is one of them
    pairs: int  # of arms whose published numbers differ
    shown: list[tuple[str, str]]  # the pairs that the runs show in the published order, the better arm first
    reversed: list[tuple[str, str]]  # those that they show in the other one, the arm that is better here first

    @property
    def not_shown(self) -> int:
        """The number of pairs that the runs do not show in any order."""
        return self.pairs - len(self.shown) - len(self.reversed)


@dataclass(frozen=True)
class Published:
    """The published findings about the arms, beside what the runs found."""

    lines: list[PublishedLine]
    order: PublishedOrder | None  # None if few arms have a number

    def count(self, agreement: str) -> int:
        """Return the number of lines with this agreement."""
        return len([line for line in self.lines if line.agreement == agreement])


@dataclass(frozen=True)
class Comparison:
    """Everything that `gptlab compare` reports.

    `runs` has a row for each run, with the columns arm, seed, phase ("", or of a tuned arm
    "tune" or "neighbour", or "budget": the run does not count), state, tokens, seconds, folder
    (safe to publish), path (which can be opened), where (W&B's address, or the command that uploads the run) and the
    metric.
    """

    metric: str
    question: str | None
    literature: str | None  # published findings, with their sources
    command: str | None  # the command that makes the runs again
    margin: float  # smaller differences do not matter; NaN if there is none
    margin_text: str  # the margin as a reader sees it, or how to set one
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
    family: int = 1  # number of comparisons that were planned, over which p is corrected
    planned: bool = False  # whether it is known what was planned
    standing: str = ""  # exploratory, interim, or "" (see planned.py)
    reasons: list[str] = field(default_factory=list)  # for the standing
    whole: tuple[str, Effect] | None = None  # of a ladder: "its end against its start", and that effect
    looks: Looks | None = None  # of a sequential plan
    published: Published | None = None  # None if the file says nothing, or another baseline or metric is judged
    repeats: int = 0  # runs left out because a later run has the same config and seed
    setup: list[Fact] = field(default_factory=list)  # what was trained, and on what
    experiment_file: str | None = None  # the text of the experiment's file
    samples: dict[str, str] = field(default_factory=dict)  # by arm: the text that the model of its first seed wrote
    style_places: dict[str, int] = field(default_factory=dict)  # by arm: its place in the experiment, if that has rungs

    @property
    def baseline(self) -> Result:
        """The arm that the others are compared with."""
        return self.results[0]

    @property
    def places(self) -> dict[str, int]:
        """Return the place of each arm among all arms of the experiment, on which its colour depends."""
        return self.style_places or {result.name: place for place, result in enumerate(self.results)}
