"""The cells of a sweep: composed, built and planned before any of them starts, and what became of each afterwards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptlab.config import ConfigError, registry
from gptlab.config.compose import load_settings
from gptlab.distributed import find_processes
from gptlab.files import write_json
from gptlab.model.cost import architecture, figure
from gptlab.model.match_cost import Matched
from gptlab.runs.folder import run_dir
from gptlab.runs.lock import state_of
from gptlab.runs.record import read_status, read_summary
from gptlab.runs.states import RunState
from gptlab.sweeps.arms import Arm, CellSpec, SweepPlan
from gptlab.training.budget import Plan, make_plan
from gptlab.training.device import choose_machine
from gptlab.training.init_from import plan_start
from gptlab.training.train import fair, open_dataset, tracker_settings, with_vocabulary

WIDTHS = ("ffn.hidden", "ffn.expansion")


@dataclass
class Cell:
    """A cell that was checked: its folder, its budget and its device are known."""

    spec: CellSpec
    folder: Path
    plan: Plan
    device: str
    match: Matched | None
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
    cells: list[Cell]  # the comparison; if there is tuning, at the first of the values tried

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
    plan = with_references(plan)
    tuning = check_cells(plan.tuning_cells, device_is_here=device_is_here) if plan.tune else []
    first = dict.fromkeys((arm.name for arm in plan.arms), plan.combinations[0])
    return CheckedSweep(plan, tuning, check_cells(plan.cells_with(first), device_is_here=device_is_here))


def check_cells(specs: Sequence[CellSpec], *, device_is_here: bool = True) -> list[Cell]:
    """Compose, build (on the meta device) and plan every cell; texts are tokenised here, once.

    Cells that have the same folder are one run and returned once. `device_is_here` is false for a sweep on a cluster,
    whose devices this machine may lack.

    Raises:
        ConfigError: with a line for each problem, naming the first cell that has it.
    """
    once = _Once()
    cells: dict[Path, Cell] = {}
    problems: dict[str, str] = {}
    for spec in specs:
        try:
            cell = _check(spec, device_is_here, once)
        except ConfigError as e:
            problems.setdefault(str(e), f"{e}   [{spec.label}]" if len(specs) > 1 else str(e))
        else:
            cells[cell.folder] = cell
    if problems:
        raise ConfigError("\n".join(problems.values()))
    return list(cells.values())


def _check(spec: CellSpec, device_is_here: bool, once: "_Once") -> Cell:
    cfg = load_settings(spec.overrides)
    once(tracker_settings, cfg, read=[cfg.record, cfg.runs_dir, cfg.wandb])
    find_processes(cfg)
    device = cfg.device
    if device_is_here:
        device = str(once(choose_machine, cfg, read=[cfg.device, cfg.precision, cfg.compile]).device)
    dataset = once(open_dataset, cfg, read=[cfg.data, cfg.tokenizer, cfg.eval.lengths])
    cfg, match = fair(cfg, dataset)
    full = with_vocabulary(cfg, dataset)
    plan = make_plan(full)
    if cfg.train.init_from is not None:
        read = [cfg.train.init_from, cfg.train.init_partial, cfg.data, cfg.tokenizer, architecture(full)]
        once(plan_start, full, dataset, read=read)
    return Cell(spec, run_dir(cfg), plan, device, match)


class _Once:
    """Memoise functions by the settings that they read; a ConfigError is memoised and raised again."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}

    def __call__(self, function: Callable[..., Any], *arguments: Any, read: Sequence[Any]) -> Any:
        key = f"{function.__name__} {read}"
        if key not in self.results:
            try:
                self.results[key] = function(*arguments)
            except ConfigError as e:
                self.results[key] = e
        if isinstance(self.results[key], ConfigError):
            raise ConfigError(str(self.results[key]))
        return self.results[key]


def with_references(plan: SweepPlan) -> SweepPlan:
    """Give every arm that `match=` changes the cost of its baseline, to be matched to."""
    costs: dict[tuple[int, str], float] = {}
    return replace(plan, arms=[_with_reference(arm, plan, costs) for arm in plan.arms])


def _with_reference(arm: Arm, plan: SweepPlan, costs: dict[tuple[int, str], float]) -> Arm:
    seed = plan.seeds[0]
    try:
        cfg = load_settings(plan.cell(arm, seed).overrides)
        matched_cost = registry.build("match", cfg.match).figure
        if not matched_cost or cfg.match.reference is not None:
            return arm
        key = (arm.baseline, matched_cost)
        if key not in costs:
            baseline = load_settings(plan.cell(plan.arms[arm.baseline], seed).overrides)
            costs[key] = figure(with_vocabulary(baseline, open_dataset(baseline)), matched_cost)
    except ConfigError:
        return arm  # check_cells names the problem, together with those of all other cells
    if width := next((f"{k}={v}" for k, v in arm.varying.items() if k in WIDTHS), None):
        raise ConfigError(f"{width}: match={cfg.match.name} is to choose the width; leave one out   [{arm.name}]")
    return replace(arm, match_reference=costs[key])
