"""Collect the runs that a comparison is made from: from folders of runs, or from files written by --keep."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gptlab.compare.analysis.arms import Arm, group_arms, identity
from gptlab.compare.analysis.tuned_arms import JudgedValues
from gptlab.compare.archive import is_archive, read_archive
from gptlab.compare.read.anonymise import shorten
from gptlab.compare.read.runs import BUDGET, NEIGHBOUR, TUNE, Run, SweepFile, load_runs, load_sweep
from gptlab.config import ConfigError


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
