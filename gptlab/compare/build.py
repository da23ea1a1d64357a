"""Build a Comparison from runs on disk, or from a file written by --keep."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis.arms import Arm, choose_baseline, group_arms, identity, names
from gptlab.compare.analysis.breakdowns import breakdowns
from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.analysis.compute import best_of_seeds, other_budgets, with_multipliers
from gptlab.compare.analysis.effects import Rules
from gptlab.compare.analysis.equal_budget import Inputs, compare_at_equal_budgets, unsteady
from gptlab.compare.analysis.factorial import factorial
from gptlab.compare.analysis.judgement import Judgement, finished_runs, judge
from gptlab.compare.analysis.margins import choose_margin
from gptlab.compare.analysis.planned import Plan, choose_metric, same_verdicts, standing
from gptlab.compare.analysis.provenance import commits, hardware, list_runs
from gptlab.compare.analysis.published import beside_published
from gptlab.compare.analysis.samples import sample_of
from gptlab.compare.analysis.setup import setup
from gptlab.compare.analysis.tuned_arms import JudgedValues, at_best_values, notes_at_edges
from gptlab.compare.analysis.tuning_curves import tunings
from gptlab.compare.analysis.verdict import INTERIM
from gptlab.compare.archive import is_archive, read_archive
from gptlab.compare.columns import COLUMNS
from gptlab.compare.read.anonymise import shorten, shown_command, shown_file, shown_folder
from gptlab.compare.read.runs import Run, SweepFile, load_runs, load_sweep, read_curves
from gptlab.config import ConfigError
from gptlab.runs.record import read_snapshots
from gptlab.runs.states import SETTLED

AGAINST = ("baseline", "previous")
TUNE = "tune"  # the phase of a run that only chooses a value
NEIGHBOUR = "neighbour"  # the phase of a run of a tuned arm beside the value that was chosen
BUDGET = "budget"  # the phase of a run of the baseline at another budget


class NoRunsYet(ConfigError):
    """All runs so far are of a tuning, and none can be compared."""


@dataclass(frozen=True)
class CollectedRuns:
    """The runs that a comparison is made from, independent of its options."""

    arms: list[Arm]  # in the order of the experiment
    tuning: list[Run]
    neighbours: list[Run]  # runs of tuned arms beside the chosen values
    sweep: dict[str, Any]  # the content of sweep.yaml
    repeats: int  # runs replaced by another with the same config and seed
    budgets: dict[str, list[Run]] = field(default_factory=dict)  # of the baseline, by their share of its own budget
    first: frozenset[Path] = frozenset()  # the folders of the first path's baseline, or of all its runs

    @property
    def runs(self) -> list[Run]:
        """All runs, those of the tuning and of other budgets last."""
        others = [run for runs in self.budgets.values() for run in runs]
        return [*(run for arm in self.arms for run in arm.runs), *self.neighbours, *self.tuning, *others]

    @property
    def around_chosen_values(self) -> list[Run]:
        """The runs that show how tuned arms depend on the tuned settings."""
        return [run for run in self.runs if run.phase == TUNE or self.neighbours]


def collect_runs(paths: Iterable[str | Path], rung: str | None = None) -> CollectedRuns:
    """Load the runs in `paths`: folders of runs, folders above them, or files written by --keep.

    Of a file with rungs it loads those of one `rung`.

    Raises:
        ConfigError: there are no runs to compare, or runs of tuned arms without the sweep that says their values.
    """
    paths = list(paths)
    folders = [path for path in paths if not is_archive(path)]
    runs = load_runs(folders) if folders else []
    sweep, repeats = load_sweep(runs) if runs else {}, 0
    first = _of_baseline(leading := load_runs(paths[:1]), load_sweep(leading)) if folders[:1] == paths[:1] else set()
    for path in (path for path in paths if is_archive(path)):
        archive = read_archive(Path(path), rung)
        first |= _of_baseline(archive.runs, archive.sweep) if path is paths[0] else set()
        sweep = archive.sweep if len(paths) == 1 else {}
        runs, repeats = runs + archive.runs, repeats + archive.repeats
    runs = [replace(r, config=c) for r, c in zip(runs, shorten([r.config for r in runs]), strict=True)]
    same = {identity(run) for run in runs if run.folder in first}
    first = {run.folder for run in runs if identity(run) in same}  # another run may stand for one of them in its arm
    places = {name: share for share, names in (sweep.get("budgets") or {}).items() for name in names}
    budgets: dict[str, list[Run]] = {share: [] for share in dict.fromkeys(places.values())}
    for run in (run for run in runs if run.folder.name in places):
        budgets[places[run.folder.name]].append(run)
    runs = [run for run in runs if run.folder.name not in places and run.phase != BUDGET]
    judged = JudgedValues.of(sweep)
    if not judged.beside and any(run.phase == NEIGHBOUR for run in runs):
        tuned = bool(sweep.get("tune"))
        raise (NoRunsYet if tuned else ConfigError)(_without_values(paths, tuned=tuned))
    untuned = [run for run in runs if run.phase != TUNE]
    compared = [run for run in untuned if judged.is_chosen(run)]
    if not compared:
        raise NoRunsYet(f"compare {paths[0]}: has only tuning runs so far; run `gptlab sweep` to its end")
    arms = group_arms(compared, SweepFile.of(sweep))
    return CollectedRuns(
        arms=arms,
        tuning=[run for run in runs if run.phase == TUNE],
        neighbours=[run for run in untuned if judged.is_beside(run)],
        sweep=sweep,
        repeats=repeats + len(compared) - sum(len(arm.runs) for arm in arms),
        budgets=budgets,
        first=frozenset(first),
    )


def _of_baseline(runs: Sequence[Run], sweep: dict[str, Any]) -> set[Path]:
    """Return the folders of the runs of a sweep's first arm, or of all `runs` if the sweep names none."""
    arms = SweepFile.of(sweep).arms
    baseline = {run.folder for run in runs if arms and run.folder.name in arms[0]}
    return baseline or {run.folder for run in runs}


def _without_values(paths: Sequence[str | Path], tuned: bool) -> str:
    """Return why tuned arms cannot be judged if nothing says which values their sweep has chosen."""
    named = " ".join(map(str, paths))
    if tuned:
        return f"compare {named}: the values of the tuned arms are not chosen again yet; run `gptlab sweep` to its end"
    rule = "tuned arms are judged at the values in the sweep.yaml of their sweep"
    return f"compare {named}: {rule}; name one sweep alone, or its file from --keep"


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
    sweep, plan = SweepFile.of(collected.sweep), Plan.of(collected.sweep)
    chosen_metric = choose_metric(metric, plan, collected.arms)
    _refuse_unknown(chosen_metric, collected.arms)
    arms, departures = _in_order(collected, chosen_metric, baseline, defaults)
    by_label = dict(zip(labels := names(arms), arms, strict=True))
    usual_against = sweep.against or AGAINST[0]
    references = _references(labels, against or usual_against)
    departures += [f"--against {against}"] if against and against != usual_against else []
    if baseline is None and plan.baseline in labels[1:]:
        departures.append(f"the baseline {labels[0]}")  # the file has named another one since
    at_budgets = [best_of_seeds(runs, chosen_metric) for runs in collected.budgets.values()]
    same_model = [arm.runs for arm in arms[1:] if _differs_in_budget_alone(arm, arms[0])]
    margins = choose_margin(
        plan.margin if margin is None else margin, chosen_metric, arms[0], [*at_budgets, *same_model]
    )
    other_margin = str(margin) if margin is not None and str(margin) != plan.margin else None
    metrics = chosen_metric, choose_metric(None, plan, collected.arms)
    kept = standing(plan, arms, metrics, departures, other_margin)
    chosen = JudgedValues.of(collected.sweep).chosen
    tuning = tunings(collected.around_chosen_values, arms, labels, sweep, chosen_metric, chosen)
    speeds = {label: [r.number("speed/tokens_per_s") for r in finished_runs(arm)] for label, arm in by_label.items()}
    refused = notes_at_edges(tuning, labels) | _on_a_shared_machine(by_label, speeds)
    rules = Rules(chosen_metric, margins.value, plan.arms - 1 + plan.left_out, kept.marks, plan.looks(arms))
    judged = judge(by_label, references, rules, refused)
    results = [_result(arm, label, arms[0], references.get(label), judged) for label, arm in by_label.items()]
    results = with_multipliers(results, other_budgets(at_budgets, chosen_metric), judged, speeds)
    comparable = same_verdicts(*metrics) and set(references.values()) <= {sweep.baseline}  # with what was published
    curve_metric, curves = _curves(by_label, chosen_metric)
    metric_curves = curves if curve_metric == chosen_metric else _curves_of(by_label, chosen_metric)
    return Comparison(
        metric=chosen_metric,
        question=sweep.question,
        literature=sweep.literature,
        command=shown_command(sweep.command) if sweep.command else None,
        margin=margins.value,
        margin_text=margins.text,
        noise=judged.scores[labels[0]].std(),
        results=results,
        equal_budgets=compare_at_equal_budgets(Inputs(metric_curves, results, speeds, judged.rules, judged.evidence)),
        tuning=tuning,
        factorial=factorial(
            [_alike(result, judged.evidence.unlike) for result in results],
            rules,
            replace(judged.evidence, refused=refused),
            left_out=[*sweep.tune, *(key for entry in sweep.matched for key in entry["changed"])],
        ),
        curves=curves,
        curve_metric=curve_metric,
        hardware=hardware(collected.runs),
        runs=list_runs(by_label, collected.runs, list(sweep.tune), chosen_metric),
        breakdowns=breakdowns({label: finished_runs(arm) for label, arm in by_label.items()}),
        matched=sweep.matched,
        snapshots={label: _snapshots(arm) for label, arm in by_label.items()},
        family=judged.rules.family,
        planned=plan.known,
        standing=kept.mark or (INTERIM if judged.open else ""),
        reasons=kept.reasons + judged.open,
        looks=judged.rules.looks,
        whole=judged.whole,
        published=beside_published(sweep.published if comparable else {}, by_label, judged, refused),
        commits=commits(collected.runs),
        repeats=collected.repeats,
        setup=setup([run for arm in arms for run in arm.runs]),
        experiment_file=shown_file(sweep.experiment_file) if sweep.experiment_file else None,
        samples={label: text for label, arm in by_label.items() if (text := sample_of(arm.runs))},
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
