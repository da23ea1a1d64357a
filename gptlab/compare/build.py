"""Build a Comparison from runs on disk, or from a file written by --keep."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis.arms import Arm, choose_baseline, group_arms, names
from gptlab.compare.analysis.breakdowns import breakdowns
from gptlab.compare.analysis.comparison import Comparison, Effect, Result
from gptlab.compare.analysis.effects import compare_scores
from gptlab.compare.analysis.equal_budget import Inputs, compare_at_equal_budgets
from gptlab.compare.analysis.factorial import factorial
from gptlab.compare.analysis.provenance import hardware, list_runs, unlike_pairs
from gptlab.compare.analysis.tuned_arms import JudgedValues, at_best_values
from gptlab.compare.analysis.tuning_curves import tunings
from gptlab.compare.archive import is_archive, read_archive
from gptlab.compare.columns import COLUMNS
from gptlab.compare.read.anonymise import shorten, shown_command, shown_folder
from gptlab.compare.read.runs import Run, SweepFile, load_runs, load_sweep, read_curves
from gptlab.config import ConfigError
from gptlab.runs.record import read_snapshots
from gptlab.runs.states import SETTLED, RunState

DEFAULT_MARGIN = 0.005  # as a fraction of the baseline's mean
AGAINST = ("baseline", "previous")
TUNE = "tune"  # the phase of a run that only chooses a value


@dataclass(frozen=True)
class CollectedRuns:
    """The runs that a comparison is made from, independent of its options."""

    arms: list[Arm]  # in the order of the experiment
    tuning: list[Run]
    neighbours: list[Run]  # runs of tuned arms beside the chosen values
    sweep: dict[str, Any]  # the content of sweep.yaml
    repeats: int  # runs replaced by another with the same config and seed
    first: frozenset[Path] = frozenset()  # the folders of the runs in the first path

    @property
    def runs(self) -> list[Run]:
        """All runs, those of the tuning last."""
        return [*(run for arm in self.arms for run in arm.runs), *self.neighbours, *self.tuning]

    @property
    def around_chosen_values(self) -> list[Run]:
        """The runs that show how tuned arms depend on the tuned settings."""
        return [run for run in self.runs if run.phase == TUNE or self.neighbours]


def collect_runs(paths: Iterable[str | Path]) -> CollectedRuns:
    """Load the runs in `paths`: folders of runs, folders above them, or files written by --keep."""
    paths = list(paths)
    folders = [path for path in paths if not is_archive(path)]
    runs = load_runs(folders) if folders else []
    sweep, repeats = load_sweep(runs) if runs else {}, 0
    first = {run.folder for run in load_runs(paths[:1])} if folders[:1] == paths[:1] else set()
    for path in (path for path in paths if is_archive(path)):
        archive = read_archive(Path(path))
        first |= {run.folder for run in archive.runs if path is paths[0]}
        sweep = archive.sweep if len(paths) == 1 else {}
        runs, repeats = runs + archive.runs, repeats + archive.repeats
    runs = [replace(r, config=c) for r, c in zip(runs, shorten([r.config for r in runs]), strict=True)]
    judged = JudgedValues.of(sweep)
    untuned = [run for run in runs if run.phase != TUNE]
    compared = [run for run in untuned if judged.is_chosen(run)]
    if not compared:
        raise ConfigError(f"compare {paths[0]}: has only tuning runs so far; run `gptlab sweep` to its end")
    arms = group_arms(compared, SweepFile.of(sweep))
    return CollectedRuns(
        arms=arms,
        tuning=[run for run in runs if run.phase == TUNE],
        neighbours=[run for run in untuned if judged.is_beside(run)],
        sweep=sweep,
        repeats=repeats + len(compared) - sum(len(arm.runs) for arm in arms),
        first=frozenset(first),
    )


def build_comparison(paths: Iterable[str | Path], **options: Any) -> Comparison:
    """Compare the runs in `paths`; `options` are those of `build`."""
    return build(collect_runs(paths), **options)


def build(
    collected: CollectedRuns,
    *,
    metric: str = "val/loss",
    baseline: str | None = None,
    against: str | None = None,
    margin: float | None = None,
    defaults: dict[str, Any] | None = None,
) -> Comparison:
    """Compare the arms of the collected runs.

    Args:
        collected: the runs.
        metric: a key of summary.json.
        baseline: label or changes of an arm; by default sweep.yaml's baseline, or the arm nearest to `defaults`.
        against: compare each arm with the "baseline" or with the "previous" arm.
        margin: differences below it do not matter, in the unit of the metric; by default 0.5 % of the baseline's mean.
        defaults: the config of gptlab's own baseline, nested or flat.

    Raises:
        ConfigError: if an option does not fit the runs.
    """
    _refuse_unknown(metric, collected.arms)
    sweep = SweepFile.of(collected.sweep)
    judged = JudgedValues.of(collected.sweep)
    arms = at_best_values(collected.arms, collected.neighbours, judged, list(sweep.tune), metric)
    first = choose_baseline(arms, baseline, sweep, defaults, collected.first)
    arms = [first, *(arm for arm in arms if arm is not first)]
    by_label = dict(zip(labels := names(arms), arms, strict=True))
    scores = {label: _scores(arm, metric) for label, arm in by_label.items()}
    diverged = {label: _seeds(arm, RunState.DIVERGED) for label, arm in by_label.items()}
    margin = _margin(margin, scores[labels[0]].mean())
    references = _references(labels, against or sweep.against or AGAINST[0])
    unlike = unlike_pairs(by_label, references)
    effects = compare_scores(scores, references, diverged, metric=metric, margin=margin, unlike=unlike)
    results = [
        _result(arm, label, arms[0], references.get(label), scores[label], effects.get(label))
        for label, arm in by_label.items()
    ]
    curve_metric, curves = _curves(by_label, metric)
    speeds = {label: [r.number("speed/tokens_per_s") for r in _finished(arm)] for label, arm in by_label.items()}
    metric_curves = curves if curve_metric == metric else _curves_of(by_label, metric)
    dependent = [*sweep.tune, *(key for entry in sweep.matched for key in entry["changed"])]
    return Comparison(
        metric=metric,
        question=sweep.question,
        literature=sweep.literature,
        command=shown_command(sweep.command) if sweep.command else None,
        margin=margin,
        noise=scores[labels[0]].std(),
        results=results,
        equal_budgets=compare_at_equal_budgets(
            Inputs(metric, metric_curves, results, diverged, speeds, margin, unlike)
        ),
        tuning=tunings(collected.around_chosen_values, arms, labels, sweep, metric, judged.chosen),
        factorial=factorial([_alike(result, unlike) for result in results], dependent),
        curves=curves,
        curve_metric=curve_metric,
        hardware=hardware(collected.runs),
        runs=list_runs(by_label, collected.runs, list(sweep.tune), metric),
        breakdowns=breakdowns({label: _finished(arm) for label, arm in by_label.items()}),
        matched=sweep.matched,
        snapshots={label: _snapshots(arm) for label, arm in by_label.items()},
        repeats=collected.repeats,
    )


def _finished(arm: Arm) -> list[Run]:
    return [run for run in arm.runs if run.state == RunState.FINISHED]


def _seeds(arm: Arm, state: str) -> list[int]:
    return [run.seed for run in arm.runs if run.state == state]


def _scores(arm: Arm, metric: str) -> pd.Series:
    """Return the metric of the finished runs, by seed."""
    return pd.Series({run.seed: run.number(metric) for run in _finished(arm) if metric in run.summary}, dtype=float)


def _refuse_unknown(metric: str, arms: Sequence[Arm]) -> None:
    """Reject a metric that no arm has. One arm may lack it: learned positions allow no longer windows."""
    finished = [run for arm in arms for run in _finished(arm)]
    if finished and not any(metric in run.summary for run in finished):
        known = [key for key, value in finished[0].summary.items() if type(value) in (int, float)]
        path = f"{shown_folder(finished[0].folder)}/summary.json"
        raise ConfigError(f"metric={metric}: not in {path}; choose from {', '.join(known)}")


def _margin(wanted: float | None, mean: float) -> float:
    if wanted is not None and not wanted > 0:
        rule = "must be above 0, in the metric's unit; leave it out for 0.5% of the mean"
        raise ConfigError(f"margin={wanted:g}: {rule}")
    return DEFAULT_MARGIN * abs(mean) if wanted is None else wanted


def _references(labels: Sequence[str], against: str) -> dict[str, str]:
    """Return the arm that each arm but the first is compared with."""
    if against not in AGAINST:
        raise ConfigError(f"against={against}: choose from {', '.join(AGAINST)}")
    return {label: labels[i if against == "previous" else 0] for i, label in enumerate(labels[1:])}


def _result(
    arm: Arm, label: str, baseline: Arm, reference: str | None, scores: pd.Series, effect: Effect | None
) -> Result:
    counts = Counter(run.state for run in arm.runs)
    states = {str(state): counts[state] for state in SETTLED}
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
            column.key: _median(_finished(arm) if column.finished_runs_only else arm.runs, column.summary_key)
            for column in COLUMNS
        },
        effect=effect,
    )


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
