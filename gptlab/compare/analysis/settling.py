"""The course of a sequential experiment: which arms are settled, at which look, and which need more seeds.

The looks are gone through in their order, with the runs that there are. The result depends on these runs alone, not on
when the sweep was stopped and continued.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

import pandas as pd

from gptlab.compare.analysis.comparison import Effect
from gptlab.compare.analysis.effects import Decision, Evidence, Measured, Rules, compare_scores, decide, measure
from gptlab.compare.analysis.resolution import resolution
from gptlab.compare.analysis.sequential import GIVE_UP, GIVE_UP_FROM, GIVEN_UP, OPEN, SETTLED, Looks, Progress
from gptlab.compare.analysis.verdict import BETTER, EQUIVALENT, INTERIM, UNSTABLE, WORSE

FINAL = (BETTER, WORSE, EQUIVALENT, UNSTABLE)  # words that more seeds are not asked to change


def settle(
    scores: Mapping[str, pd.Series],
    references: Mapping[str, str],
    ended: Mapping[str, Collection[int]],
    rules: Rules,
    evidence: Evidence,
) -> dict[str, Progress]:
    """Go through all looks, and return the progress of each arm in `references`.

    Args:
        scores: the metric of the finished runs by seed, for each arm.
        references: the arm that each arm is compared with.
        ended: the seeds whose runs have ended, however they did, for each arm.
        rules: their looks must be given.
        evidence: what else is known of the arms.
    """
    looks = rules.looks
    if looks is None:
        raise ValueError("settle: the rules have no looks")
    step = resolution(score for series in scores.values() for score in series)
    finished = {arm: set(series.dropna().index) for arm, series in scores.items()}
    family = max(rules.family, len(references))
    done = {arm: _leading(looks, ended[arm], ended[other]) for arm, other in references.items()}
    progress = {arm: Progress(min(done[arm], looks.first - 1), OPEN, float("nan")) for arm in references}
    measured: dict[str, Measured] = {}
    for n in range(looks.first, looks.last + 1):
        due = [arm for arm, other in progress.items() if other.state == OPEN and done[arm] >= n]
        seeds = set(looks.seeds[:n])
        for arm in due:
            other = references[arm]
            own, beside = (_only(scores[name], seeds) for name in (arm, other))
            measured[arm] = measure(own, beside, rules, evidence, arm=arm, reference=other, step=step)
        tested = {arm: len(seeds & finished[arm]) for arm in scores}
        lost = {arm: [seed for seed in diverged if seed in seeds] for arm, diverged in evidence.diverged.items()}
        decisions = decide(measured, references, tested, rules, replace(evidence, diverged=lost)) if due else {}
        for arm in due:
            progress[arm] = _after_look(n, decisions[arm], measured[arm], looks, rules.margin, family)
    return progress


def _after_look(n: int, decision: Decision, found: Measured, looks: Looks, margin: float, family: int) -> Progress:
    if n == looks.last or decision.word in FINAL or decision.refusal:
        return Progress(n, SETTLED, float("nan"))
    chance = looks.chance(found.difference, found.pairs, margin, family)
    hopeless = found.pairs >= GIVE_UP_FROM and chance < GIVE_UP
    return Progress(n, GIVEN_UP if hopeless else OPEN, chance)


def compare_so_far(
    scores: Mapping[str, pd.Series],
    references: Mapping[str, str],
    rules: Rules,
    evidence: Evidence,
    progress: Mapping[str, Progress],
) -> dict[str, Effect]:
    """Return the effects; in a sequential experiment those of each arm at the look that it has come to.

    The arguments are those of compare_scores and what `settle` returns; `progress` is not read without looks.
    """
    looks = rules.looks
    if looks is None:
        return compare_scores(scores, references, rules, evidence)
    own = {arm: _only(scores[arm], looks.seeds[: progress[arm].seeds]) for arm in references}
    beside = {arm: scores[other] for arm, other in references.items()}
    effects = compare_scores({**scores, **own}, references, rules, evidence, reference_scores=beside)
    return {arm: _with_progress(effect, progress[arm], looks) for arm, effect in effects.items()}


def _with_progress(effect: Effect, progress: Progress, looks: Looks) -> Effect:
    given_up = f"given up after {progress.seeds} of {looks.last} seeds" if progress.state == GIVEN_UP else ""
    return replace(
        effect,
        progress=progress,
        standing=INTERIM if progress.state == OPEN else effect.standing,
        note="; ".join(filter(None, [effect.note, given_up])),
    )


def _leading(looks: Looks, *ended: Collection[int]) -> int:
    """Return the number of planned seeds before the first one that has not ended in all of the arms."""
    return next((i for i, seed in enumerate(looks.seeds) if any(seed not in seeds for seeds in ended)), looks.last)


def _only(scores: pd.Series, seeds: Collection[int]) -> pd.Series:
    return scores[scores.index.isin(list(seeds))]
