"""A comparison as one JSON document, for scripts.

The fields of the document:

- format: "gptlab comparison, 1".
- question, literature, command: of the experiment, or None.
- metric: {key, label, unit, better}; better is "lower" or "higher".
- confidence: with which all intervals of the arms hold together, 0.95.
- margin: smaller differences do not matter, in the unit of the metric; None if there is none. margin_text says the
  same.
- family: the number of comparisons that were planned, over which p is corrected.
- planned: whether it is known what was planned (the runs are those of one sweep).
- looks: of a sequential experiment {first, last}, the seeds at its first and last look; else None.
- standing: "exploratory" if the comparison is not the one that was planned, "interim" if planned runs have not ended,
  or "". reasons: a list of sentences that say why.
- published: what others found beside what the runs found {summary, lines, order}, None if nothing was published or
  another baseline or metric is judged. A line is {arm, published, expected, found, agreement, reason}: `expected` is
  the word that `published` stands for, `found` the verdict, `agreement` "agrees", "disagrees" or "not shown". order:
  {arms, pairs, shown, reversed, not_shown}, None if few arms have a number; `arms` from the best published one on, and
  a pair in `shown` (in that order) or `reversed` has the arm first that is better here.
- noise: standard deviation of the baseline over its seeds.
- baseline: the name of the baseline arm, which is also the first arm.
- verdicts: the meaning of each word that a verdict can be.
- arms: a list, see below.
- equal_budgets: for each of steps, tokens, flops and seconds {axis, note, readings}. `readings` maps an arm to {budget,
  mean, reference_mean, verdict, why, reliable, effect, shift}: `budget` is the total of that run of the arm and its
  reference which spent least; `verdict` is None unless the runs of both end there, and `why` says why; `shift` is the
  effect there minus the one at the end of the runs, {mean, low, high, p_holm}, or None; `reliable` is false for seconds
  if the runs of an arm differ in speed. `note` says which arms are left out.
- whole: of a ladder {name, verdict, effect}, its end against its start; else None.
- tuning: for each tuned setting {setting, seeds, points}. A point is {arm, value, mean, low, high, seeds, diverged,
  chosen, at_edge}; a mean of None with diverged > 0 is infinitely bad. `at_edge`: the value chosen is the smallest
  or the largest that was tried.
- factorial: for a grid of settings {effects, means, note}, or None. An effect is {kind, slots, levels, effect, low,
  high, p, p_holm, verdict, note}; a table of means is {rows, columns, row_levels, column_levels, means}.
- breakdowns: a metric by position or difficulty, {metric, by, length, levels}; `levels` maps a level to
  {arm: {mean, sd}}.
- matched: what match= changed, {arm, to, changed, reference, before, reached}.
- tuning_runs: the runs that only chose a setting; like the runs of an arm, and each with the name of its `arm`.
- hardware: one line for each machine and set of versions.
- repeats: number of runs left out because a later one has the same config and seed.
- wandb: with --wandb {updated, absent}, the number of runs whose summary in W&B got the verdict, and of those that W&B
  does not have; else None.

An arm:

- name: a label or the changes from the baseline; unique.
- overrides: list of "key=value" in which the arm differs from the baseline; for the baseline its own values of the
  settings in which the arms differ.
- reference: the name of the arm that it is compared with; None for the baseline.
- n_seeds, mean, sd: of the metric over the finished runs; sd with n - 1.
- scores: the metric of each finished run, by seed (a string).
- verdict: "better", "worse", "equivalent", "not shown", "unstable", "no verdict", or "two seeds: no verdict" and the
  like; with its mark, "better (exploratory)". None for the baseline. word: the same without a mark.
- note: to the verdict, "" if there is none.
- effect: {pairs, mean, low, high, confidence, error, df, sd, sd_unpaired, text_share, p, p_any_look, p_holm,
  p_equivalent, detectable, detectable_low, detectable_high, seeds_needed, seeds_low, seeds_high, progress}, of the arm
  minus its reference, paired by seed; None for the baseline. p: of the t test; p_any_look: the same, such that it holds
  at any look of a sequential plan; p_holm: p_any_look, corrected for the number of arms. low and high: the t interval
  with its own confidence; error: the standard error, with df degrees of freedom; text_share: the validation text's
  share of its square, None if the losses by block are not known; detectable: the smallest true effect that these pairs
  detect with 80 % power at Holm's first step; seeds_needed: pairs that detect an effect as large as the margin, None if
  that takes more than 1,000; *_low and *_high: their 90 % range; progress: in a sequential experiment {seeds, state,
  chance}, else None: the planned seeds that count, whether the arm is "open", "settled" or "given up", and the chance
  that an open one gets a word.
- multiplier: the compute multiplier against the baseline {tokens, flops, seconds, method, reason, unsteady}, None
  without the baseline's runs at other budgets. In each unit {value, low, high, least, most, text}; a value or an end
  beyond `least` or `most`, the range of the budgets, is None or 0, and `text` says ">2". method: "bracketed" or "slope"
  (the budget on the arm's side is missing); reason: why there is none; unsteady: why the seconds are not reliable.
- without_stuck: {verdict, effect} without the stuck seeds of the arm and its reference; None if there are none.
- rates: of "diverged" and "stuck" {hits, runs, other_hits, other_runs, p, p_holm}: how many runs of the arm and of its
  reference had this outcome, with Fisher's exact test; {} for the baseline.
- costs: {parameters, parameters_non_embedding, flops_per_token, state_bytes, tokens_per_s, seconds, tokens, steps},
  medians over the runs.
- states: the number of its runs by state, {finished, diverged, failed, unfinished}. stuck: the finished seeds that are
  stuck.
- runs: for each run {seed, state, tokens, seconds, score, folder, wandb}; `score` is the metric, None unless the
  run has finished; `folder` is relative to the current folder if it lies below it; `wandb` is an address, or the
  command that uploads the run, or "".
"""

from dataclasses import asdict
from typing import Any

import numpy as np

from gptlab.compare.analysis.comparison import (
    CONFIDENCE,
    Comparison,
    ComputeMultiplier,
    Effect,
    EqualBudgetComparison,
    Factorial,
    Published,
    Reading,
    Result,
    Tuning,
)
from gptlab.compare.analysis.verdict import DEFINITIONS
from gptlab.compare.columns import COLUMNS
from gptlab.compare.views.published_tables import summary
from gptlab.compare.views.wandb_summary import Sent
from gptlab.files import finite
from gptlab.runs.metrics import metric_named

DOCUMENT_FORMAT = "gptlab comparison, 1"


def comparison_document(comparison: Comparison, sent: Sent | None = None) -> dict[str, Any]:
    """Return the document as nested dicts and lists, with None for every number that is not finite."""
    metric = metric_named(comparison.metric)
    runs, looks = _runs(comparison), comparison.looks
    document: dict[str, Any] = {
        "format": DOCUMENT_FORMAT,
        "question": comparison.question,
        "literature": comparison.literature,
        "command": comparison.command,
        "metric": {"key": metric.key, "label": metric.label, "unit": metric.unit, "better": metric.better},
        "confidence": CONFIDENCE,
        "margin": comparison.margin,
        "margin_text": comparison.margin_text,
        "family": comparison.family,
        "planned": comparison.planned,
        "looks": {"first": looks.first, "last": looks.last} if looks else None,
        "standing": comparison.standing,
        "reasons": comparison.reasons,
        "published": _published(comparison.published),
        "noise": comparison.noise,
        "baseline": comparison.baseline.name,
        "verdicts": DEFINITIONS,
        "arms": [_arm(result, comparison.baseline, runs[result.name]) for result in comparison.results],
        "equal_budgets": [_equal_budget(equal) for equal in comparison.equal_budgets],
        "whole": _whole(comparison),
        "tuning": [_tuning(tuning) for tuning in comparison.tuning],
        "factorial": _factorial(comparison.factorial) if comparison.factorial else None,
        "breakdowns": [
            {
                "metric": breakdown.metric,
                "by": breakdown.by,
                "length": breakdown.length,
                "levels": {
                    level: {
                        result.name: {"mean": mean, "sd": sd}
                        for result, (mean, sd) in zip(comparison.results, numbers, strict=True)
                    }
                    for level, numbers in breakdown.levels.items()
                },
            }
            for breakdown in comparison.breakdowns
        ],
        "matched": comparison.matched,
        "tuning_runs": runs[""],
        "hardware": comparison.hardware,
        "repeats": comparison.repeats,
        "wandb": asdict(sent) if sent else None,
    }
    return without_nan(document)


def without_nan(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document in Python's own types, with None for every number that is not finite."""
    return {key: finite(_plain(value)) for key, value in document.items()}


def _arm(result: Result, baseline: Result, runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": result.name,
        "overrides": [f"{key}={value}" for key, value in result.arm.changed(baseline.arm).items()],
        "reference": result.reference,
        "n_seeds": result.states["finished"],
        "mean": result.mean,
        "sd": result.sd,
        "scores": {str(seed): score for seed, score in result.scores.items()},
        "verdict": result.effect.verdict if result.effect else None,
        "word": result.effect.word if result.effect else None,
        "note": result.effect.note if result.effect else "",
        "effect": _numbers(result.effect),
        "multiplier": _multiplier(result.multiplier),
        "without_stuck": _judged(result.without_stuck),
        "rates": {outcome: asdict(rate) for outcome, rate in result.rates.items()},
        "costs": {column.key: result.costs[column.key] for column in COLUMNS},
        "states": result.states,
        "stuck": result.stuck,
        "runs": runs,
    }


def _numbers(effect: Effect | None) -> dict[str, Any] | None:
    """Return the numbers of an Effect, without the verdict and its note."""
    if effect is None:
        return None
    return {key: value for key, value in asdict(effect).items() if key not in ("word", "standing", "note")}


def _multiplier(found: ComputeMultiplier | None) -> dict[str, Any] | None:
    if found is None:
        return None
    units = {unit: getattr(found, unit) for unit in ("tokens", "flops", "seconds")}
    ends = ("value", "low", "high", "least", "most")
    numbers = {unit: {end: getattr(one, end) for end in ends} | {"text": str(one)} for unit, one in units.items()}
    return {**numbers, "method": found.tokens.method, "reason": found.tokens.reason, "unsteady": found.unsteady}


def _judged(effect: Effect | None) -> dict[str, Any] | None:
    return {"verdict": effect.verdict, "effect": _numbers(effect)} if effect else None


def _published(published: Published | None) -> dict[str, Any] | None:
    if published is None:
        return None
    order = published.order
    return {
        "summary": summary(published),
        "lines": [asdict(line) for line in published.lines],
        "order": asdict(order) | {"not_shown": order.not_shown} if order else None,
    }


def _whole(comparison: Comparison) -> dict[str, Any] | None:
    if comparison.whole is None:
        return None
    name, effect = comparison.whole
    return {"name": name, **(_judged(effect) or {})}


def _equal_budget(equal: EqualBudgetComparison) -> dict[str, Any]:
    return {
        "axis": equal.axis,
        "note": equal.note,
        "readings": {arm: _reading(reading) for arm, reading in equal.readings.items()},
    }


def _reading(reading: Reading) -> dict[str, Any]:
    shift = reading.shift
    return {
        "budget": reading.budget,
        "mean": reading.mean,
        "reference_mean": reading.reference_mean,
        "verdict": None if reading.why else reading.effect.verdict,
        "why": reading.why,
        "reliable": reading.reliable,
        "effect": _numbers(reading.effect),
        "shift": shift and {key: getattr(shift, key) for key in ("mean", "low", "high", "p_holm")},
    }


def _tuning(tuning: Tuning) -> dict[str, Any]:
    return {"setting": tuning.setting, "seeds": tuning.seeds, "points": tuning.points.to_dict("records")}


def _factorial(factorial: Factorial) -> dict[str, Any]:
    means = [
        {
            "rows": down,
            "columns": across,
            "row_levels": [str(level) for level in table.index],
            "column_levels": [str(level) for level in table.columns],
            "means": table.astype(float).to_numpy().tolist(),
        }
        for (down, across), table in factorial.means.items()
    ]
    return {"effects": factorial.effects.to_dict("records"), "means": means, "note": factorial.note}


def _runs(comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of each arm by its name, and the tuning runs under "" (no arm has that name)."""
    runs: dict[str, list[dict[str, Any]]] = {"": [], **{result.name: [] for result in comparison.results}}
    for row in comparison.runs.to_dict("records"):
        run = {key: row[key] for key in ("seed", "state", "tokens", "seconds")}
        run |= {"score": row[comparison.metric], "folder": row["path"], "wandb": row["where"]}
        if row["phase"]:
            runs[""].append({"arm": row["arm"], **run})
        else:
            runs[row["arm"]].append(run)
    return runs


def _plain(tree: Any) -> Any:
    """Replace numpy's scalars by Python's in nested dicts and lists."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_plain(value) for value in tree]
    return tree.item() if isinstance(tree, np.generic) else tree
