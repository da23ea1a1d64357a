"""The arms of an experiment over its rungs: the gate, the trend of the compute multiplier, and isoflop profiles."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan

from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.analysis.gate import NOT_RUN, AtRung, Gate, gates
from gptlab.compare.analysis.isoflop import Profile, profile
from gptlab.compare.analysis.multiplier import UNKNOWN
from gptlab.compare.analysis.scaling import PowerLaw, Projection, Trend, fit_power_law, trend
from gptlab.compare.analysis.statistics import Estimate
from gptlab.compare.analysis.text_share import SIZES
from gptlab.compare.analysis.verdict import BETTER, INTERIM, NO_VERDICT
from gptlab.compare.read.rungs_file import RungEntry, RungsFile


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
    word: str  # of the gate, see gate.py
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
    unreached: list[str]  # the rungs that are not run, since no arm went on to them
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
    unreached = _unreached(file, comparisons)
    pending = [entry.name for entry in file.rungs if entry.name not in comparisons and entry.name not in unreached]
    baseline, *others = file.arms
    found = {arm: [*(_at_rung(rung, arm) for rung in rungs), *(None for _ in unreached)] for arm in others}
    by_compute = all(entry.flops is None for entry in file.rungs)
    target = file.target_flops if by_compute else None
    over = gates(found, complete=not pending)
    arms = [_over_rungs(arm, rungs, gate, target, pending=bool(pending)) for arm, gate in over.items()]
    metric = rungs[0].comparison.metric
    return RungsComparison(
        file=file,
        rungs=rungs,
        pending=pending,
        unreached=unreached,
        arms=arms,
        baseline=baseline,
        metric=metric,
        power_law=_power_law(file.arms, rungs) if by_compute and metric in SIZES else None,
        profiles={} if by_compute else _profiles(file.arms, rungs),
    )


def _rung(entry: RungEntry, comparison: Comparison) -> Rung:
    costs = comparison.baseline.costs
    return Rung(entry, comparison, costs["parameters"], costs["tokens"], costs["tokens"] * costs["flops_per_token"])


def _unreached(file: RungsFile, begun: Container[str]) -> list[str]:
    """Return the rungs that have no runs, and to which the baseline alone would go."""
    empty = [entry.name for entry in file.rungs if len(entry.arms or ()) == 1 and entry.name not in begun]
    return empty if file.promote else []


def _at_rung(rung: Rung, arm: str) -> AtRung | None:
    """Return the verdict on an arm at a rung that has runs; None if the arm was left out of it."""
    result = rung.result(arm)
    if result and (effect := result.effect):
        return AtRung(effect.word, effect.mean, effect.p_any_look)
    return AtRung(NO_VERDICT, nan, nan) if arm in (rung.entry.arms or ()) else None


def _over_rungs(arm: str, rungs: Sequence[Rung], gate: Gate, target: float | None, *, pending: bool) -> ArmOverRungs:
    found = {rung.name: _at_rung(rung, arm) for rung in rungs}
    words = {name: at.word if at else NOT_RUN for name, at in found.items()}
    results = [rung.result(arm) for rung in rungs]
    marks = {result.effect.standing for result in results if result and result.effect and result.effect.standing}
    if gate.word != NOT_RUN and (pending or not all(results)):
        marks.add(INTERIM)
    multipliers = trend(_multipliers(arm, rungs))
    return ArmOverRungs(
        name=arm,
        words=words,
        word=gate.word,
        standing=min(marks, default=""),
        p=gate.p,
        p_holm=gate.p_holm,
        trend=multipliers,
        projection=None if target is None else multipliers.project(target),
    )


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
