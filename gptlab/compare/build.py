"""Runs on disk, or a file that kept them -> a Comparison."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare.analysis.arms import Arm, as_text, choose_baseline, group_arms, names
from gptlab.compare.analysis.breakdowns import breakdowns
from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.analysis.effects import compare_scores
from gptlab.compare.analysis.equal_budget import read_all
from gptlab.compare.analysis.factorial import factorial
from gptlab.compare.analysis.provenance import hardware, list_runs
from gptlab.compare.analysis.tuning_curves import tunings, value
from gptlab.compare.archive import is_kept, read_kept
from gptlab.compare.read.anonymise import shorten, shown_command, shown_folder
from gptlab.compare.read.runs import Run, Sweep, load_runs, load_sweep, read_curves
from gptlab.config import ConfigError
from gptlab.runs.record import read_snapshots

MARGIN = 0.005  # of the baseline's mean, where none is said
AGAINST = ("baseline", "previous")
COSTS = ("parameters", "parameters_non_embedding", "flops_per_token", "state_bytes")
SPENT = {"seconds": "seconds", "tokens": "tokens", "steps": "step"}  # the name in Result.costs -> in summary.json


@dataclass(frozen=True)
class Material:
    """What a comparison is made of, whatever is asked of it."""

    arms: list[Arm]  # in the order of the experiment
    tuning: list[Run]
    sweep: dict[str, Any]  # the content of sweep.yaml
    repeats: int  # runs that another with the same config and seed replaces

    @property
    def runs(self) -> list[Run]:
        return [*(run for arm in self.arms for run in arm.runs), *self.tuning]


def gather(paths: Iterable[str | Path]) -> Material:
    """The runs in `paths`: run folders, folders above them, files that `--keep` wrote."""
    paths = list(paths)
    folders = [path for path in paths if not is_kept(path)]
    runs = load_runs(folders) if folders else []
    sweep, repeats = load_sweep(runs) if runs else {}, 0
    for path in (path for path in paths if is_kept(path)):
        kept = read_kept(Path(path))
        sweep = kept.sweep if len(paths) == 1 else {}
        runs, repeats = runs + kept.runs, repeats + kept.repeats
    runs = [replace(r, config=c) for r, c in zip(runs, shorten([r.config for r in runs]), strict=True)]
    chosen = sweep.get("chosen") or {}
    compared = [run for run in runs if run.phase != "tune" and not superseded(run, chosen)]
    if not compared:
        raise ConfigError(f"compare {paths[0]}: has tuning runs only, so far; run `gptlab sweep` to its end")
    arms = group_arms(compared, Sweep.of(sweep))
    repeats += len(compared) - sum(len(arm.runs) for arm in arms)
    return Material(arms, [run for run in runs if run.phase == "tune"], sweep, repeats)


def superseded(run: Run, chosen: Mapping[str, Sequence[str]]) -> bool:
    """Whether a run has another value than its arm's tuning chose in the end: one of an earlier, smaller tuning."""
    words = [word.partition("=") for word in chosen.get(run.config.get("variant") or "", ())]
    settings = as_text(run.config) if words else {}
    return any(value(settings.get(key, "null")) != value(text.strip("'")) for key, _, text in words)


def build_comparison(paths: Iterable[str | Path], **options: Any) -> Comparison:
    """The runs in `paths` compared; `options` are those of `build`."""
    return build(gather(paths), **options)


def build(
    material: Material,
    *,
    metric: str = "val/loss",
    baseline: str | None = None,
    against: str | None = None,
    margin: float | None = None,
    defaults: dict[str, Any] | None = None,
) -> Comparison:
    """`metric` is a key of summary.json, `margin` is in its unit.

    `defaults` is gptlab's own baseline config, nested or flat: without `baseline` and without a sweep.yaml that names
    one, the arm nearest to it is the baseline. `against`: whether each arm is compared with it or with the previous.
    """
    _refuse_unknown(metric, material.arms)
    sweep = Sweep.of(material.sweep)
    first = choose_baseline(material.arms, baseline, sweep, defaults)
    arms = [first, *(arm for arm in material.arms if arm is not first)]
    labels = names(arms)
    by_label = dict(zip(labels, arms, strict=True))
    scores = {label: _scores(arm, metric) for label, arm in by_label.items()}
    diverged = {label: _seeds(arm, "diverged") for label, arm in by_label.items()}
    margin = _margin(margin, scores[labels[0]].mean())
    references = _references(labels, against or sweep.against or AGAINST[0])
    effects = compare_scores(scores, references, diverged, metric=metric, margin=margin)
    results = [
        _result(arm, label, arms[0], references.get(label), scores[label], effects.get(label))
        for label, arm in by_label.items()
    ]
    curve_metric, curves = _curves(by_label, metric)
    speeds = {label: [r.number("speed/tokens_per_s") for r in _finished(arm)] for label, arm in by_label.items()}
    read = curves if curve_metric == metric else _curves_of(by_label, metric)
    follows = [*sweep.tune, *(key for entry in sweep.matched for key in entry["changed"])]
    return Comparison(
        metric=metric,
        question=sweep.question,
        literature=sweep.literature,
        command=shown_command(sweep.command) if sweep.command else None,
        margin=margin,
        noise=scores[labels[0]].std(),
        results=results,
        readings=read_all(metric, read, results, diverged, speeds, margin),
        tuning=tunings(material.tuning, arms, labels, sweep, metric),
        factorial=factorial(results, follows),
        curves=curves,
        curve_metric=curve_metric,
        hardware=hardware(material.runs),
        runs=list_runs(by_label, material.tuning, list(sweep.tune), metric),
        breakdowns=breakdowns({label: _finished(arm) for label, arm in by_label.items()}),
        matched=sweep.matched,
        looks={label: _looks(arm) for label, arm in by_label.items()},
        repeats=material.repeats,
    )


def _finished(arm: Arm) -> list[Run]:
    return [run for run in arm.runs if run.state == "finished"]


def _seeds(arm: Arm, state: str) -> list[int]:
    return [run.seed for run in arm.runs if run.state == state]


def _scores(arm: Arm, metric: str) -> pd.Series:
    """The metric of the finished runs, by seed."""
    return pd.Series({run.seed: run.number(metric) for run in _finished(arm) if metric in run.summary}, dtype=float)


def _refuse_unknown(metric: str, arms: Sequence[Arm]) -> None:
    """Some arms may lack a metric, as learned positions do in longer windows; not all of them."""
    finished = [run for arm in arms for run in _finished(arm)]
    if finished and not any(metric in run.summary for run in finished):
        known = [key for key, value in finished[0].summary.items() if type(value) in (int, float)]
        place = f"{shown_folder(finished[0].folder)}/summary.json"
        raise ConfigError(f"metric={metric}: not in {place}; choose from {', '.join(known)}")


def _margin(said: float | None, mean: float) -> float:
    if said is not None and not said > 0:
        raise ConfigError(f"margin={said:g}: must be above 0, in the metric's unit; leave it out for 0.5% of the mean")
    return MARGIN * abs(mean) if said is None else said


def _references(labels: Sequence[str], against: str) -> dict[str, str]:
    """For each arm but the first the one that it is compared with."""
    if against not in AGAINST:
        raise ConfigError(f"against={against}: choose from {', '.join(AGAINST)}")
    return {label: labels[i if against == "previous" else 0] for i, label in enumerate(labels[1:])}


def _result(arm: Arm, label: str, baseline: Arm, reference: str | None, scores: pd.Series, effect: Any) -> Result:
    states = Counter(run.state for run in arm.runs)
    ended = {state: states[state] for state in ("finished", "diverged", "failed")}
    return Result(
        arm=arm,
        name=label,
        reference=reference,
        differs=arm.changes(baseline),
        scores=scores,
        mean=scores.mean(skipna=False),
        sd=scores.std(skipna=False),
        states={**ended, "unfinished": len(arm.runs) - sum(ended.values())},
        costs={
            **{key: _median(arm.runs, key) for key in COSTS},
            "tokens_per_s": _median(arm.runs, "speed/tokens_per_s"),
            **{name: _median(_finished(arm), key) for name, key in SPENT.items()},
        },
        effect=effect,
    )


def _median(runs: Sequence[Run], key: str) -> float:
    known = [x for x in (run.number(key) for run in runs) if x == x]  # not NaN
    return float(np.median(known)) if known else float("nan")


def _looks(arm: Arm) -> list[dict[str, Any]]:
    """Kept runs have none."""
    return next((looks for run in arm.runs if run.points is None and (looks := read_snapshots(run.folder))), [])


def _curves(arms: Mapping[str, Arm], metric: str) -> tuple[str, dict[str, pd.DataFrame]]:
    """The metric, or the first of the usual losses, that a run has logged twice; and its curves."""
    for key in dict.fromkeys((metric, "val/loss", "train/loss")):
        curves = _curves_of(arms, key)
        if any(len(own) > own["seed"].nunique() for own in curves.values()):
            return key, curves
    return metric, _curves_of(arms, metric)


def _curves_of(arms: Mapping[str, Arm], metric: str) -> dict[str, pd.DataFrame]:
    return {label: read_curves(arm.runs, metric) for label, arm in arms.items()}
