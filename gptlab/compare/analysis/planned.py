"""The plan that was made before the first run, and the words that depart from it.

sweep.yaml says it: the seeds, the number of arms, the metric, the margin and the baseline. The error rates of the
verdicts hold for that plan. Seeds that were added after a look, another metric or another baseline make the words
exploratory: adding seeds until a difference is shown finds one in 16 to 25 % of experiments without any. A sweep that
is not done is looked at in the interim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gptlab.compare.analysis.arms import Arm, names
from gptlab.compare.analysis.margins import bytes_per_token
from gptlab.compare.analysis.outcomes import describe_seeds
from gptlab.compare.analysis.sequential import Looks
from gptlab.compare.analysis.verdict import EQUIVALENT, EXPLORATORY, INTERIM, JUDGED
from gptlab.config import ConfigError
from gptlab.runs.metrics import metric_named
from gptlab.runs.states import SETTLED

DEFAULT_METRIC, ACROSS_TOKENIZERS = "val/loss", "val/bpb"
SAME_TOKENS = 1e-3  # the largest relative difference in bytes per token between arms with the same tokenizer
MOST_LISTED = 8  # seeds; of more only the number is given


@dataclass(frozen=True)
class Plan:
    """The plan of a sweep; it is unknown for runs that come from no single sweep."""

    known: bool = False
    seeds: tuple[int, ...] = ()
    arms: int = 0  # with the baseline
    left_out: int = 0  # arms that an earlier rung left out; they count in the correction of p
    metric: str | None = None
    margin: str | None = None
    baseline: str | None = None  # its name
    first_look: int | None = None  # of a sequential plan: the number of seeds after which the arms are looked at first

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Plan":
        """Take the plan from the content of a sweep.yaml."""
        planned = content.get("planned")
        if not planned:
            return cls()
        choices = {key: planned.get(key) for key in ("metric", "margin", "baseline", "first_look")}
        return cls(True, tuple(planned["seeds"]), planned["arms"], planned.get("left_out", 0), **choices)

    def looks(self, arms: Sequence[Arm]) -> Looks | None:
        """Return the looks of a sequential plan; None for fixed seeds, or if seeds came on top of the planned ones."""
        return Looks(self.first_look, self.seeds) if self.first_look and not _beyond(self, arms) else None


@dataclass(frozen=True)
class Standing:
    """The marks of a comparison that departs from the plan, and the reasons."""

    mark: str = ""  # EXPLORATORY, INTERIM or ""
    reasons: list[str] = field(default_factory=list)
    marks: dict[str, str] = field(default_factory=dict)  # word -> the mark that it gets


def choose_metric(wanted: str | None, plan: Plan, arms: Sequence[Arm]) -> str:
    """Return the metric: the one that is wanted, or planned, or val/loss; val/bpb for arms with different tokens.

    Raises:
        ConfigError: a mean over tokens is wanted of arms whose tokens differ.
    """
    sizes = {
        name: size for name, arm in zip(names(list(arms)), arms, strict=True) if (size := bytes_per_token(arm.runs)) > 0
    }
    differ = bool(sizes) and max(sizes.values()) > min(sizes.values()) * (1 + SAME_TOKENS)
    metric = wanted or plan.metric or DEFAULT_METRIC
    if not (differ and metric_named(metric).per_token):
        return metric
    if wanted is None:
        return ACROSS_TOKENIZERS
    most, least = max(sizes, key=lambda name: sizes[name]), min(sizes, key=lambda name: sizes[name])
    raise ConfigError(
        f"metric={wanted}: is a mean over tokens, and the arms' tokens differ ({most} has {sizes[most]:.2f} bytes in"
        f" one, {least} {sizes[least]:.2f}); use --metric {ACROSS_TOKENIZERS}"
    )


def standing(
    plan: Plan, arms: Sequence[Arm], metric: tuple[str, str], other_choices: Sequence[str], margin: str | None
) -> Standing:
    """Return how far the comparison keeps to the plan.

    Args:
        plan: the plan.
        arms: all arms of the comparison.
        metric: the one that is judged, and the one that would be judged without an option.
        other_choices: options that say something else than the plan, such as `--baseline rope`.
        margin: the margin if it is not the planned one. It decides only about the word `equivalent`.
    """
    if not plan.known:
        return Standing()
    reasons = [f"{choice} was not planned" for choice in other_choices]
    if beyond := _beyond(plan, arms):
        listed = describe_seeds(beyond) if len(beyond) <= MOST_LISTED else f"{len(beyond)} seeds"
        reasons.append(f"{listed} came on top of the {len(plan.seeds)} that were planned")
    if len(arms) > plan.arms:
        reasons.append(f"there are {len(arms)} arms, where {plan.arms} were planned")
    if not same_verdicts(*metric):
        reasons.append(f"{metric[0]} is not the planned metric, {metric[1]}")
    if reasons:
        return Standing(EXPLORATORY, reasons, dict.fromkeys(JUDGED, EXPLORATORY))
    n, done = plan.arms * len(plan.seeds), len([1 for seed in _ended(arms) if seed in plan.seeds])
    if done < n and not plan.first_look:  # of a sequential plan each arm says so itself
        return Standing(INTERIM, [f"{done} of {n} planned runs have ended"], dict.fromkeys(JUDGED, INTERIM))
    if margin is not None:
        return Standing(EXPLORATORY, [f"--margin {margin} was not planned"], {EQUIVALENT: EXPLORATORY})
    return Standing()


def _ended(arms: Sequence[Arm]) -> list[int]:
    """Return the seed of every run that has ended."""
    return [run.seed for arm in arms for run in arm.runs if run.state in SETTLED]


def _beyond(plan: Plan, arms: Sequence[Arm]) -> list[int]:
    """Return the seeds that came on top of the planned ones."""
    return sorted(set(_ended(arms)) - set(plan.seeds))


def same_verdicts(metric: str, planned: str) -> bool:
    """Return whether two metrics give the same verdicts, as nats per token and bits per byte do."""
    return metric == planned or {metric, planned} == {DEFAULT_METRIC, ACROSS_TOKENIZERS}
