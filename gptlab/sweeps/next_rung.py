"""From one rung of an experiment to the next: the arms that go on, and the tuned values that they start from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from gptlab.compare import build_comparison
from gptlab.compare.read.rungs_file import NAME, RungEntry, RungsFile, has_rungs, read_rungs_file
from gptlab.config import ConfigError
from gptlab.files import write_text
from gptlab.sweeps.arms import Overrides, SweepPlan
from gptlab.sweeps.cell import CheckedSweep
from gptlab.sweeps.manifest import NAME as SWEEP_FILE
from gptlab.sweeps.manifest import command_line, has_ended, refuse_other_looks
from gptlab.sweeps.rungs import Rung
from gptlab.sweeps.tuning_grid import TuningGrid

OTHER_NAME = "give another name="


def words_at(folder: Path) -> dict[str, str]:
    """Return the verdict's word on each arm of a rung but the baseline."""
    return {result.name: result.effect.word for result in build_comparison([folder]).results if result.effect}


def next_plan(
    plan: SweepPlan, arms: Sequence[str], before: SweepPlan, chosen: Mapping[str, Overrides] | None
) -> SweepPlan:
    """Return the plan of a rung for the arms that go on to it.

    Args:
        plan: of the rung, with all arms.
        arms: the names of those that go on, the baseline among them.
        before: the first rung as it was planned, before its grids were extended.
        chosen: the tuned values of each arm at the first rung; None if every rung searches its own.
    """
    kept = [replace(arm, baseline=0) for arm in plan.arms if arm.name in arms]
    grids = {name: grid for name, grid in plan.grids.items() if name in arms}
    plan = replace(plan, arms=kept, grids=grids, left_out=len(plan.arms) - len(kept))
    if chosen is None or not plan.tune:
        return plan
    moved = {
        arm.name: _moved(plan.grids[arm.name], before.grids[arm.name], chosen[arm.name])
        for arm in kept
        if arm.name in chosen
    }
    return replace(
        plan,
        grids={**plan.grids, **{name: grid for name, (grid, _) in moved.items()}},
        carried={name: centre for name, (_, centre) in moved.items()},
    )


def _moved(grid: TuningGrid, before: TuningGrid, chosen: Overrides) -> tuple[TuningGrid, Overrides]:
    """Return the grid of a rung around the values that were chosen at the first rung, and those values.

    An automatic grid starts around the arm's own value at each rung. What is carried is the ratio to it: a learning
    rate that was best at twice the default of its size is tried at twice the default of the next size.
    """
    ratios = {key: float(chosen[key]) / float(before.values[key][1]) for key in grid.auto}
    own = {key: float(grid.values[key][1]) * ratio for key, ratio in ratios.items()}
    around = TuningGrid.of({key: list(texts) for key, texts in grid.values.items()}, own)
    return around, {key: around.values[key][1] if key in own else text for key, text in chosen.items()}


def refuse_other_plan(checked: CheckedSweep) -> None:
    """Refuse a sweep whose name was planned otherwise: with looks or rungs that this one does not have.

    Raises:
        ConfigError: the earlier plan stands.
    """
    refuse_other_looks(checked)
    plan, folder = checked.plan, checked.folder
    if plan.rung is None:
        if has_rungs(folder):
            raise ConfigError(
                f"name={plan.name}: {folder} is an experiment with rungs, and this has none; {OTHER_NAME}"
            )
        return
    if (folder.parent / SWEEP_FILE).is_file():
        raise ConfigError(
            f"name={plan.name}: {folder.parent} is a sweep without rungs, and this has some; {OTHER_NAME}"
        )
    entry = next((entry for entry in _entries(folder.parent) if entry.name == plan.rung.name), None)
    if entry and sorted(entry.overrides) != sorted(plan.rung.overrides) and has_ended(folder):
        was = " ".join(entry.overrides) or "no override"
        raise ConfigError(f"rungs: {plan.rung.name} was run with {was} in {folder}; give the rung another name")


def _entries(folder: Path) -> Sequence[RungEntry]:
    return read_rungs_file(folder).rungs if has_rungs(folder) else []


def arms_at(folder: Path, rung: str) -> list[str] | None:
    """Return the names of the arms that run at a rung of an experiment that was begun; None if that is not known."""
    entry = next((entry for entry in _entries(folder) if entry.name == rung), None)
    return list(entry.arms) if entry and entry.arms else None


def write_rungs(folder: Path, plans: Sequence[SweepPlan], arms: Mapping[str, Sequence[str]]) -> None:
    """Write rungs.yaml.

    Args:
        folder: of the experiment.
        plans: of its rungs, with all arms.
        arms: the names of the arms that run at each rung where that is known.

    Raises:
        ConfigError: the folder cannot be written.
    """
    plan, experiment = plans[0], plans[0].experiment
    content = RungsFile(
        question=experiment.question,
        literature=experiment.literature,
        published=experiment.published,
        command=command_line(),
        experiment_file=experiment.text,
        arms=[arm.name for arm in plan.arms],
        rungs=[
            RungEntry(
                rung.name, list(rung.overrides), None if rung.flops is None else float(rung.flops), arms.get(rung.name)
            )
            for rung in experiment.rungs
        ],
        promote=experiment.promote,
        tune_at=experiment.tune_at if plan.tune else None,
        target_flops=experiment.target_flops,
        planned=_planned(folder, experiment.rungs),
    )
    try:
        write_text(folder / NAME, json.dumps(asdict(content), indent=1) + "\n")  # JSON is YAML
    except OSError as e:
        raise ConfigError(f"runs_dir={folder.parent}: cannot be written ({e.strerror}); give another") from e


def _planned(folder: Path, rungs: Sequence[Rung]) -> list[str]:
    """Return the names of the rungs, or of those that were planned when the first run of the comparison ended.

    An arm could otherwise become better at all rungs when the rung at which it is not is taken out.
    """
    names = [rung.name for rung in rungs]
    if not any(has_ended(folder / entry.name) for entry in _entries(folder)):
        return names
    return list(read_rungs_file(folder).planned or names)
