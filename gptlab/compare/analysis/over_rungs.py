"""The arms of an experiment over its rungs: the gate, the trend of the compute multiplier, and isoflop profiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, nan

import numpy as np

from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.analysis.gate import NOT_RUN, NOT_YET, AtRung, Gate, gates
from gptlab.compare.analysis.isoflop import Profile, profile
from gptlab.compare.analysis.multiplier import UNKNOWN
from gptlab.compare.analysis.scaling import PowerLaw, Projection, Trend, fit_power_law, trend
from gptlab.compare.analysis.setup import Fact, setup
from gptlab.compare.analysis.text_share import SIZES
from gptlab.compare.analysis.verdict import BETTER, EXPLORATORY, INTERIM, JUDGED, NOT_SHOWN
from gptlab.compare.read.rungs_file import RungEntry, RungsFile

SAME_COMPUTE = "two rungs have the same compute"


@dataclass(frozen=True)
class Rung:
    """The comparison at one rung, and what a run of its baseline costs."""

    entry: RungEntry
    comparison: Comparison
    parameters: float
    tokens: float
    flops: float  # like the numbers above NaN if no run of the baseline has finished

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def is_known(self) -> bool:
        """Whether a run of the baseline has finished, so that its compute is known."""
        return isfinite(self.flops)

    def result(self, arm: str) -> Result | None:
        """Return the result of an arm, or None if it did not run at this rung."""
        return next((result for result in self.comparison.results if result.name == arm), None)


@dataclass(frozen=True)
class ArmOverRungs:
    """The verdicts on one arm over the rungs."""

    name: str
    words: dict[str, str]  # of every rung that was run or is unreached
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
    gone: list[str]  # the rungs that were planned when the first run ended, and are not in the experiment any more
    arms: list[ArmOverRungs]  # without the baseline
    baseline: str
    metric: str
    power_law: PowerLaw | None = None  # None for an isoflop experiment, and for a metric that is no loss on text
    profiles: dict[float, dict[str, Profile]] = field(default_factory=dict)  # FLOPs -> arm -> profile
    setup: list[Fact] = field(default_factory=list)  # what was trained at all rungs

    @property
    def known_rungs(self) -> list[Rung]:
        """The rungs whose compute is known."""
        return [rung for rung in self.rungs if rung.is_known]


def over_rungs(file: RungsFile, comparisons: Mapping[str, Comparison]) -> RungsComparison:
    """Return the comparison of all arms over the rungs.

    Args:
        file: the rungs as planned.
        comparisons: that at each rung with runs.
    """
    rungs = [_rung(entry, comparisons[entry.name]) for entry in file.rungs if entry.name in comparisons]
    names = [entry.name for entry in file.rungs]
    unreached = [name for name in _unreached(file) if name not in comparisons]
    pending = [name for name in names if name not in comparisons and name not in unreached]
    gone = [name for name in file.planned if name not in names]
    baseline = rungs[0].comparison.baseline.name
    others = [arm for arm in file.arms if arm != baseline]
    places = {arm: place for place, arm in enumerate([baseline, *others])}
    rungs = [replace(rung, comparison=replace(rung.comparison, style_places=places)) for rung in rungs]
    found = {arm: {rung.name: _at_rung(rung, arm) for rung in rungs} | dict.fromkeys(unreached) for arm in others}
    over = gates({arm: list(at.values()) for arm, at in found.items()}, complete=not pending)
    by_compute = all(entry.flops is None for entry in file.rungs)
    standing = EXPLORATORY if gone else INTERIM if pending else ""
    arms = [
        _over_rungs(arm, rungs, found[arm], over[arm], standing, file.target_flops, by_compute=by_compute)
        for arm in others
    ]
    metric = rungs[0].comparison.metric
    return RungsComparison(
        file=file,
        rungs=rungs,
        pending=pending,
        unreached=unreached,
        gone=gone,
        arms=arms,
        baseline=baseline,
        metric=metric,
        power_law=_power_law([baseline, *others], rungs) if by_compute and metric in SIZES else None,
        profiles={} if by_compute else _profiles([baseline, *others], rungs),
        setup=setup([run for rung in rungs for result in rung.comparison.results for run in result.arm.runs]),
    )


def _unreached(file: RungsFile) -> list[str]:
    """Return the rungs from the first one on to which no arm goes on beside the baseline."""
    names = [entry.name for entry in file.rungs]
    ends = [i for i, entry in enumerate(file.rungs) if file.promote and entry.arms and len(entry.arms) < 2]
    return names[ends[0] :] if ends else []


def _rung(entry: RungEntry, comparison: Comparison) -> Rung:
    costs = comparison.baseline.costs
    return Rung(entry, comparison, costs["parameters"], costs["tokens"], costs["tokens"] * costs["flops_per_token"])


def _at_rung(rung: Rung, arm: str) -> AtRung | None:
    """Return the verdict on an arm at a rung that has runs; None if the arm was left out of it."""
    result = rung.result(arm)
    if result and (effect := result.effect):
        return AtRung(effect.word, effect.mean, effect.p_any_look)
    return AtRung(NOT_YET, nan, nan) if arm in (rung.entry.arms or ()) else None


def _over_rungs(
    arm: str,
    rungs: Sequence[Rung],
    found: Mapping[str, AtRung | None],
    gate: Gate,
    standing: str,
    target: float | None,
    *,
    by_compute: bool,
) -> ArmOverRungs:
    marks = {_mark(rung, arm, found[rung.name]) for rung in rungs} | {"" if gate.word == NOT_RUN else standing}
    multipliers = _trend(arm, rungs, by_compute=by_compute)
    return ArmOverRungs(
        name=arm,
        words={name: at.word if at else NOT_RUN for name, at in found.items()},
        word=gate.word,
        standing=next((mark for mark in (EXPLORATORY, INTERIM) if mark in marks), ""),
        p=gate.p,
        p_holm=gate.p_holm,
        trend=multipliers,
        projection=multipliers.project(target) if target is not None and by_compute else None,
    )


def _mark(rung: Rung, arm: str, at: AtRung | None) -> str:
    """Return the mark of the word on an arm. A word that says that runs are missing has none of its own."""
    if at is None:
        return ""
    result = rung.result(arm)
    if at.word in JUDGED and result and result.effect:
        return result.effect.standing
    return INTERIM if at.word == NOT_YET or rung.comparison.standing == INTERIM else ""


def _trend(arm: str, rungs: Sequence[Rung], *, by_compute: bool) -> Trend:
    """Return how the multiplier of an arm changes with the compute of the rungs."""
    found = {}
    for rung in rungs:
        result = rung.result(arm)
        found[rung.flops] = result.multiplier.flops.log if result and result.multiplier else UNKNOWN
    unknown = [rung.name for rung in rungs if not rung.is_known]
    unmeasured = [rung.name for rung in rungs if not isfinite(found[rung.flops].mean)]
    if not by_compute:
        reason = "the rungs of an isoflop experiment differ in size, not in compute alone"
    elif unknown:
        reason = f"no run of the baseline has finished at {', '.join(unknown)}"
    elif len(found) < len(rungs):
        reason = SAME_COMPUTE
    elif unmeasured:
        reason = f"no multiplier at {', '.join(unmeasured)}, or only a bound of it"
    else:
        return trend(found)
    return Trend(np.array([]), [], UNKNOWN, NOT_SHOWN, reason=reason)


def _power_law(arms: Sequence[str], rungs: Sequence[Rung]) -> PowerLaw | None:
    """Fit the losses of the arms that ran at all rungs; return None if the compute of a rung is not known."""
    if not all(rung.is_known for rung in rungs):
        return None
    if len({rung.flops for rung in rungs}) < len(rungs):
        return PowerLaw(UNKNOWN, UNKNOWN, reason=SAME_COMPUTE)
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
