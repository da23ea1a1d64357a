"""A look at a sequential sweep: which arms are settled, and which get another seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from gptlab.compare import build_comparison
from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.analysis.sequential import OPEN, SETTLED, Progress
from gptlab.sweeps.arms import SweepPlan
from gptlab.sweeps.cell import Cell


@dataclass(frozen=True)
class ArmLook:
    """The state of an arm at a look, as sweep.yaml keeps it."""

    arm: str
    reference: str  # the arm that it is compared with
    seeds: int  # that both have ended and that count
    word: str
    state: str  # open, settled or given up
    chance: float | None  # that an open arm is settled at the last look

    def __str__(self) -> str:
        if self.state != OPEN:
            return f"{self.arm} {self.word}{' (given up)' if self.state != SETTLED else ''} at {self.seeds} seeds"
        return f"{self.arm} open" + ("" if self.chance is None else f" (chance {self.chance:.0%})")


def look_at(folder: Path, cells: Sequence[Cell]) -> list[ArmLook]:
    """Compare the runs of a sequential sweep, and return the state of each arm but the baseline."""
    comparison = build_comparison([folder])
    arm_of = {cell.folder.name: cell.spec.arm.name for cell in cells}
    names = {result.name: arm_of[result.arm.runs[0].folder.name] for result in comparison.results}
    looks = [
        _arm_look(names[result.name], names[str(result.reference)], result.effect.word, result.effect.progress)
        for result in comparison.results
        if result.effect and result.effect.progress
    ]
    return looks + _whole_ladder(comparison, names)


def _whole_ladder(comparison: Comparison, names: Mapping[str, str]) -> list[ArmLook]:
    if comparison.whole is None or comparison.whole[1].progress is None:
        return []
    _, effect = comparison.whole
    last, first = comparison.results[-1].name, comparison.results[0].name
    return [_arm_look(names[last], names[first], effect.word, effect.progress)]


def _arm_look(arm: str, reference: str, word: str, progress: Progress | None) -> ArmLook:
    if progress is None:
        raise ValueError(f"{arm}: was not judged sequentially")
    chance = None if progress.chance != progress.chance else progress.chance
    return ArmLook(arm, reference, progress.seeds, word, progress.state, chance if progress.state == OPEN else None)


def looks_table(looks: Sequence[ArmLook]) -> Table:
    """Return a table with a row for each arm."""
    table = Table(box=None, pad_edge=False, header_style="")
    for title in ("arm", "seeds", "verdict", "chance of a word"):
        table.add_column(title, justify="left" if title in ("arm", "verdict") else "right")
    for look in looks:
        word = look.word if look.state == SETTLED else f"{look.word} ({look.state})"
        chance = "" if look.chance is None else f"{look.chance:.0%}"
        table.add_row(Text(look.arm), str(look.seeds), word, chance)
    return table


def with_next_seeds(plan: SweepPlan, looks: Sequence[ArmLook]) -> SweepPlan:
    """Return the plan with one more seed for each open arm and for its reference, or `plan` itself if none is open."""
    n_seeds = {arm.name: plan.seeds_so_far(arm) for arm in plan.arms}
    wanted = dict(n_seeds)
    for look in (look for look in looks if look.state == OPEN):
        for arm in (look.arm, look.reference):
            wanted[arm] = max(wanted[arm], min(look.seeds + 1, len(plan.seeds)))
    return plan if wanted == n_seeds else plan.with_seeds(wanted)
