"""Run the rungs of an experiment, from the first on. Arms that lose at a rung can be left out of the next ones."""

from collections.abc import Callable, Mapping, Sequence

from gptlab.runs.states import RunState
from gptlab.sweeps.arms import Overrides, SweepPlan
from gptlab.sweeps.cell import CheckedSweep
from gptlab.sweeps.next_rung import next_plan, words_at, write_rungs

Run = Callable[[CheckedSweep], tuple[CheckedSweep, Mapping[str, Overrides] | None]]


def run_rungs(
    sweeps: Sequence[CheckedSweep],
    run: Run,
    check: Callable[[SweepPlan], CheckedSweep],
    say: Callable[[str], None],
) -> list[CheckedSweep]:
    """Run each rung to its end before the next one, and return those that were run.

    Args:
        sweeps: the rungs, all checked, with all arms.
        run: runs a rung, and returns it with the tuned values that were chosen.
        check: checks the plan of a rung that depends on what an earlier one showed.
        say: prints a line.

    Raises:
        ConfigError: the folder cannot be written, or a cell of a changed plan has a problem.
    """
    plans = [checked.plan for checked in sweeps]
    experiment, folder = plans[0].experiment, sweeps[0].folder.parent
    going = [arm.name for arm in plans[0].arms]
    arms = {rung.name: going for rung in (experiment.rungs[:1] if experiment.promote else experiment.rungs)}
    carried: Mapping[str, Overrides] | None = None
    ended: list[CheckedSweep] = []
    for checked in sweeps:
        name = title_of(checked.plan)
        if ended and experiment.promote:
            going = _promoted(ended[-1], going, experiment.promote, say)
            arms[_rung_of(checked.plan)] = going
            if len(going) < 2:
                arms |= {rung.name: going for rung in experiment.rungs if rung.name not in arms}
        write_rungs(folder, plans, arms)
        if experiment.promote and len(going) < 2:
            say(f"{name}: no arm goes on to this rung, nor to a later one")
            break
        if ended and (experiment.promote or carried is not None):
            checked = check(next_plan(checked.plan, going, plans[0], carried))
        say(f"{name}: {', '.join(going)}")
        done, chosen = run(checked)
        if not ended and experiment.tune_at == "first":
            carried = chosen
        ended.append(done)
        if _has_failures(done) and (experiment.promote or carried is not None):
            say(f"{name}: has failed cells, on which the next rung depends; mend them and start with --retry")
            break
    return ended


def title_of(plan: SweepPlan) -> str:
    """Return the name of a sweep, with its rung if it has one."""
    return f"{plan.name} at {plan.rung.name}" if plan.rung else plan.name


def _promoted(before: CheckedSweep, arms: Sequence[str], words: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """Return the baseline and the arms of a rung whose word takes them to the next one."""
    found = words_at(before.folder)
    baseline, *others = arms
    kept = [arm for arm in others if found.get(arm) in words]
    left = [f"{arm} ({found.get(arm, 'no verdict')})" for arm in others if arm not in kept]
    if left:
        say(f"{title_of(before.plan)}: left out of the next rungs: {', '.join(left)}")
    return [baseline, *kept]


def _rung_of(plan: SweepPlan) -> str:
    return plan.rung.name if plan.rung else ""


def _has_failures(checked: CheckedSweep) -> bool:
    return any(cell.state == RunState.FAILED for cell in (*checked.tuning, *checked.cells))
