"""The cells of a sweep: every arm, that is every variant and combination of values given, with every seed."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from gptlab.config import SLOTS, ConfigError, registry
from gptlab.config.compose import files_in, quoted
from gptlab.sweeps.experiment import FIRST_TUNING_SEED, Experiment, is_experiment, read_experiment
from gptlab.sweeps.fractional_design import balanced
from gptlab.sweeps.ladder import knock_outs, rungs

DEFAULT_TUNING_SEEDS = 2


@dataclass(frozen=True)
class PlannedArm:
    overrides: list[str]  # all but the seed
    own: list[str]  # those that not all arms have
    baseline: int  # place of the arm that `match=` makes it equal to

    @property
    def name(self) -> str:
        """The variant's, or what the arm has of its own."""
        variant = next((w.partition("=")[2].strip("'") for w in self.own if w.startswith("variant=")), None)
        return variant or " ".join(self.own) or "baseline"


@dataclass(frozen=True)
class Sweep:
    name: str
    arms: list[PlannedArm]
    seeds: list[str]  # as overrides; one empty where none is given
    experiment: Experiment = field(default_factory=Experiment)
    tune: dict[str, list[str]] = field(default_factory=dict)  # setting -> values; empty: nothing is tuned
    tune_seeds: list[str] = field(default_factory=list)

    @property
    def cells(self) -> list[list[str]]:
        """Seed by seed, so that what a sweep has done when it is stopped are whole pairs."""
        return [self.cell(arm, seed) for seed in self.seeds for arm in self.arms]

    def tuning_cells(self) -> list[list[str]]:
        """Every arm with every combination of the tuned settings, on seeds that no comparison sees."""
        return [
            self.cell(arm, seed, [*values, "phase=tune"])
            for seed in self.tune_seeds
            for arm in self.arms
            for values in self.combinations
        ]

    @property
    def combinations(self) -> list[list[str]]:
        """Of the tuned settings' values, as overrides."""
        return [list(c) for c in itertools.product(*([f"{k}={v}" for v in vs] for k, vs in self.tune.items()))]

    def cell(self, arm: PlannedArm, seed: str, more: Sequence[str] = ()) -> list[str]:
        return [*arm.overrides, *more, *([f"seed={seed}"] if seed else [])]


def plan_sweep(
    words: Sequence[str],
    *,
    ladder: bool = False,
    knock_out: bool = False,
    fraction: float | None = None,
    tune: Sequence[str] = (),
) -> Sweep:
    """Arms and seeds of `[experiment.yaml] [key=value[,value...] ...]`; the command line has the last word.

    ladder, knock_out   the first two words are configs, and the arms lie between them (gptlab/ladder.py)
    fraction            the share of the arms to keep, chosen so that effects can still be told apart
    tune                `optimizer.lr=3e-4,1e-3`: each arm gets its own best value
    """
    files = [w for w in words if is_experiment(w)]
    overrides = [w for w in words if not is_experiment(w)]
    if len(files) > 1:
        raise ConfigError(f"{' '.join(files)}: one experiment at a time")
    experiment = read_experiment(Path(files[0])) if files else Experiment()
    if ladder or knock_out:
        if files or len(overrides) < 2:
            flag = "--knock-out" if knock_out else "--ladder"
            raise ConfigError(f"{flag}: takes two configs, such as preset=gpt2 preset=llama; then what both have")
        ends, none = overrides[:2], list[str]()
        experiment = Experiment(ladder=none if knock_out else ends, knock_out=ends if knock_out else none)
        overrides = overrides[2:]
    registry.load()
    name = _name(overrides, experiment)
    seeds, overrides = _split_seeds(overrides, experiment)
    shared = _shared(overrides, experiment)
    arms = _arms(experiment, shared, overrides, name)
    if fraction is not None:
        arms = _fraction(arms, fraction)
    return _with_tuning(Sweep(name, arms, seeds, experiment), overrides, tune)


def _split_seeds(overrides: list[str], experiment: Experiment) -> tuple[list[str], list[str]]:
    """The seeds, of the command line or else the experiment, and the overrides without them."""
    said = [w for w in overrides if w.startswith("seed=")]
    others = [w for w in overrides if not w.startswith("seed=")]
    if said:
        return [cell[0].partition("=")[2] for cell in expand(said[-1:])], others
    return [str(s) for s in experiment.seeds] or [""], others


def _shared(overrides: list[str], experiment: Experiment) -> list[str]:
    """What an experiment says of all its arms, as far as the command line leaves it."""
    given = {w.split("=", 1)[0] for w in overrides}
    shared = list(experiment.base)
    if experiment.use and "use" not in given:
        registry.load(experiment.use)
        shared.append(f"use=[{','.join(quoted(u) for u in experiment.use)}]")
    if any(key.startswith("budget.") for key in given):  # one budget: the command line's
        shared = [w for w in shared if not w.startswith("budget.")]
    return shared


def _arms(experiment: Experiment, shared: list[str], overrides: list[str], name: str) -> list[PlannedArm]:
    variants = experiment.variants
    if ends := experiment.ladder or experiment.knock_out:
        between = rungs if experiment.ladder else knock_outs
        start, end = ends
        variants = between(start, end, [w for w in (*shared, *overrides) if len(expand([w])) == 1])
    groups: list[list[list[str]]] = []  # for each variant, its combinations of the values given
    for variant, own in (variants or {"": []}).items():
        label = [f"variant={quoted(variant)}"] if variant else []
        combinations = expand([*shared, *own, *overrides])
        groups.append(
            [[*(w for w in c if not w.startswith("name=")), f"name={quoted(name)}", *label] for c in combinations]
        )
    every = [c for group in groups for c in group]
    common = set(every[0]).intersection(*every) if len(every) > 1 else set()
    first = groups[0]
    return [
        PlannedArm(c, [w for w in c if w not in common], i if variants and len(group) == len(first) else 0)
        for group in groups
        for i, c in enumerate(group)
    ]


def _fraction(arms: list[PlannedArm], fraction: float) -> list[PlannedArm]:
    if not 0 < fraction < 1:
        raise ConfigError(f"--fraction={fraction:g}: must be between 0 and 1, such as 0.5")
    levels = [dict(w.split("=", 1) for w in arm.own) for arm in arms]
    return [replace(arms[i], baseline=0) for i in balanced(levels, fraction)]


def _with_tuning(sweep: Sweep, overrides: list[str], said: Sequence[str]) -> Sweep:
    given = {w.split("=", 1)[0] for w in overrides}
    tune = {k: v for k, v in sweep.experiment.tune.items() if k not in given}
    for word in said:
        values = [cell[0].partition("=")[2] for cell in expand([word])]
        if "=" not in word or len(values) < 2:
            raise ConfigError(f"--tune {word}: give a setting at least two values, such as optimizer.lr=3e-4,1e-3")
        tune[word.partition("=")[0]] = values
    if not tune:
        return sweep
    seeds = sweep.experiment.tune_seeds or [FIRST_TUNING_SEED + i for i in range(DEFAULT_TUNING_SEEDS)]
    if both := set(map(str, seeds)) & {seed or "0" for seed in sweep.seeds}:
        raise ConfigError(
            f"tune_seeds: {min(both)} is a seed of the comparison too, so that the choice would flatter; give others"
        )
    arms = [_labelled(arm) for arm in sweep.arms]
    return replace(sweep, arms=arms, tune=tune, tune_seeds=[str(s) for s in seeds])


def _labelled(arm: PlannedArm) -> PlannedArm:
    """With a name that holds whatever value is chosen for it."""
    if any(w.startswith("variant=") for w in arm.overrides):
        return arm
    label = [f"variant={quoted(arm.name)}"]
    return replace(arm, overrides=arm.overrides + label, own=arm.own + label)


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """One list of overrides for each combination of values, in Hydra's grammar; the last key varies fastest."""
    parser = OverridesParser.create()
    alternatives: dict[str, list[str]] = {}  # a later override of a key replaces an earlier one
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:
            alternatives[text] = [text]  # load_config says what is wrong with it
            continue
        alternatives.pop(override.key_or_group, None)
        alternatives[override.key_or_group] = _values(override)
    return [list(combination) for combination in itertools.product(*alternatives.values())]


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line or ""]
    key = override.key_or_group
    glob = override.value()
    if isinstance(glob, Glob):
        return [f"{key}={n}" for n in glob.filter(registry.names(SLOTS[key]) if key in SLOTS else files_in(key))]
    if override.is_discrete_sweep():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    raise ConfigError(
        f"{override.input_line}: a grid takes lists, range() and glob(); an interval has no end of values"
    )


def _name(overrides: Sequence[str], experiment: Experiment) -> str:
    """As given, else the experiment's, else what varies and a hash of the command without its seeds."""
    given = [w.split("=", 1)[1].strip("'\"") for w in overrides if w.startswith("name=")]
    if given or experiment.name:
        return (given or [experiment.name])[-1]
    ends = experiment.ladder or experiment.knock_out
    fixed = sorted([*ends, *(w for w in overrides if not w.startswith("seed="))])
    keys = [w.split("=")[0].split(".")[-1] for w in overrides if len(expand([w])) > 1 and not w.startswith("seed=")]
    kind = ["ladder" if experiment.ladder else "knock-out"] if ends else []
    return f"{'-'.join(kind + keys) or 'seeds'}-{hashlib.sha256(' '.join(fixed).encode()).hexdigest()[:6]}"
