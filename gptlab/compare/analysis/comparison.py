"""What a comparison comes to, as data: all that the table, the files, the picture and the report show.

Built by build.py; nothing that shows it computes anything of its own. NaN stands for what cannot be known.
"""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from gptlab.compare.analysis.arms import Arm

CONFIDENCE = 0.95
AXES = {"steps": "optimizer steps", "tokens": "training tokens", "flops": "training FLOPs", "seconds": "seconds"}


@dataclass(frozen=True)
class Effect:
    """An arm minus its reference over the seeds that both finished, in the unit of the metric."""

    pairs: int  # seeds
    mean: float
    low: float  # the 95 % t interval
    high: float
    boot_low: float  # the 95 % bootstrap interval
    boot_high: float
    sd: float  # of the paired differences
    sd_unpaired: float  # what it would be for other seeds in either arm: sqrt(sd_arm^2 + sd_reference^2)
    p: float  # two-sided paired t test
    p_holm: float  # the same, corrected by Holm over the arms of the experiment
    p_equivalent: float  # two one-sided t tests against the margin
    detectable: float  # the smallest true effect that this many pairs show with 80 % power
    seeds_needed: float  # pairs that would show an effect as large as the margin with 80 % power
    verdict: str  # a word of verdict.py
    note: str = ""  # to it: which seeds diverged; that a difference that was shown is within the margin


@dataclass(frozen=True)
class Result:
    """One arm."""

    arm: Arm
    name: str
    reference: str | None  # the name of the arm that it is compared with; None: the baseline itself
    differs: str  # from the baseline: "ffn=swiglu ffn.hidden=344"
    scores: pd.Series  # of the metric by seed, of finished runs
    mean: float
    sd: float  # over seeds, n - 1
    states: dict[str, int]  # how many runs finished, diverged, failed, unfinished
    costs: dict[str, float]  # medians: parameters, parameters_non_embedding, flops_per_token, state_bytes,
    #                          tokens_per_s, seconds, tokens, steps
    effect: Effect | None  # None: the baseline


@dataclass(frozen=True)
class Reading:
    """The arms compared where all of them have spent the same of one axis.

    One that cannot be read has neither effects nor means, and a note that says why.
    """

    axis: str  # a key of AXES
    budget: float  # as much as the run that got least far
    effects: dict[str, Effect]  # by arm; the baseline has none
    means: dict[str, float]  # by arm, the metric there
    reliable: bool  # seconds: whether the runs of each arm went at nearly the same speed
    note: str = ""  # what a reader must know, such as that the machine was shared


@dataclass(frozen=True)
class Tuning:
    """How each arm depends on what was tuned."""

    setting: str  # "optimizer.lr"
    seeds: list[int]
    points: pd.DataFrame  # arm, value, mean, low, high, seeds, diverged, chosen (bool), at_edge (bool). low, high: of
    #                       the single seeds. A mean over a seed that diverged is the worst there is: inf, or -inf where
    #                       more is better. With several settings tuned, the best over the others' values.


@dataclass(frozen=True)
class Breakdown:
    """A metric by where in the window, or by how hard."""

    metric: str  # val/accuracy
    by: str  # position, or what a task calls its difficulty: pairs
    length: int  # of the windows, in windows of training
    levels: dict[str, list[tuple[float, float]]]  # mean and standard deviation of each arm, the baseline first

    @property
    def title(self) -> str:
        longer = f", in windows {self.length} times as long as in training" if self.length > 1 else ""
        return f"{self.metric} by {self.by}{longer}"


@dataclass(frozen=True)
class Factorial:
    """A grid over several slots: what each choice does on average over the others, and where two do not add up."""

    effects: pd.DataFrame  # kind (main, interaction), slots (norm; norm x ffn), levels (rmsnorm instead of layernorm;
    #                        rmsnorm, swiglu), effect, low, high, p, p_holm
    means: dict[tuple[str, str], pd.DataFrame]  # for each pair of slots the mean metric, rows x columns
    note: str  # model, number of runs, and what a fractional grid cannot tell


@dataclass(frozen=True)
class Comparison:
    metric: str
    question: str | None
    literature: str | None  # what was found elsewhere, with its source
    command: str | None  # that makes the runs again
    margin: float  # differences below it do not matter
    noise: float  # standard deviation of the baseline over its seeds
    results: list[Result]  # the baseline first
    readings: list[Reading]
    tuning: list[Tuning]
    factorial: Factorial | None
    curves: dict[str, pd.DataFrame]  # by arm: columns seed, step, tokens, flops, seconds, and the metric
    curve_metric: str  # the metric, or where it has no curve val/loss or train/loss
    hardware: list[str]  # one line for each machine and set of versions
    runs: pd.DataFrame  # arm, seed, phase ("" or tune), state, the metric, tokens, seconds, folder, where (W&B's
    #                     address or the command that sends it)
    breakdowns: list[Breakdown] = field(default_factory=list)
    matched: list[dict[str, Any]] = field(default_factory=list)  # sweep.yaml's: what match= changed in which arm
    looks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by arm, inside its first run that has some
    repeats: int = 0  # runs left out because a later one has the same config and seed

    @property
    def baseline(self) -> Result:
        return self.results[0]
