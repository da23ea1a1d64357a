"""The gate of an experiment with rungs: an arm passes it if it is better at every rung.

The p of an arm over the rungs is the largest of its p, since it must win at each of them (an intersection-union test,
Berger 1982, Technometrics 24: 295-300), and Holm's correction goes over all arms that were planned. So at most 5 % of
experiments let an arm pass that is not better somewhere. This holds also where arms are left out of later rungs because
of what earlier ones showed: an arm that is left out cannot pass, and the arms that go on are judged at a rung by the
runs of that rung alone. tests/compare/test_staged_rates.py measures it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from gptlab.compare.analysis.statistics import LEVEL, holm
from gptlab.compare.analysis.verdict import BETTER, NO_VERDICT, NOT_SHOWN, WORSE

NOT_RUN = "left out"  # of an arm that did not go on to a rung
NOT_YET = "no run yet"  # of an arm that will run there


@dataclass(frozen=True)
class AtRung:
    """The verdict on an arm at one rung."""

    word: str
    mean: float  # difference from the reference
    p: float  # that holds at any look, before Holm's correction; NaN with too few pairs


@dataclass(frozen=True)
class Gate:
    """The verdict on an arm over the rungs."""

    word: str  # the one that the arm has at every rung; NOT_RUN if it was left out of one, NOT_SHOWN if they differ
    p: float  # the largest over the rungs; 1 if it is not judged at all of them
    p_holm: float  # corrected over all arms that were planned


def gates(found: Mapping[str, Sequence[AtRung | None]], *, complete: bool = True) -> dict[str, Gate]:
    """Return the verdicts over the rungs.

    Args:
        found: for each arm that was planned, but not the baseline, what each rung shows; None where it was left out.
        complete: whether these are all rungs, so that arms can pass.
    """
    largest = {arm: _largest_p(at) if complete else 1.0 for arm, at in found.items()}
    corrected = holm(list(largest.values()), len(found))
    holm_of = dict(zip(found, (one.p for one in corrected), strict=True))
    return {arm: Gate(_word(at, holm_of[arm]), largest[arm], holm_of[arm]) for arm, at in found.items()}


def _largest_p(rungs: Sequence[AtRung | None]) -> float:
    """Return the p with which an arm differs at every rung in the same direction; 1 if it is not judged at all."""
    judged = [at for at in rungs if at is not None and not isnan(at.p)]
    if not judged or len(judged) < len(rungs) or len({at.mean > 0 for at in judged}) > 1:
        return 1.0
    return max(at.p for at in judged)


def _word(rungs: Sequence[AtRung | None], p_holm: float) -> str:
    words = {NOT_RUN if at is None else at.word for at in rungs}
    if NOT_RUN in words:
        return NOT_RUN
    alike = {NO_VERDICT if NO_VERDICT in word or word == NOT_YET else word for word in words}
    if len(alike) > 1:
        return NOT_SHOWN
    word = alike.pop()
    return NOT_SHOWN if word in (BETTER, WORSE) and not p_holm < LEVEL else word
