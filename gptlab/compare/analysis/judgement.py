"""The verdicts of an experiment: with all seeds, without the stuck ones, and over a whole ladder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from gptlab.compare.analysis.arms import Arm
from gptlab.compare.analysis.comparison import Effect
from gptlab.compare.analysis.effects import Evidence, Rules, compare_scores
from gptlab.compare.analysis.outcomes import Rate, compare_rates, stuck_seeds
from gptlab.compare.analysis.provenance import unlike_pairs
from gptlab.compare.analysis.sequential import OPEN
from gptlab.compare.analysis.settling import compare_so_far, settle
from gptlab.compare.analysis.text_share import block_deviations
from gptlab.compare.read.runs import Run
from gptlab.runs.states import SETTLED, RunState

LONG_LADDER = 3  # arms from which on its end is compared with its start


@dataclass(frozen=True)
class Judgement:
    """The verdicts on the arms. The mappings are keyed by arm; those with effects leave out the baseline."""

    rules: Rules
    evidence: Evidence
    scores: dict[str, pd.Series]
    stuck: dict[str, list[int]]
    effects: dict[str, Effect]
    without_stuck: dict[str, Effect]  # of the arms that have a stuck seed, or whose reference has one
    rates: dict[str, dict[str, Rate]]  # "diverged" and "stuck"
    whole: tuple[str, Effect] | None  # of a ladder: its end against its start

    @property
    def open(self) -> list[str]:
        """In a sequential experiment, a line that says which arms are not settled yet; else nothing."""
        progress = [effect.progress for effect in self.effects.values() if effect.progress]
        n_open = len([one for one in progress if one.state == OPEN])
        return [f"{len(progress) - n_open} of {len(progress)} arms are settled"] if n_open else []


def judge(
    arms: Mapping[str, Arm], references: Mapping[str, str], rules: Rules, refused: Mapping[str, str]
) -> Judgement:
    """Judge the arms, the baseline first.

    Args:
        arms: by label.
        references: the arm that each arm but the first is compared with.
        rules: how they are judged. The end of a ladder against its start is one comparison more.
        refused: for an arm that must not be judged, the reason, such as a best tuned value at an edge.
    """
    first, last = next(iter(arms)), list(arms)[-1]
    whole = f"{last} against {first}" if len(arms) >= LONG_LADDER and references.get(last, first) != first else None
    named, compared = dict(arms), dict(references)
    if whole:
        named[whole], compared[whole] = arms[last], first
        refused = {**refused, whole: refused[last]} if last in refused else refused
    rules = replace(rules, family=max(rules.family, len(references)) + bool(whole))
    finished = {label: finished_runs(arm) for label, arm in named.items()}
    scores = {label: scores_of(runs, rules.metric) for label, runs in finished.items()}
    stuck = stuck_seeds({label: finished[label] for label in arms})
    evidence = Evidence(
        diverged={label: [r.seed for r in arm.runs if r.state == RunState.DIVERGED] for label, arm in named.items()},
        deviations={label: deviations_of(runs, rules.metric) for label, runs in finished.items()},
        unlike=unlike_pairs(named, compared),
        refused=_of_pairs(compared, refused),
    )
    ended = {label: {run.seed for run in arm.runs if run.state in SETTLED} for label, arm in named.items()}
    progress = settle(scores, compared, ended, rules, evidence) if rules.looks else {}
    effects = compare_so_far(scores, compared, rules, evidence, progress)
    without = {label: scores[label].drop(seeds, errors="ignore") for label, seeds in stuck.items()}
    touched = [arm for arm, other in references.items() if stuck[arm] or stuck[other]]
    others = compare_so_far(without, references, rules, evidence, progress) if touched else {}
    counted = {label: scores[label].notna().sum() for label in arms}
    unstuck = {label: len(finished[label]) - len(seeds) for label, seeds in stuck.items()}
    diverged = {label: evidence.diverged[label] for label in arms}
    return Judgement(
        rules=rules,
        evidence=evidence,
        scores=scores,
        stuck=stuck,
        effects={arm: effects[arm] for arm in references},
        without_stuck={arm: others[arm] for arm in touched},
        rates={
            "diverged": compare_rates(diverged, counted, references, rules.family),
            "stuck": compare_rates(stuck, unstuck, references, rules.family),
        },
        whole=(whole, effects[whole]) if whole else None,
    )


def judge_pairs(
    arms: Mapping[str, Arm], pairs: Sequence[tuple[str, str]], judged: Judgement, refused: Mapping[str, str]
) -> list[Effect]:
    """Judge the first arm of each pair against the second, with Holm's correction over the pairs.

    In a sequential experiment the two arms may have ended with different numbers of seeds. Their common ones are those
    of a look, and p holds at any look.

    Args:
        arms: by label.
        pairs: of labels.
        judged: the verdicts on the arms.
        refused: for an arm that must not be judged, the reason.
    """
    names = [f"{arm}\n{other}" for arm, other in pairs]  # no arm has such a name
    first, references = ({name: pair[i] for name, pair in zip(names, pairs, strict=True)} for i in (0, 1))
    named = {**arms, **{name: arms[arm] for name, arm in first.items()}}
    evidence = Evidence(
        diverged={name: judged.evidence.diverged[first.get(name, name)] for name in named},
        deviations={name: judged.evidence.deviations[first.get(name, name)] for name in named},
        unlike=unlike_pairs(named, references),
        refused=_of_pairs(
            references, {name: refused[arm] for name, arm in first.items() if arm in refused} | dict(refused)
        ),
    )
    scores = {name: judged.scores[first.get(name, name)] for name in named}
    effects = compare_scores(scores, references, replace(judged.rules, family=len(pairs)), evidence)
    return [effects[name] for name in names]


def _of_pairs(references: Mapping[str, str], refused: Mapping[str, str]) -> dict[str, str]:
    """Return why arms must not be judged: for a reason of their own, or of their reference."""
    notes = {}
    for arm, other in references.items():
        own = [refused[arm]] if arm in refused else []
        notes[arm] = "; ".join([*own, f"of {other}, {refused[other]}"] if other in refused else own)
    return {arm: note for arm, note in notes.items() if note}


def finished_runs(arm: Arm) -> list[Run]:
    """Return the runs that ended with a result."""
    return [run for run in arm.runs if run.state == RunState.FINISHED]


def scores_of(runs: Sequence[Run], metric: str) -> pd.Series:
    """Return the metric of the runs that have it, by seed."""
    return pd.Series({run.seed: run.number(metric) for run in runs if metric in run.summary}, dtype=float)


def deviations_of(runs: Sequence[Run], metric: str) -> dict[int, Any]:
    """Return the block deviations of the runs that have them, by seed."""
    found = {run.seed: block_deviations(run.summary, metric) for run in runs}
    return {seed: deviations for seed, deviations in found.items() if deviations is not None}
