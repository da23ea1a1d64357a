"""A cell of a sweep: composed, built and planned before any cell starts, and afterwards what became of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptlab.config import ConfigError, registry
from gptlab.config.compose import load_settings
from gptlab.distributed import find_processes
from gptlab.model.cost import architecture, figure
from gptlab.model.match_cost import CostMatch
from gptlab.runs.folder import run_dir
from gptlab.runs.lock import state_of
from gptlab.runs.record import read_status, read_summary, write_json
from gptlab.sweeps.grid import PlannedArm, Sweep
from gptlab.training.budget import Plan, make_plan
from gptlab.training.device import choose_machine
from gptlab.training.init_from import plan_start
from gptlab.training.train import fair, open_dataset, tracker_settings, with_vocabulary

WIDTHS = ("ffn.hidden=", "ffn.expansion=")


@dataclass
class Cell:
    overrides: list[str]
    arm: str
    label: str  # how it is called where there is little room
    folder: Path
    plan: Plan
    device: str
    match: CostMatch | None
    failure: str = ""  # a reason that could not be written into its folder

    @property
    def state(self) -> str:
        return "failed" if self.failure else state_of(self.folder)

    @property
    def reason(self) -> str:
        return self.failure or read_status(self.folder).get("reason") or ""

    @property
    def loss(self) -> float:
        """Its final val/loss in nats per token; infinite if it diverged, which is an outcome and the worst one."""
        return float("inf") if self.state == "diverged" else float(read_summary(self.folder)["val/loss"])

    def fail(self, reason: str) -> None:
        """For what fails outside of the recorder's reach, such as a folder that cannot be written."""
        try:
            note_failure(self.folder, reason)
        except OSError:
            self.failure = reason


def note_failure(folder: Path, reason: str) -> None:
    """For what fails outside of the recorder's reach, such as a model too big for the memory."""
    status = read_status(folder)
    if status.get("state") != "failed":
        write_json(folder / "status.json", status | {"state": "failed", "reason": " ".join(reason.split())})


def check_cells(all_overrides: Sequence[list[str]], *, device_is_here: bool = True) -> list[Cell]:
    """Compose, build (on the meta device) and plan every cell; texts are tokenised here, once.

    Raises ConfigError with a line for each problem.
    """
    shared = set(all_overrides[0]).intersection(*all_overrides) if len(all_overrides) > 1 else set()
    once = _Once()
    cells: dict[Path, Cell] = {}
    problems: dict[str, str] = {}  # a line for each, with the first cell that has it
    for overrides in all_overrides:
        arm, label = _names(overrides, shared)
        try:
            cfg = load_settings(overrides)
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
                said = [cfg.train.init_from, cfg.train.init_partial, cfg.data, cfg.tokenizer]
                once(plan_start, full, dataset, read=[*said, architecture(full)])
            folder = run_dir(cfg)
            cells[folder] = Cell(overrides, arm, label, folder, plan, device, match)
        except ConfigError as e:
            problems.setdefault(str(e), f"{e}   [{label}]" if len(all_overrides) > 1 else str(e))
    if problems:
        raise ConfigError("\n".join(problems.values()))
    return list(cells.values())


def _names(overrides: list[str], shared: set[str]) -> tuple[str, str]:
    """Of its arm, and its own: the variant, or the overrides that others have not; and the seed."""
    own = [w for w in overrides if w not in shared and not w.startswith(("match.reference=", "phase="))]
    variant = next((w.partition("=")[2].strip("'") for w in overrides if w.startswith("variant=")), None)
    if variant is None:
        return " ".join(w for w in own if not w.startswith("seed=")), " ".join(own or overrides)
    tuned = [w for w in overrides if "phase=tune" in overrides and w in own and not w.startswith(("variant=", "seed="))]
    return variant, " ".join([variant, *tuned[-1:], *(w for w in overrides if w.startswith("seed="))])


class _Once:
    """Calls a function once for all cells that are alike in what it reads; if it refuses one, it refuses them all."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}

    def __call__(self, function: Callable[..., Any], *arguments: Any, read: Sequence[Any]) -> Any:
        key = f"{function.__name__} {read}"
        if key not in self.known:
            try:
                self.known[key] = function(*arguments)
            except ConfigError as e:
                self.known[key] = e
        if isinstance(self.known[key], ConfigError):
            raise ConfigError(str(self.known[key]))
        return self.known[key]


def with_references(planned: Sweep) -> Sweep:
    """Every arm that is to be matched gets its baseline's figure as `match.reference`."""
    figures: dict[tuple[int, str], float] = {}
    return replace(planned, arms=[_with_reference(arm, planned, figures) for arm in planned.arms])


def _with_reference(arm: PlannedArm, planned: Sweep, figures: dict[tuple[int, str], float]) -> PlannedArm:
    seed = planned.seeds[0]
    try:
        cfg = load_settings(planned.cell(arm, seed))
        wanted = registry.build("match", cfg.match).figure
        if not wanted or cfg.match.reference is not None:
            return arm
        if (arm.baseline, wanted) not in figures:
            baseline = load_settings(planned.cell(planned.arms[arm.baseline], seed))
            figures[arm.baseline, wanted] = figure(with_vocabulary(baseline, open_dataset(baseline)), wanted)
    except ConfigError:
        return arm  # check_cells says what is wrong with it, and with all others
    if width := next((w for w in arm.own if w.startswith(WIDTHS)), None):
        raise ConfigError(f"{width}: match={cfg.match.name} is to choose the width; leave one out   [{arm.name}]")
    return replace(arm, overrides=[*arm.overrides, f"match.reference={figures[arm.baseline, wanted]!r}"])
