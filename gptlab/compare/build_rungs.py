"""Build a comparison over rungs from the folder of an experiment, or from a file written by --keep."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptlab.compare.analysis.over_rungs import RungsComparison, over_rungs
from gptlab.compare.archive import kept_rungs
from gptlab.compare.build import build
from gptlab.compare.collect import CollectedRuns, NoRunsYet, collect_runs
from gptlab.compare.read.anonymise import shown_command, shown_file
from gptlab.compare.read.rungs_file import RungsFile, has_rungs, read_rungs_file
from gptlab.compare.read.runs import has_runs
from gptlab.config import ConfigError


@dataclass(frozen=True)
class CollectedRungs:
    """The runs at each rung that has some, independent of a comparison's options."""

    file: RungsFile
    rungs: Mapping[str, CollectedRuns]


def collect_rungs(paths: Sequence[str | Path]) -> CollectedRungs | None:
    """Load the runs of an experiment with rungs; return None if the paths are none.

    Raises:
        ConfigError: it is named together with other paths, or has no runs yet.
    """
    tops = [Path(path) for path in paths]
    found = [(path, kept_rungs(path)) for path in tops]
    top, kept = next(((path, kept) for path, kept in found if kept or has_rungs(path)), (None, None))
    if top is None:
        return None
    if len(tops) > 1:
        raise ConfigError(f"compare {top}: has rungs, which are compared alone; name it alone, or one of its rungs")
    if kept:
        file, names = kept
        return CollectedRungs(file, {name: collect_runs([top], rung=name) for name in names})
    file = read_rungs_file(top)
    file = replace(
        file,
        command=shown_command(file.command) if file.command else None,
        experiment_file=shown_file(file.experiment_file) if file.experiment_file else None,
    )
    begun: dict[str, CollectedRuns] = {}
    for rung in (rung for rung in file.rungs if has_runs(top / rung.name)):
        with suppress(NoRunsYet):  # while its arms are tuned
            begun[rung.name] = collect_runs([top / rung.name])
    if not begun:
        raise ConfigError(f"compare {top}: no runs to compare yet; run `gptlab sweep`")
    return CollectedRungs(file, begun)


def build_rungs(collected: CollectedRungs, **options: Any) -> RungsComparison:
    """Compare the arms at each rung and over the rungs; `options` are those of gptlab.compare.build.build."""
    comparisons = {name: build(runs, **options) for name, runs in collected.rungs.items()}
    return over_rungs(collected.file, comparisons)
