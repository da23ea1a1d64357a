"""Tuning: every arm is judged around its own best values.

search       On the tuning seeds each arm tries the values of its grid. An automatic grid is extended until its best
             value is neither the lowest nor the highest.
comparison   Every seed runs the best values and their neighbours, for one setting three values. Its score is that of
             the best of these runs, so that the noise of choosing a value is in the spread of the scores. If a
             neighbour is better in the mean over the seeds, it becomes the centre and the seeds run its neighbours too.

With a value chosen on the tuning seeds alone, two arms that respond to it alike would often get different values, and
be told apart by that: see docs/verdicts.md.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from gptlab.runs.states import OUTCOMES
from gptlab.sweeps.arms import BUDGET, CellSpec, Overrides, SweepPlan
from gptlab.sweeps.cell import Cell

Point = tuple[tuple[str, str], ...]  # the items of a combination of values


@dataclass
class Stage:
    """Cells that must end before a sweep can go on; whoever runs them puts them into `cells`."""

    plan: SweepPlan
    searches: bool = False  # whether its cells only search values
    chosen: Mapping[str, Overrides] | None = None  # the values of each arm in the comparison, if some are tuned
    cells: list[Cell] = field(default_factory=list)

    @property
    def specs(self) -> list[CellSpec]:
        """The cells to be run, some of which ended in an earlier stage."""
        if self.searches:
            return self.plan.tuning_cells
        compared = self.plan.cells if self.chosen is None else self.plan.cells_with(self.chosen)
        return compared + self.plan.budget_cells(self.chosen)


def stages(plan: SweepPlan, after_look: Callable[[SweepPlan], SweepPlan] = lambda plan: plan) -> Iterator[Stage]:
    """Yield each stage of the search and then of the comparison; the last one has the cells that are compared.

    Args:
        plan: the sweep.
        after_look: is called when all cells so far have ended at the best values, and returns the plan with more seeds,
            or the plan itself if it is done.
    """
    chosen = plan.carried
    while plan.tune and chosen is None:
        yield (stage := Stage(plan, searches=True))
        chosen = best_values(stage.cells)
        wider = extended(plan, chosen)
        if wider is plan:
            break
        plan = wider
    while True:
        yield (stage := Stage(plan, chosen=chosen))
        compared = [cell for cell in stage.cells if cell.spec.phase != BUDGET]
        if chosen is not None and (better := recentred(chosen, compared)) != chosen:
            chosen, plan = better, extended(plan, better)
            continue
        wider = after_look(plan)
        if wider is plan:
            return
        plan = wider


def best_values(tuning: Sequence[Cell]) -> dict[str, Overrides]:
    """Return for each arm the combination of values with the lowest mean val/loss over the tuning seeds.

    A diverged cell counts as infinitely bad. The first of equally good combinations is taken. An arm with a cell that
    failed or is not done is left out, since its best value is not known.
    """
    losses: dict[str, dict[Point, list[float]]] = defaultdict(lambda: defaultdict(list))
    unknown = set()
    for cell in tuning:
        arm, values = cell.spec.arm.name, tuple(cell.spec.tuned.items())
        if cell.state in OUTCOMES:
            losses[arm][values].append(cell.loss)
        else:
            unknown.add(arm)
    return {arm: dict(_best(by_values)) for arm, by_values in losses.items() if arm not in unknown}


def extended(plan: SweepPlan, best: Mapping[str, Overrides]) -> SweepPlan:
    """Return the plan with wider grids where a best value is at an end of an automatic one, or else `plan` itself."""
    grids = {arm: grid.beyond(best[arm]) if arm in best else grid for arm, grid in plan.grids.items()}
    return plan if grids == plan.grids else replace(plan, grids=grids)


def recentred(chosen: Mapping[str, Overrides], cells: Sequence[Cell]) -> dict[str, Overrides]:
    """Return for each arm the values that are best in the mean over the seeds of the comparison.

    A seed counts once all its runs have an outcome; an arm without such a seed keeps its values.
    """
    by_seed: dict[str, dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        by_seed[cell.spec.arm.name][cell.spec.seed].append(cell)
    centres = {}
    for arm, seeds in by_seed.items():
        losses: dict[Point, list[float]] = defaultdict(list)
        for runs in seeds.values():
            if all(cell.state in OUTCOMES for cell in runs):
                for cell in runs:
                    losses[tuple(cell.spec.tuned.items())].append(cell.loss)
        centres[arm] = dict(_best(losses)) if losses else chosen[arm]
    return centres


def _best(losses: Mapping[Point, list[float]]) -> Point:
    return min(losses.items(), key=lambda item: _rank(item[1]))[0]


def _rank(losses: list[float]) -> tuple[int, float]:
    """Order by the number of divergences, then by the mean of the other losses."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return len(losses) - len(finite), fmean(finite) if finite else math.inf
