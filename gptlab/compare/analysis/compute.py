"""Each arm's compute multiplier, from the baseline's runs at other budgets. multiplier.py has the statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from gptlab.compare.analysis.comparison import ComputeMultiplier, Effect, Result
from gptlab.compare.analysis.equal_budget import unsteady
from gptlab.compare.analysis.judgement import Judgement, deviations_of, finished_runs, scores_of
from gptlab.compare.analysis.multiplier import Losses, multiplier
from gptlab.compare.analysis.resolution import resolution
from gptlab.compare.analysis.text_share import SIZES
from gptlab.compare.read.runs import Run
from gptlab.runs.metrics import metric_named
from gptlab.runs.states import OUTCOMES, RunState


@dataclass(frozen=True)
class OtherBudget:
    """The baseline's runs at another budget: their losses, and the tokens that they were trained for."""

    losses: Losses
    tokens: float


def best_of_seeds(runs: Sequence[Run], metric: str) -> list[Run]:
    """Return the finished run of each seed of the baseline at another budget; of a tuned one the best.

    A seed counts once all its runs have ended.
    """
    by_seed: dict[int, list[Run]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, []).append(run)
    ended = [own for own in by_seed.values() if all(run.state in OUTCOMES for run in own)]
    finished = [[run for run in own if run.state == RunState.FINISHED] for own in ended]
    sign = -1 if metric_named(metric).higher_is_better else 1
    return [min(own, key=lambda run: sign * run.number(metric)) for own in finished if own]


def other_budgets(groups: Sequence[Sequence[Run]], metric: str) -> list[OtherBudget]:
    """Return the baseline's other budgets at which runs have finished; none if the metric is no loss on text."""
    if metric not in SIZES:
        return []
    return [
        OtherBudget(
            Losses(scores_of(runs, metric), deviations_of(runs, metric)),
            float(np.mean([run.number("tokens") for run in runs])),
        )
        for runs in groups
        if runs
    ]


def with_multipliers(
    results: Sequence[Result],
    budgets: Sequence[OtherBudget],
    judged: Judgement,
    speeds: Mapping[str, Sequence[float]],
) -> list[Result]:
    """Return the results, those of arms that are compared with the baseline with their compute multipliers.

    Args:
        results: of all arms, the baseline first.
        budgets: the baseline's other budgets.
        judged: the verdicts, whose seeds and levels the multipliers share.
        speeds: tokens/s of the finished runs, for each arm.
    """
    baseline = results[0]
    spent = [run.number("tokens") for run in finished_runs(baseline.arm)]
    if not budgets or not spent:
        return list(results)
    reached = {budget.tokens / float(np.mean(spent)): budget.losses for budget in budgets}
    step = resolution(score for result in results for score in result.scores)
    curve = {1.0: _losses(baseline.name, baseline.scores, judged), **reached}

    def measured(result: Result) -> Result:
        if result.effect is None or result.reference != baseline.name:
            return result
        seeds = _seeds(result, result.effect, judged)
        in_tokens = multiplier(
            _losses(result.name, result.scores[seeds], judged),
            curve,
            level=_level(result.effect, judged),
            resolution=step,
        )
        costs, usual = result.costs, baseline.costs
        return replace(
            result,
            multiplier=ComputeMultiplier(
                tokens=in_tokens,
                flops=in_tokens.at_cost(costs["flops_per_token"] / usual["flops_per_token"]),
                seconds=in_tokens.at_cost(usual["tokens_per_s"] / costs["tokens_per_s"]),
                unsteady=unsteady(speeds, (result.name, baseline.name)),
            ),
        )

    return [measured(result) for result in results]


def _losses(name: str, scores: pd.Series, judged: Judgement) -> Losses:
    return Losses(scores.dropna(), judged.evidence.deviations.get(name, {}))


def _seeds(result: Result, effect: Effect, judged: Judgement) -> list[int]:
    """Return the seeds that the verdict counts."""
    left_out = judged.evidence.unlike.get(result.name, {})
    looks = judged.rules.looks
    counted = looks.seeds[: effect.progress.seeds] if looks and effect.progress else list(result.scores.index)
    return [seed for seed in counted if seed in result.scores.index and seed not in left_out]


def _level(effect: Effect, judged: Judgement) -> float:
    """Return the level of the verdict's interval, at the look at which the arm was judged."""
    level, looks = 1 - effect.confidence, judged.rules.looks
    return looks.nominal(level, effect.pairs) if looks else level
