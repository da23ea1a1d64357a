"""The arms of an experiment over its rungs: the gate, the trend of the compute multiplier, and isoflop profiles.

An arm passes the gate if it is better at every rung. Its p over the rungs is the largest of its p, since it must win at
each of them (an intersection-union test, Berger 1982, Technometrics 24: 295-300), and Holm's correction goes over all
arms that were planned. So at most 5 % of experiments let an arm pass that is not better somewhere, also where arms are
left out of later rungs because of what earlier ones showed: an arm that is left out has not won at its last rung, so it
cannot pass, and the arms that go on are judged on the runs of later rungs alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, isnan

import numpy as np

from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.analysis.isoflop import Profile, profile
from gptlab.compare.analysis.multiplier import UNKNOWN
from gptlab.compare.analysis.scaling import PowerLaw, Projection, Trend, fit_power_law, trend
from gptlab.compare.analysis.statistics import LEVEL, holm
from gptlab.compare.analysis.text_share import SIZES
from gptlab.compare.analysis.verdict import BETTER, EXPLORATORY, INTERIM, JUDGED, NO_VERDICT, NOT_SHOWN, WORSE
from gptlab.compare.read.rungs_file import RungEntry, RungsFile

NOT_RUN = "left out"  # of an arm that did not go on to a rung
NOT_YET = "no run yet"  # of an arm that will run there
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
    words: dict[str, str]  # of every rung that was run or is unreached; NOT_RUN where the arm was left out
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
    unreached: list[str]  # the rungs that are not run, since no arm went on to them
    gone: list[str]  # the rungs that were planned when the first run ended, and are not in the experiment any more
    arms: list[ArmOverRungs]  # without the baseline
    baseline: str
    metric: str
    power_law: PowerLaw | None = None  # None for an isoflop experiment, and for a metric that is no loss on text
    profiles: dict[float, dict[str, Profile]] = field(default_factory=dict)  # FLOPs -> arm -> profile

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
    largest = [_largest_p(arm, rungs, complete=not (pending or unreached)) for arm in others]
    corrected = [one.p for one in holm(largest, len(others))]
    by_compute = all(entry.flops is None for entry in file.rungs)
    standing = EXPLORATORY if gone else INTERIM if pending else ""
    arms = [
        _over_rungs(arm, rungs, unreached, (p, p_holm), standing, file.target_flops, by_compute=by_compute)
        for arm, p, p_holm in zip(others, largest, corrected, strict=True)
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
    )


def _unreached(file: RungsFile) -> list[str]:
    """Return the rungs from the first one on to which no arm goes on beside the baseline."""
    names = [entry.name for entry in file.rungs]
    ends = [i for i, entry in enumerate(file.rungs) if file.promote and entry.arms and len(entry.arms) < 2]
    return names[ends[0] :] if ends else []


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
    arm: str,
    rungs: Sequence[Rung],
    unreached: Sequence[str],
    p: tuple[float, float],
    standing: str,
    target: float | None,
    *,
    by_compute: bool,
) -> ArmOverRungs:
    words = {rung.name: _word(rung, arm) for rung in rungs} | dict.fromkeys(unreached, NOT_RUN)
    marks = {_mark(rung, arm) for rung in rungs} | {standing}
    found = _trend(arm, rungs, by_compute=by_compute)
    return ArmOverRungs(
        name=arm,
        words=words,
        word=_gate(list(words.values()), p[1]),
        standing=next((mark for mark in (EXPLORATORY, INTERIM) if mark in marks), ""),
        p=p[0],
        p_holm=p[1],
        trend=found,
        projection=found.project(target) if target is not None and by_compute else None,
    )


def _word(rung: Rung, arm: str) -> str:
    result = rung.result(arm)
    if result and result.effect:
        return result.effect.word
    return NOT_YET if rung.entry.arms and arm in rung.entry.arms else NOT_RUN


def _mark(rung: Rung, arm: str) -> str:
    """Return the mark of the word on an arm. A word that says that runs are missing has none of its own."""
    word, result = _word(rung, arm), rung.result(arm)
    if word in JUDGED and result and result.effect:
        return result.effect.standing
    waits = word == NOT_YET or (word != NOT_RUN and rung.comparison.standing == INTERIM)
    return INTERIM if waits else ""


def _gate(words: Sequence[str], p_holm: float) -> str:
    """Return the word that holds at all rungs, or NOT_SHOWN if they differ."""
    alike = {NO_VERDICT if NO_VERDICT in word or word in (NOT_RUN, NOT_YET) else word for word in words}
    if len(alike) > 1:
        return NOT_SHOWN
    word = alike.pop()
    return NOT_SHOWN if word in (BETTER, WORSE) and not p_holm < LEVEL else word


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
