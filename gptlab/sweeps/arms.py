"""The plan of a sweep as data: its arms, and its cells, each of which is one run.

Overrides are mappings from a key to a value, both as typed on the command line: {"norm": "rmsnorm"}. They are text
only where they enter (gptlab/sweeps/grid.py) and where they leave: `CellSpec.overrides`.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gptlab.config import is_bookkeeping
from gptlab.config.overrides import parse, quoted, text_of
from gptlab.runs.run_label import RunLabel, short
from gptlab.sweeps.experiment import Experiment
from gptlab.sweeps.rungs import Rung
from gptlab.sweeps.tuning_grid import TuningGrid

Overrides = Mapping[str, str]
TUNING = "tune"  # the phase of a run that only chooses a value
NEIGHBOUR = "neighbour"  # the phase of a run of the comparison beside the values that the tuning chose
BUDGET = "budget"  # the phase of a run of the baseline at another budget, for the compute multipliers
MULTIPLIER_SEEDS = 3  # of the baseline at another budget
AT_SHARE = {"0.5": "half the budget", "2": "twice the budget"}


def as_texts(overrides: Overrides) -> list[str]:
    """Return overrides as typed on the command line: ["norm=rmsnorm"]."""
    return [f"{key}={value}" for key, value in overrides.items()]


@dataclass(frozen=True)
class Arm:
    """One of the alternatives that a sweep compares; it has a run for each seed."""

    overrides: Overrides  # without the seed
    varying: Overrides  # the overrides that not all arms have; all overrides of a single arm
    variant: str = ""  # its name in the experiment file, or one that a tuned arm keeps whatever value is chosen
    baseline: int = 0  # index of the arm whose cost `match=` gives to this one
    match_reference: float | None = None  # that arm's cost, once it is known
    unique_name: str = ""  # its name, with what sets it apart from arms of the same name

    @property
    def name(self) -> str:
        """The variant's name, or the overrides that set the arm apart."""
        return self.variant or " ".join(as_texts(self.varying)) or "baseline"

    @property
    def texts(self) -> list[str]:
        """Every override of the arm as typed, without the seed."""
        texts = as_texts(self.overrides)
        if self.variant:
            texts.append(f"variant={quoted(self.variant)}")
        if self.match_reference is not None:
            texts.append(f"match.reference={self.match_reference!r}")
        return texts


@dataclass(frozen=True)
class CellSpec:
    """One run of a sweep: an arm with a seed, and with values for what is tuned."""

    arm: Arm
    seed: str  # empty where none is given
    label: str  # a short name, unique within the sweep
    tuned: Overrides = field(default_factory=dict)
    phase: str | None = None  # TUNING, NEIGHBOUR, or None

    @property
    def for_job(self) -> dict[str, Any]:
        """Return the overrides and the label for the job that runs the cell, as JSON can hold them."""
        label = self.run_label
        return {"overrides": self.overrides, "label": {"arm": label.arm, "name": label.name, "tags": label.tags}}

    @property
    def run_label(self) -> RunLabel:
        """How a tracker lists the run: by the arm, the rung, the tuned values and the seed."""
        arm = self.arm
        alone = arm.varying == arm.overrides  # nothing sets it apart
        own = {key: value for key, value in arm.varying.items() if not is_bookkeeping(key)}
        name = arm.variant and (arm.unique_name or arm.variant)
        words = [name] if name else short(own)
        if rung := arm.overrides.get("rung"):
            words.append(text_of(parse([f"rung={rung}"])[0]) or "")
        tags = ({} if alone else own) | dict(self.tuned)
        arm_name = name or " ".join(as_texts(own)) or "baseline"
        return RunLabel.of(arm_name, [*words, *short(self.tuned)], tags, self.seed or 0)

    @property
    def overrides(self) -> list[str]:
        """The overrides as load_config takes them."""
        texts = [*self.arm.texts, *as_texts(self.tuned)]
        if self.phase:
            texts.append(f"phase={self.phase}")
        if self.seed:
            texts.append(f"seed={self.seed}")
        return texts


@dataclass(frozen=True)
class SweepPlan:
    """The arms, the seeds and what is tuned; every cell follows from them."""

    name: str
    arms: list[Arm]
    seeds: list[str]  # a single empty one where none is given
    experiment: Experiment = field(default_factory=Experiment)
    tune: dict[str, list[str]] = field(default_factory=dict)  # setting -> values to try, or AUTO alone
    tune_seeds: list[str] = field(default_factory=list)
    grids: Mapping[str, TuningGrid] = field(
        default_factory=dict
    )  # the values that each arm tries; empty without `tune`
    first_look: int | None = None  # of a sequential sweep: the number of seeds after which its arms are looked at first
    n_seeds: Mapping[str, int] = field(default_factory=dict)  # of each arm so far, in a sequential sweep that runs
    budgets: Mapping[str, Overrides] = field(default_factory=dict)  # share -> what gives the baseline that budget
    rung: Rung | None = None  # at which its arms are compared, of an experiment with rungs
    left_out: int = 0  # arms of the experiment that did not go on to this rung, over which p is corrected all the same
    carried: Mapping[str, Overrides] | None = None  # the tuned values of each arm, found at the first rung

    @property
    def cells(self) -> list[CellSpec]:
        """The cells of the comparison, before anything is tuned.

        Ordered by seed, so that an interrupted sweep leaves complete pairs.
        """
        return [self.cell(arm, seed) for seed, arm in self._compared()]

    def cells_with(self, chosen: Mapping[str, Overrides]) -> list[CellSpec]:
        """Return the cells of the comparison at the values `chosen` for each arm and beside them.

        Arms without any are left out.
        """
        return [
            self.cell(arm, seed, values, NEIGHBOUR if i else None)
            for seed, arm in self._compared()
            if arm.name in chosen
            for i, values in enumerate(self.grids[arm.name].star(chosen[arm.name]))
        ]

    def budget_cells(self, chosen: Mapping[str, Overrides] | None = None) -> list[CellSpec]:
        """Return the cells of the baseline at other budgets, tuned like the baseline; none without multipliers."""
        baseline = self.arms[0]
        seeds = self.seeds[: min(MULTIPLIER_SEEDS, self.seeds_so_far(baseline))]
        if chosen is None:
            points: list[Overrides] = [{}]
        else:
            points = [*self.grids[baseline.name].star(chosen[baseline.name])] if baseline.name in chosen else []
        return [
            CellSpec(arm, seed, self._label(arm, seed, values), values, BUDGET)
            for seed in seeds
            for arm in self.budget_arms.values()
            for values in points
        ]

    @property
    def budget_arms(self) -> dict[str, Arm]:
        """The baseline at each other budget, by its share of the baseline's own."""
        baseline = self.arms[0]
        shared = {key: value for key, value in baseline.overrides.items() if not key.startswith("budget.")}
        return {
            share: replace(
                baseline,
                overrides=shared | dict(budget),
                variant=f"{baseline.name} at {AT_SHARE[share]}",
                unique_name="",
            )
            for share, budget in self.budgets.items()
        }

    @property
    def tuning_cells(self) -> list[CellSpec]:
        """The cells that try every tuned value in every arm, on seeds that the comparison does not use."""
        return [
            self.cell(arm, seed, values, TUNING)
            for seed, arm in itertools.product(self.tune_seeds, self.arms)
            for values in self.grids[arm.name].combinations
        ]

    def _compared(self) -> Iterator[tuple[str, Arm]]:
        """Yield the seeds with the arms that have them so far."""
        for i, seed in enumerate(self.seeds):
            yield from ((seed, arm) for arm in self.arms if i < self.seeds_so_far(arm))

    def seeds_so_far(self, arm: Arm) -> int:
        """Return how many seeds an arm has: all of them, unless the sweep is sequential and running."""
        return self.n_seeds.get(arm.name, len(self.seeds))

    def with_seeds(self, n_seeds: Mapping[str, int]) -> "SweepPlan":
        """Return the plan in which each arm has that many of the seeds."""
        return replace(self, n_seeds=n_seeds)

    def until_first_look(self) -> "SweepPlan":
        """Return the plan up to the first look of a sequential sweep; the plan itself if the seeds are fixed."""
        return self.with_seeds({arm.name: self.first_look for arm in self.arms}) if self.first_look else self

    def cell(self, arm: Arm, seed: str, tuned: Overrides | None = None, phase: str | None = None) -> CellSpec:
        """Return the cell of `arm` with `seed`, and with values for what is tuned."""
        return CellSpec(arm, seed, self._label(arm, seed, (tuned or {}) if phase else {}), tuned or {}, phase)

    def _label(self, arm: Arm, seed: str, tried: Overrides) -> str:
        """Return a name: the variant, or the overrides that set the arm apart, then the values tried and the seed."""
        seed_text = [f"seed={seed}"] if seed else []
        if arm.variant:
            return " ".join([arm.variant, *as_texts(tried), *seed_text])
        varying = as_texts(arm.varying) if len(self.arms) > 1 else []
        return " ".join([*varying, *(seed_text if len(self.seeds) > 1 else [])] or [*arm.texts, *seed_text])
