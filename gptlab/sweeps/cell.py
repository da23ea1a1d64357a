"""The cells of a sweep: composed, built and planned before any of them starts, and their outcomes afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gptlab.config import ConfigError, drawing_seed, registry
from gptlab.config.compose import load_config
from gptlab.files import write_json
from gptlab.model.match_cost import CostMatch
from gptlab.runs.lock import state_of
from gptlab.runs.record import read_status, read_summary
from gptlab.runs.states import RunState
from gptlab.sweeps.arms import Arm, CellSpec, SweepPlan
from gptlab.sweeps.rungs import TOKENS_PER_PARAM
from gptlab.training.budget import Budget
from gptlab.training.prepare import Memo, PreparedRun, prepare, prepare_matched

PER_PARAM = f"budget.{TOKENS_PER_PARAM}"
WIDTHS = ("ffn.hidden", "ffn.expansion")


@dataclass
class Cell:
    """A cell that was checked: its folder, its budget and its device are known."""

    spec: CellSpec
    folder: Path
    budget: Budget
    device: str
    match: CostMatch | None
    seed: int  # its place in the pairs
    drawing_seed: int  # of its random numbers: seed + train.seed_offset
    evaluated_tokens: int  # that its evaluations read, see PreparedRun
    failure: str = ""  # a reason that could not be written into its folder

    @property
    def state(self) -> RunState:
        """The state of its run."""
        return RunState.FAILED if self.failure else RunState(state_of(self.folder))

    @property
    def reason(self) -> str:
        """Why it failed, or an empty string."""
        return self.failure or read_status(self.folder).get("reason") or ""

    @property
    def loss(self) -> float:
        """Its final val/loss in nats per token; infinite if it diverged, which is an outcome and the worst one."""
        return float("inf") if self.state == RunState.DIVERGED else float(read_summary(self.folder)["val/loss"])

    def fail(self, reason: str) -> None:
        """Record a failure that the cell's own process could not record, such as a folder that cannot be written."""
        try:
            note_failure(self.folder, reason)
        except OSError:
            self.failure = reason


@dataclass(frozen=True)
class CheckedSweep:
    """A sweep of which every cell was composed, built and planned; nothing is written yet."""

    plan: SweepPlan
    tuning: list[Cell]  # empty if nothing is tuned
    cells: list[Cell]  # the comparison; if there is tuning, as if the first of the values tried were the best

    @property
    def folder(self) -> Path:
        """The folder above those of the runs."""
        return (self.tuning or self.cells)[0].folder.parent


def note_failure(folder: Path, reason: str) -> None:
    """Record a failure that the recorder could not record, such as a model too large for the memory."""
    status = read_status(folder)
    if status.get("state") != RunState.FAILED:
        write_json(folder / "status.json", status | {"state": RunState.FAILED, "reason": " ".join(reason.split())})


def check_sweep(plan: SweepPlan, *, device_is_here: bool = True) -> CheckedSweep:
    """Check the cells of the tuning and of the comparison.

    Raises:
        ConfigError: with a line for each problem of any cell.
    """
    memo = Memo()
    plan = with_references(with_equal_tokens(plan, memo), memo)
    tuning = check_cells(plan.tuning_cells, device_is_here=device_is_here, memo=memo) if plan.tune else []
    first = {name: grid.combinations[0] for name, grid in plan.grids.items()}
    specs = plan.cells_with(first) + plan.budget_cells(first) if plan.tune else plan.cells + plan.budget_cells()
    cells = check_cells(specs, device_is_here=device_is_here, memo=memo)
    _refuse_shared_draws([*tuning, *cells])
    return CheckedSweep(plan, tuning, cells)


def check_cells(specs: Sequence[CellSpec], *, device_is_here: bool = True, memo: Memo | None = None) -> list[Cell]:
    """Prepare the run of every cell: compose it, count its model's cost, tokenise its text unless it is in the cache.

    Cells of one arm with the same folder, such as equal values to try, are one run, which is returned once, as the
    first of them.

    Args:
        specs: the cells.
        device_is_here: False for a sweep on a cluster, whose devices this machine may lack.
        memo: the results of earlier calls, for configs that read the same settings.

    Raises:
        ConfigError: with a line for each problem, naming the first cell that has it.
    """
    memo = memo or Memo()
    cells: dict[Path, Cell] = {}
    problems: dict[str, str] = {}
    for spec in specs:
        try:
            run = prepare(load_config(spec.overrides), device_is_here=device_is_here, memo=memo)
            _refuse_equal_arms(cells.get(run.folder), spec)
        except ConfigError as e:
            problems.setdefault(str(e), f"{e}   [{spec.label}]" if len(specs) > 1 else str(e))
        else:
            device = str(run.device.device) if device_is_here else run.cfg.device
            cells.setdefault(run.folder, _cell(spec, run, device))
    if problems:
        raise ConfigError("\n".join(problems.values()))
    return list(cells.values())


def _cell(spec: CellSpec, run: PreparedRun, device: str) -> Cell:
    seeds = {"seed": run.cfg.seed, "drawing_seed": drawing_seed(run.cfg)}
    return Cell(spec, run.folder, run.budget, device, run.match, **seeds, evaluated_tokens=run.evaluated_tokens)


def _refuse_equal_arms(cell: Cell | None, spec: CellSpec) -> None:
    """Refuse an arm whose run is that of another arm, since only one of both names would be left.

    A grid may have `match=` among its keys, which changes nothing in the arm that it matches the others to.
    """
    if cell is None or cell.spec.arm is spec.arm:
        return
    one, other = cell.spec.arm, spec.arm
    if not spec.arm.variant and one.overrides.get("match") != other.overrides.get("match"):
        return
    rule = "two arms with the same config, which are one run"
    mend = "leave one out, or make it a null arm with train.seed_offset=1000000"
    raise ConfigError(f"{one.name}, {other.name}: {rule}; {mend}")


def _refuse_shared_draws(cells: Sequence[Cell]) -> None:
    """Refuse offsets of seeds by which runs of different pairs draw the same random numbers.

    The differences of these pairs would depend on each other, and the tests over the seeds would not hold.
    """
    first: dict[int, Cell] = {}
    for cell in cells:
        other = first.setdefault(cell.drawing_seed, cell)
        if other.seed != cell.seed:
            one, two = sorted((other, cell), key=lambda each: each.seed)
            raise ConfigError(
                f"train.seed_offset={one.drawing_seed - one.seed}: {one.spec.arm.name} with seed={one.seed} would draw"
                f" the same random numbers as {two.spec.arm.name} with seed={two.seed}; set a larger offset, such as"
                " 1000000"
            )


def with_equal_tokens(plan: SweepPlan, memo: Memo | None = None) -> SweepPlan:
    """Give all arms at a rung the tokens of the baseline where its budget is a number of tokens per parameter.

    Otherwise an arm with more parameters would be trained for longer.
    """
    if plan.rung is None or any(PER_PARAM not in arm.overrides for arm in plan.arms):
        return plan
    try:
        baseline = load_config(plan.cell(plan.arms[0], plan.seeds[0]).overrides)
        run = prepare_matched(baseline, None, device_is_here=False, memo=memo)
    except ConfigError:
        return plan  # check_cells names the problem, together with those of all other cells
    tokens = {"budget.tokens": str((run.budget.steps or 0) * run.budget.tokens_per_step)}
    arms = [
        replace(arm, overrides={key: value for key, value in arm.overrides.items() if key != PER_PARAM} | tokens)
        for arm in plan.arms
    ]
    return replace(plan, arms=arms)


def with_references(plan: SweepPlan, memo: Memo | None = None) -> SweepPlan:
    """Set the cost to match in every arm that `match=` changes: the cost of its baseline."""
    memo = memo or Memo()
    costs: dict[tuple[int, str], float] = {}
    return replace(plan, arms=[_with_reference(arm, plan, costs, memo) for arm in plan.arms])


def _with_reference(arm: Arm, plan: SweepPlan, costs: dict[tuple[int, str], float], memo: Memo) -> Arm:
    seed = plan.seeds[0]
    try:
        cfg = load_config(plan.cell(arm, seed).overrides)
        matched_cost = registry.build("match", cfg.match).figure
        if not matched_cost or cfg.match.reference is not None:
            return arm
        key = (arm.baseline, matched_cost)
        if key not in costs:
            baseline = load_config(plan.cell(plan.arms[arm.baseline], seed).overrides)
            run = prepare_matched(
                baseline, None, device_is_here=False, memo=memo
            )  # at the width that its own `match=` gives
            costs[key] = run.budget.cost[matched_cost]
    except ConfigError:
        return arm  # check_cells names the problem, together with those of all other cells
    if width := next((f"{k}={v}" for k, v in arm.varying.items() if k in WIDTHS), None):
        raise ConfigError(f"{width}: match={cfg.match.name} chooses the width too; leave one out   [{arm.name}]")
    return replace(arm, match_reference=costs[key])
