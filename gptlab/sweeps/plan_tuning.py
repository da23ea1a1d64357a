"""The tuning of a planned sweep: its settings, the values that each arm tries first, and its seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hydra.core.override_parser.types import Override

from gptlab.config import ConfigError, flatten, is_bookkeeping, plain
from gptlab.config.compose import load_config
from gptlab.config.overrides import parse
from gptlab.sweeps.arms import Arm, SweepPlan, as_texts
from gptlab.sweeps.experiment import FIRST_TUNING_SEED
from gptlab.sweeps.tuning_grid import AUTO, TuningGrid
from gptlab.sweeps.values import values_of

DEFAULT_TUNING_SEEDS = 2


def with_tuning(plan: SweepPlan, given: Sequence[Override], flags: Sequence[str]) -> SweepPlan:
    """Add what is tuned: the experiment's settings that the command line leaves open, and those of `--tune`."""
    keys = {override.key_or_group for override in given}
    tune = {key: values for key, values in plan.experiment.tune.items() if key not in keys}
    for text in flags:
        values = values_of(parse([text])[0]) if "=" in text else []
        if len(values) < 2 and values != [AUTO]:
            example = f"optimizer.lr={AUTO} or optimizer.lr=3e-4,1e-3,3e-3"
            raise ConfigError(f"--tune {text}: give a setting {AUTO}, or the values to try, such as {example}")
        if [flag.partition("=")[0] for flag in flags].count(text.partition("=")[0]) > 1:
            raise ConfigError(f"--tune {text}: the setting has several --tune; give all its values in one")
        tune[text.partition("=")[0]] = values
    if not tune:
        return plan
    _refuse_double_values(plan.arms, tune)
    seeds = plan.experiment.tune_seeds or [FIRST_TUNING_SEED + i for i in range(DEFAULT_TUNING_SEEDS)]
    if both := set(map(str, seeds)) & {seed or "0" for seed in plan.seeds}:
        raise ConfigError(f"tune_seeds: {min(both)} is also a seed of the comparison, which would bias it; give others")
    arms = [replace(arm, variant=name) for arm, name in zip(plan.arms, unique_names(plan.arms), strict=True)]
    grids = {arm.name: _first_grid(arm, tune) for arm in arms}
    return replace(plan, arms=arms, tune=tune, tune_seeds=[str(seed) for seed in seeds], grids=grids)


def unique_names(arms: Sequence[Arm]) -> list[str]:
    """Return the names of the arms; variants of a grid that have a name in common get the values that differ, too."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(arm.name, []).append(arm)
    names = []
    for arm in arms:
        first, *others = groups[arm.name]
        differing = {
            k: v for k, v in arm.varying.items() if any(a.varying.get(k) != first.varying.get(k) for a in others)
        }
        names.append(" ".join([arm.name, *as_texts(differing)]))
    return names


def _first_grid(arm: Arm, tune: Mapping[str, list[str]]) -> TuningGrid:
    """Return the values that an arm tries first."""
    automatic = [key for key, values in tune.items() if values == [AUTO]]
    own = flatten(plain(load_config(arm.texts))) if automatic else {}
    for key in automatic:
        if key not in own:
            raise ConfigError(f"tune {key}={AUTO}: {arm.name} has no such setting; tune one that all arms have")
        if type(own[key]) not in (int, float) or not own[key] > 0:
            rule = f"starts from a number above 0, and {arm.name} has {own[key]}; give the values to try"
            raise ConfigError(f"tune {key}={AUTO}: {rule}")
    return TuningGrid.of(tune, {key: float(own[key]) for key in automatic})


def _refuse_double_values(arms: Sequence[Arm], tune: Mapping[str, list[str]]) -> None:
    """Refuse to tune a setting that an arm sets: the arm would be named after a value that it does not train with."""
    for key in tune:
        if key == "seed" or (is_bookkeeping(key) and key.split(".")[0] != "match"):
            raise ConfigError(f"tune {key}: is no choice to make for an arm; tune another setting")
        for arm in arms:  # with AUTO, what all arms share is where their search starts
            if key in (arm.varying if tune[key] == [AUTO] else arm.overrides):
                text = f"{key}={arm.overrides[key]}"
                raise ConfigError(f"{text}: is tuned too, so the arm would not keep it; leave one out   [{arm.name}]")
