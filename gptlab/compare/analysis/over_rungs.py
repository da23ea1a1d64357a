"""The arms of an experiment over its rungs: the gate, the trend of the compute multiplier, and isoflop profiles.

An arm passes the gate if it is better at every rung. Its p over the rungs is the largest of its p, since it must win at
each of them (an intersection-union test, Berger 1982, Technometrics 24: 295-300), and Holm's correction goes over all
arms that were planned. So at most 5 % of experiments let an arm pass that is not better somewhere, also where arms are
left out of later rungs because of what earlier ones showed: an arm that is left out has not won at its last rung, so it
cannot pass, and the arms that go on are judged on the runs of later rungs alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan

from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.analysis.isoflop import Profile, profile
from gptlab.compare.analysis.multiplier import UNKNOWN
from gptlab.compare.analysis.scaling import PowerLaw, Projection, Trend, fit_power_law, trend
from gptlab.compare.analysis.statistics import LEVEL, Estimate, holm
from gptlab.compare.analysis.text_share import SIZES
from gptlab.compare.analysis.verdict import BETTER, INTERIM, NO_VERDICT, NOT_SHOWN, WORSE
from gptlab.compare.read.rungs_file import RungEntry, RungsFile

NOT_RUN = "left out"  # of an arm that did not go on to a rung


@dataclass(frozen=True)
class Rung:
    """The comparison at one rung, and what a run of its baseline costs."""

    entry: RungEntry
    comparison: Comparison
    parameters: float
    tokens: float
    flops: float

    @property
    def name(self) -> str:
        return self.entry.name

    def result(self, arm: str) -> Result | None:
        """Return the result of an arm, or None if it did not run at this rung."""
        return next((result for result in self.comparison.results if result.name == arm), None)


@dataclass(frozen=True)
class ArmOverRungs:
    """The verdicts on one arm over the rungs."""

    name: str
    words: dict[str, str]  # of every rung that was run; NOT_RUN where the arm was left out
    word: str  # the gate: the word that it has at every rung, or NOT_SHOWN
    standing: str  # exploratory or interim, or ""
    p: float  # the largest p over the rungs; 1 if it is not judged at all of them
    p_holm: float  # corrected over all arms that were planned
    trend: Trend  # of its multiplier in FLOPs
    projection: Projection | None = None  # of that multiplier to the target; None without a target

    @property
    def passes(self) -> bool:
        """Whether the arm is better at every rung."""
        return self.word == BETTER


@dataclass(frozen=True)
class RungsComparison:
    """Everything that `gptlab compare` reports of an experiment with rungs."""

    file: RungsFile
    rungs: list[Rung]  # those with runs, in the order of the experiment
    pending: list[str]  # the rungs without a run so far
    arms: list[ArmOverRungs]  # without the baseline
    baseline: str
    metric: str
    power_law: PowerLaw | None = None  # None for an isoflop experiment, and for a metric that is no loss on text
    profiles: dict[float, dict[str, Profile]] = field(default_factory=dict)  # FLOPs -> arm -> profile


def over_rungs(file: RungsFile, comparisons: Mapping[str, Comparison]) -> RungsComparison:
    """Return the comparison of all arms over the rungs.

    Args:
        file: the rungs as planned.
        comparisons: that at each rung with runs.
    """
    rungs = [_rung(entry, comparisons[entry.name]) for entry in file.rungs if entry.name in comparisons]
    pending = [entry.name for entry in file.rungs if entry.name not in comparisons]
    baseline, *others = file.arms
    largest = [_largest_p(arm, rungs, complete=not pending) for arm in others]
    corrected = [one.p for one in holm(largest, len(others))]
    by_compute = all(entry.flops is None for entry in file.rungs)
    arms = [
        _over_rungs(arm, rungs, (p, p_holm), pending, file.target_flops if by_compute else None)
        for arm, p, p_holm in zip(others, largest, corrected, strict=True)
    ]
    metric = rungs[0].comparison.metric
    return RungsComparison(
        file=file,
        rungs=rungs,
        pending=pending,
        arms=arms,
        baseline=baseline,
        metric=metric,
        power_law=_power_law(file.arms, rungs) if by_compute and metric in SIZES else None,
        profiles={} if by_compute else _profiles(file.arms, rungs),
    )


def _rung(entry: RungEntry, comparison: Comparison) -> Rung:
    costs = comparison.baseline.costs
    return Rung(entry, comparison, costs["parameters"], costs["tokens"], costs["tokens"] * costs["flops_per_token"])


def _largest_p(arm: str, rungs: Sequence[Rung], *, complete: bool) -> float:
    """Return the p with which an arm differs at every rung in the same direction; 1 if it does not run at all."""
    effects = [result.effect if (result := rung.result(arm)) else None for rung in rungs]
    known = [effect for effect in effects if effect is not None and not isnan(effect.p)]
    if not complete or not known or len(known) < len(rungs) or len({effect.mean > 0 for effect in known}) > 1:
        return 1.0
    return max(effect.p for effect in known)


def _over_rungs(
    arm: str, rungs: Sequence[Rung], p: tuple[float, float], pending: Sequence[str], target: float | None
) -> ArmOverRungs:
    results = {rung.name: rung.result(arm) for rung in rungs}
    effects = {name: result.effect for name, result in results.items() if result and result.effect}
    words = {name: effects[name].word if name in effects else NOT_RUN for name in results}
    found = trend(_multipliers(arm, rungs))
    marks = {effect.standing for effect in effects.values() if effect.standing} | ({INTERIM} if pending else set())
    return ArmOverRungs(
        name=arm,
        words=words,
        word=_gate(list(words.values()), p[1]),
        standing=min(marks, default=""),
        p=p[0],
        p_holm=p[1],
        trend=found,
        projection=None if target is None else found.project(target),
    )


def _gate(words: Sequence[str], p_holm: float) -> str:
    """Return the word that holds at all rungs, or NOT_SHOWN if they differ."""
    if len(set(words)) > 1:
        return NOT_SHOWN
    word = words[0]
    if word in (BETTER, WORSE) and not p_holm < LEVEL:
        return NOT_SHOWN
    return NO_VERDICT if NO_VERDICT in word else word


def _multipliers(arm: str, rungs: Sequence[Rung]) -> dict[float, Estimate]:
    found = {}
    for rung in rungs:
        result = rung.result(arm)
        found[rung.flops] = result.multiplier.flops.log if result and result.multiplier else UNKNOWN
    return found


def _power_law(arms: Sequence[str], rungs: Sequence[Rung]) -> PowerLaw:
    """Fit the losses of the arms that ran at all rungs."""
    losses = {
        arm: {rung.flops: result.scores for rung in rungs if (result := rung.result(arm)) is not None} for arm in arms
    }
    return fit_power_law({arm: found for arm, found in losses.items() if len(found) == len(rungs)})


def _profiles(arms: Sequence[str], rungs: Sequence[Rung]) -> dict[float, dict[str, Profile]]:
    """Return the best size of each arm at each number of FLOPs."""
    profiles: dict[float, dict[str, Profile]] = {}
    for flops in dict.fromkeys(rung.entry.flops for rung in rungs if rung.entry.flops is not None):
        own = [rung for rung in rungs if rung.entry.flops == flops]
        for arm in arms:
            found = [result for rung in own if (result := rung.result(arm)) is not None]
            if found:
                sizes = {result.costs["parameters"]: result.scores for result in found}
                profiles.setdefault(flops, {})[arm] = profile(sizes)
    return profiles
