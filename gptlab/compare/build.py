"""Build a Comparison from runs on disk, or from a file written by --keep."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis.arms import Arm, choose_baseline, names
from gptlab.compare.analysis.breakdowns import breakdowns
from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.analysis.compute import best_of_seeds, other_budgets, with_multipliers
from gptlab.compare.analysis.effects import Rules
from gptlab.compare.analysis.equal_budget import Inputs, compare_at_equal_budgets, unsteady
from gptlab.compare.analysis.factorial import factorial
from gptlab.compare.analysis.judgement import Judgement, finished_runs, judge
from gptlab.compare.analysis.margins import Margin, choose_margin
from gptlab.compare.analysis.planned import Plan, Standing, choose_metric, same_verdicts, standing
from gptlab.compare.analysis.provenance import hardware, list_runs
from gptlab.compare.analysis.published import beside_published
from gptlab.compare.analysis.samples import sample_of
from gptlab.compare.analysis.setup import setup
from gptlab.compare.analysis.tuned_arms import JudgedValues, at_best_values, notes_at_edges
from gptlab.compare.analysis.tuning_curves import tunings
from gptlab.compare.analysis.verdict import INTERIM
from gptlab.compare.collect import CollectedRuns, collect_runs
from gptlab.compare.columns import COLUMNS
from gptlab.compare.read.anonymise import shown_command, shown_file, shown_folder
from gptlab.compare.read.runs import Run, SweepFile, read_curves
from gptlab.config import ConfigError
from gptlab.runs.record import read_snapshots
from gptlab.runs.states import SETTLED

AGAINST = ("baseline", "previous")


def build_comparison(paths: Iterable[str | Path], **options: Any) -> Comparison:
    """Compare the runs in `paths`; `options` are those of `build`."""
    return build(collect_runs(paths), **options)


def build(
    collected: CollectedRuns,
    *,
    metric: str | None = None,
    baseline: str | None = None,
    against: str | None = None,
    margin: str | float | None = None,
    defaults: dict[str, Any] | None = None,
) -> Comparison:
    """Compare the arms of the collected runs.

    Args:
        collected: the runs.
        metric: a key of summary.json; by default the planned one, or val/loss, or val/bpb if the arms' tokens differ.
        baseline: label or changes of an arm; by default sweep.yaml's baseline, or the arm nearest to `defaults`.
        against: compare each arm with the "baseline" or with the "previous" arm.
        margin: differences below it do not matter: a number in the unit of the metric, or a share of compute ("5%"); by
            default the planned one, or 0.01 bits per byte.
        defaults: the config of gptlab's own baseline, nested or flat.

    Raises:
        ConfigError: if an option does not fit the runs.
    """
    sweep = SweepFile.of(collected.sweep)
    choices = _choose(collected, metric, baseline, against, margin, defaults)
    by_label, plan = choices.arms, choices.plan
    chosen, arms = JudgedValues.of(collected.sweep).chosen, list(by_label.values())
    tuning = tunings(collected.around_chosen_values, arms, list(by_label), sweep, choices.metric, chosen)
    speeds = {label: [r.number("speed/tokens_per_s") for r in finished_runs(arm)] for label, arm in by_label.items()}
    refused = notes_at_edges(tuning, list(by_label)) | _on_a_shared_machine(by_label, speeds)
    judged = judge(by_label, choices.references, choices.rules, refused)
    results = _results(choices, judged, speeds)
    curve_metric, curves = _curves(by_label, choices.metric)
    metric_curves = curves if curve_metric == choices.metric else _curves_of(by_label, choices.metric)
    return Comparison(
        metric=choices.metric,
        margin=choices.margin.value,
        margin_text=choices.margin.text,
        noise=results[0].scores.std(),
        results=results,
        equal_budgets=compare_at_equal_budgets(Inputs(metric_curves, results, speeds, judged.rules, judged.evidence)),
        tuning=tuning,
        factorial=factorial(
            [_alike(result, judged.evidence.unlike) for result in results],
            choices.rules,
            replace(judged.evidence, refused=refused),
            left_out=[*sweep.tune, *(key for entry in sweep.matched for key in entry["changed"])],
        ),
        curves=curves,
        curve_metric=curve_metric,
        family=judged.rules.family,
        planned=plan.known,
        standing=choices.standing.mark or (INTERIM if judged.open else ""),
        reasons=choices.standing.reasons + judged.open,
        looks=judged.rules.looks,
        whole=judged.whole,
        published=beside_published(sweep.published if choices.as_published else {}, by_label, judged, refused),
        **_descriptions(collected, sweep, choices),
    )


def _descriptions(collected: CollectedRuns, sweep: SweepFile, choices: "_Choices") -> dict[str, Any]:
    """Return the fields of a Comparison that describe its runs and judge nothing."""
    return {
        "question": sweep.question,
        "literature": sweep.literature,
        "command": shown_command(sweep.command) if sweep.command else None,
        "hardware": hardware(collected.runs),
        "runs": list_runs(choices.arms, collected.runs, list(sweep.tune), choices.metric),
        "breakdowns": breakdowns({label: finished_runs(arm) for label, arm in choices.arms.items()}),
        "matched": sweep.matched,
        "snapshots": {label: _snapshots(arm) for label, arm in choices.arms.items()},
        "repeats": collected.repeats,
        "setup": setup([run for arm in choices.arms.values() for run in arm.runs]),
        "experiment_file": shown_file(sweep.experiment_file) if sweep.experiment_file else None,
        "samples": {label: text for label, arm in choices.arms.items() if (text := sample_of(arm.runs))},
    }


@dataclass(frozen=True)
class _Choices:
    """The arms and how they are compared, by the plan and the options."""

    plan: Plan
    metric: str
    arms: dict[str, Arm]  # by label, the baseline first
    references: dict[str, str]  # label of an arm -> label of the arm that it is compared with
    at_budgets: list[list[Run]]  # the baseline at other budgets
    margin: Margin
    standing: Standing
    rules: Rules
    as_published: bool  # whether what others found is about these differences


def _choose(
    collected: CollectedRuns,
    metric: str | None,
    baseline: str | None,
    against: str | None,
    margin: str | float | None,
    defaults: dict[str, Any] | None,
) -> _Choices:
    """Return what the options of `build` and the plan choose; what they choose otherwise is in the standing."""
    sweep, plan = SweepFile.of(collected.sweep), Plan.of(collected.sweep)
    metrics = choose_metric(metric, plan, collected.arms), choose_metric(None, plan, collected.arms)
    chosen_metric = metrics[0]
    _refuse_unknown(chosen_metric, collected.arms)
    arms, departures = _in_order(collected, chosen_metric, baseline, defaults)
    labels = names(arms)
    usual_against = sweep.against or AGAINST[0]
    references = _references(labels, against or usual_against)
    departures += [f"--against {against}"] if against and against != usual_against else []
    if baseline is None and plan.baseline in labels[1:]:
        departures.append(f"the baseline {labels[0]}")  # the file has named another one since
    at_budgets = [best_of_seeds(runs, chosen_metric) for runs in collected.budgets.values()]
    same_model = [arm.runs for arm in arms[1:] if _differs_in_budget_alone(arm, arms[0])]
    wanted = plan.margin if margin is None else margin
    chosen_margin = choose_margin(wanted, chosen_metric, arms[0], [*at_budgets, *same_model])
    other_margin = str(margin) if margin is not None and str(margin) != plan.margin else None
    kept = standing(plan, arms, metrics, departures, other_margin)
    return _Choices(
        plan=plan,
        metric=chosen_metric,
        arms=dict(zip(labels, arms, strict=True)),
        references=references,
        at_budgets=at_budgets,
        margin=chosen_margin,
        standing=kept,
        rules=Rules(chosen_metric, chosen_margin.value, plan.arms - 1 + plan.left_out, kept.marks, plan.looks(arms)),
        as_published=same_verdicts(*metrics) and set(references.values()) <= {sweep.baseline},
    )


def _in_order(
    collected: CollectedRuns, metric: str, baseline: str | None, defaults: dict[str, Any] | None
) -> tuple[list[Arm], list[str]]:
    """Return the arms with the best runs of tuned ones, the baseline first, and the options that were not planned."""
    sweep, judged = SweepFile.of(collected.sweep), JudgedValues.of(collected.sweep)
    arms = at_best_values(collected.arms, collected.neighbours, judged, list(sweep.tune), metric)
    usual = choose_baseline(arms, None, sweep, defaults, collected.first)
    first = choose_baseline(arms, baseline, sweep, defaults, collected.first)
    departures = [f"--baseline {baseline}"] if first is not usual else []
    return [first, *(arm for arm in arms if arm is not first)], departures


def _differs_in_budget_alone(arm: Arm, baseline: Arm) -> bool:
    changed = arm.changed(baseline).keys() | baseline.changed(arm).keys()
    return bool(changed) and all(key.startswith("budget.") for key in changed)


def _refuse_unknown(metric: str, arms: Sequence[Arm]) -> None:
    """Reject a metric that no arm has as a number. One arm may lack it: learned positions allow no longer windows."""
    finished = [run for arm in arms for run in finished_runs(arm)]
    if not finished or any(_is_number(run.summary[metric]) for run in finished if metric in run.summary):
        return
    known = [key for key, value in finished[0].summary.items() if type(value) in (int, float)]
    path = f"{shown_folder(finished[0].folder)}/summary.json"
    rule = "is no number in" if metric in finished[0].summary else "not in"
    raise ConfigError(f"metric={metric}: {rule} {path}; choose from {', '.join(known)}")


def _is_number(value: Any) -> bool:
    """Return whether a value of a summary can be compared. None is a number that could not be measured."""
    return value is None or type(value) in (int, float)


def _references(labels: Sequence[str], against: str) -> dict[str, str]:
    """Return the arm that each arm but the first is compared with."""
    if against not in AGAINST:
        raise ConfigError(f"against={against}: choose from {', '.join(AGAINST)}")
    return {label: labels[i if against == "previous" else 0] for i, label in enumerate(labels[1:])}


def _results(choices: _Choices, judged: Judgement, speeds: Mapping[str, Sequence[float]]) -> list[Result]:
    """Return the result of each arm, with what it is worth in compute where the baseline ran at other budgets."""
    arms, references = choices.arms, choices.references
    first = next(iter(arms.values()))
    results = [_result(arm, label, first, references.get(label), judged) for label, arm in arms.items()]
    return with_multipliers(results, other_budgets(choices.at_budgets, choices.metric), judged, speeds)


def _result(arm: Arm, label: str, baseline: Arm, reference: str | None, judged: Judgement) -> Result:
    counts = Counter(run.state for run in arm.runs)
    states = {str(state): counts[state] for state in SETTLED}
    scores = judged.scores[label]
    return Result(
        arm=arm,
        name=label,
        reference=reference,
        differs=arm.changes(baseline),
        scores=scores,
        mean=scores.mean(skipna=False),
        sd=scores.std(skipna=False),
        states={**states, "unfinished": len(arm.runs) - sum(states.values())},
        costs={
            column.key: _median(finished_runs(arm) if column.finished_runs_only else arm.runs, column.summary_key)
            for column in COLUMNS
        },
        effect=judged.effects.get(label),
        stuck=judged.stuck[label],
        without_stuck=judged.without_stuck.get(label),
        rates={outcome: rates[label] for outcome, rates in judged.rates.items() if label in rates},
    )


def _on_a_shared_machine(arms: Mapping[str, Arm], speeds: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """Return a note for each arm whose runs had the same seconds but not the same speed."""
    timed = [label for label, arm in arms.items() if (arm.runs[0].config.get("budget") or {}).get("seconds")]
    return {label: note for label in timed if (note := unsteady(speeds, [label]))}


def _alike(result: Result, unlike: Mapping[str, Mapping[int, str]]) -> Result:
    """Return the result without the scores of runs that cannot be judged against those of the reference."""
    seeds = [seed for seed in unlike.get(result.name, ()) if seed in result.scores]
    return replace(result, scores=result.scores.drop(seeds))


def _median(runs: Sequence[Run], key: str) -> float:
    numbers = [x for x in (run.number(key) for run in runs) if x == x]  # not NaN
    return float(np.median(numbers)) if numbers else float("nan")


def _snapshots(arm: Arm) -> list[dict[str, Any]]:
    """Return the diagnostics of the arm's first run that has some. Archived runs have none."""
    return next((snapshots for run in arm.runs if run.points is None and (snapshots := read_snapshots(run.folder))), [])


def _curves(arms: Mapping[str, Arm], metric: str) -> tuple[str, dict[str, pd.DataFrame]]:
    """Return a metric and its curves: the wanted metric, or else the first loss that some run has logged twice."""
    for key in dict.fromkeys((metric, "val/loss", "train/loss")):
        curves = _curves_of(arms, key)
        if any(len(curve) > curve["seed"].nunique() for curve in curves.values()):
            return key, curves
    return metric, _curves_of(arms, metric)


def _curves_of(arms: Mapping[str, Arm], metric: str) -> dict[str, pd.DataFrame]:
    return {label: read_curves(arm.runs, metric) for label, arm in arms.items()}
