"""The plan of a sweep, made from the command line and an experiment file.

An arm is a variant of the experiment, or a combination of the values given; its cells are its runs with every seed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.types import Override

from gptlab.compare.analysis.verdict import MIN_PAIRS
from gptlab.config import ConfigError, plain, registry
from gptlab.config.compose import load_config
from gptlab.config.overrides import parse, quoted, text_of
from gptlab.sweeps.arms import AT_SHARE, Arm, Overrides, SweepPlan
from gptlab.sweeps.experiment import Experiment, is_experiment, read_experiment
from gptlab.sweeps.fractional_design import balanced
from gptlab.sweeps.ladder import knock_outs, ladder_arms
from gptlab.sweeps.plan_tuning import unique_names, with_tuning
from gptlab.sweeps.rungs import Rung
from gptlab.sweeps.seed_plan import SeedPlan
from gptlab.sweeps.values import expand, key_of, values_of


class Arguments(NamedTuple):
    """The arguments of `gptlab sweep`: those of the launcher, of the sweep itself and of its cells."""

    launcher: list[str]  # hydra/launcher=..., hydra.launcher.*; with + for a setting that Hydra does not list
    sweep: list[str]  # sweep.*
    cells: list[str]  # the experiment file and the overrides


def split_arguments(arguments: Sequence[str]) -> Arguments:
    """Split the arguments of `gptlab sweep` into those of the launcher, of the sweep itself and of its cells."""
    split = Arguments([], [], [])
    for argument in arguments:
        if is_experiment(argument):
            split.cells.append(argument)
        elif argument.lstrip("+").startswith("hydra"):
            split.launcher.append(argument)
        elif argument.startswith("sweep."):
            split.sweep.append(argument)
        else:
            split.cells.append(argument)
    return split


def plan_sweep(
    arguments: Sequence[str],
    *,
    ladder: bool = False,
    knock_out: bool = False,
    fraction: float | None = None,
    tune: Sequence[str] = (),
    seeds: str | None = None,
    multiplier: bool = False,
    rung: Rung | None = None,
) -> SweepPlan:
    """Plan the sweep of `[experiment.yaml] [key=value[,value...] ...]`; the command line overrides the file.

    Of an experiment with rungs this is the sweep at the first one, or at `rung`.

    Args:
        arguments: the words after `gptlab sweep`, without the settings of the launcher and of the sweep itself.
        ladder: the first two arguments are configs; each arm takes one more component from the second.
        knock_out: the first two arguments are configs; each arm is the second without one of its components.
        fraction: the share of the arms to keep, chosen so that effects can still be told apart.
        tune: settings with values to try, such as `optimizer.lr=3e-4,1e-3,3e-3` or `optimizer.lr=auto`; each arm is
            judged around its own best value.
        multiplier: also run the baseline at half and at twice its budget, from which `compare` computes how much
            compute each arm is worth. An experiment file can ask for it, too.
        seeds: how many seeds an arm gets at least and at most, such as `3..12`, if that depends on what they show.
        rung: one of the experiment's.

    Raises:
        ConfigError: an argument is not readable, or the arguments do not define the arms.
    """
    texts, experiment = _read(arguments, ladder, knock_out)
    registry.load()
    given = parse(texts)
    rung = rung or next(iter(experiment.rungs), None)
    if rung:
        experiment = _at_rung(experiment, rung, given)
    if added := next((override.input_line for override in given if key_of(override).startswith("+")), None):
        raise ConfigError(f"{added}: nothing can be added; write {added.lstrip('+')}")
    name = _name(given, experiment)
    planned, first_look = _seeds(given, experiment, seeds)
    given = [override for override in given if override.key_or_group != "seed"]
    arms = _arms(experiment, _shared(given, experiment), given, name)
    if (share := experiment.fraction if fraction is None else fraction) is not None:
        arms = _keep_fraction(arms, share, "--fraction" if fraction is not None else "fraction")
    if rung:  # an arm has one name at all rungs, whatever `match=` changes at each of them
        arms = [replace(arm, variant=name) for arm, name in zip(arms, unique_names(arms), strict=True)]
    plan = with_tuning(SweepPlan(name, arms, planned, experiment, first_look=first_look, rung=rung), given, tune)
    if multiplier or experiment.multiplier:
        return replace(plan, budgets=_budgets(plan.arms[0]))
    _refuse_unknown_margin(plan)
    return plan


def plan_rungs(arguments: Sequence[str], **options: Any) -> list[SweepPlan]:
    """Plan the sweep at each rung of an experiment, or the one sweep of an experiment without rungs.

    Arguments and errors are those of plan_sweep. At the rungs after the first one, nothing is searched on tuning seeds
    if the file says `tune_at: first`.
    """
    first = plan_sweep(arguments, **options)
    others = [plan_sweep(arguments, rung=rung, **options) for rung in first.experiment.rungs[1:]]
    _refuse_promotion_of_none(first)
    if first.experiment.tune_at == "first":
        others = [replace(plan, tune_seeds=[]) for plan in others]
    return [first, *others]


def _refuse_unknown_margin(plan: SweepPlan) -> None:
    """Refuse a margin in compute where no arm can be the baseline at another budget, which says what it is worth."""
    margin = plan.experiment.margin or ""
    budgets = {tuple(item for item in arm.overrides.items() if item[0].startswith("budget.")) for arm in plan.arms}
    if margin.endswith("%") and len(budgets) == 1:
        rule = "a share of compute is known from the baseline at several budgets"
        raise ConfigError(f"margin={margin}: {rule}; add multiplier: true, or give it in the metric's unit")


def _refuse_promotion_of_none(plan: SweepPlan) -> None:
    """Refuse to promote arms that can have no verdict, or no arms: the experiment would end after its first rung."""
    place = f"promote=[{', '.join(plan.experiment.promote)}]"
    if plan.experiment.promote and len(plan.seeds) < MIN_PAIRS:
        rule = f"fewer than {MIN_PAIRS} seeds give no verdict, so that no arm could go on to the next rung"
        raise ConfigError(f"{place}: {rule}; give more seeds, or leave promote out")
    if plan.experiment.promote and len(plan.arms) < 2:
        raise ConfigError(f"{place}: there is one arm, which cannot be left out; add arms, or leave promote out")


def _at_rung(experiment: Experiment, rung: Rung, given: Sequence[Override]) -> Experiment:
    """Return the experiment with the size and the budget of a rung."""
    has_budget = any(key.startswith("budget.") for key in rung.keys)
    keys = {key for key in rung.keys if not key.startswith("budget.")} | {"rung"}
    typed_words = [override.input_line or "" for override in given]  # which may give all rungs one budget
    words = [*experiment.grid, *(text for texts in experiment.variants.values() for text in texts)]
    inside = tuple(f"{key}." for key in keys)  # size.dim, where each rung chooses a size
    doubles = (word for word in [*typed_words, *words] if word.startswith(inside) or word.partition("=")[0] in keys)
    if double := next(doubles, None):
        raise ConfigError(f"{double}: each rung sets it, so that an arm would not keep it; leave it out")
    if has_budget and (own := next((word for word in words if word.startswith("budget.")), None)):
        raise ConfigError(f"{own}: the rungs set the budget of all arms; leave it out of the arm")
    base = [text for text in experiment.base if not (has_budget and text.startswith("budget."))]
    return replace(experiment, base=[*base, *rung.overrides, f"rung={quoted(rung.name)}"])


def _read(arguments: Sequence[str], ladder: bool, knock_out: bool) -> tuple[list[str], Experiment]:
    """Return the overrides as typed, and the experiment of the file or of the flag."""
    files = [a for a in arguments if is_experiment(a)]
    texts = [a for a in arguments if not is_experiment(a)]
    if len(files) > 1:
        raise ConfigError(f"{' '.join(files)}: a sweep has one experiment file; name only one")
    if not (ladder or knock_out):
        return texts, read_experiment(Path(files[0])) if files else Experiment()
    if files or len(texts) < 2:
        flag = "--knock-out" if knock_out else "--ladder"
        raise ConfigError(
            f"{flag}: takes two configs, such as preset=gpt2 preset=llama; the overrides of both come after them"
        )
    ends = texts[:2]
    return texts[2:], Experiment(knock_out=ends) if knock_out else Experiment(ladder=ends)


def _name(given: Sequence[Override], experiment: Experiment) -> str:
    """Return the given name, the experiment's, or the keys that vary and a hash of the command without its seeds."""
    names = [override for override in given if override.key_or_group == "name"]
    if names:
        if len(values_of(names[-1])) > 1:
            raise ConfigError(f"{names[-1].input_line}: a sweep has one name; give only one")
        return str(text_of(names[-1]))
    if experiment.name:
        return experiment.name
    ends = experiment.ladder or experiment.knock_out
    others = [override for override in given if override.key_or_group != "seed"]
    fixed = sorted([*ends, *(override.input_line or "" for override in others)])
    keys = [key_of(override).split(".")[-1] for override in others if len(values_of(override)) > 1]
    kind = ["ladder" if experiment.ladder else "knock-out"] if ends else []
    return f"{'-'.join(kind + keys) or 'seeds'}-{hashlib.sha256(' '.join(fixed).encode()).hexdigest()[:6]}"


def _seeds(given: Sequence[Override], experiment: Experiment, flag: str | None) -> tuple[list[str], int | None]:
    """Return the seeds of the command line or the experiment, and the first look if the plan is sequential."""
    last = [override for override in given if override.key_or_group == "seed"][-1:]
    if last and flag is not None:
        raise ConfigError(f"--seeds {flag}: {last[0].input_line} fixes the seeds; leave one out")
    if not last:
        plan = experiment.seeds if flag is None else SeedPlan.parse(flag)
        if plan.first_look or not plan.seeds:
            return [str(seed) for seed in plan.seeds] or [""], plan.first_look
    typed_seeds = values_of(last[0]) if last else [str(seed) for seed in plan.seeds]
    seeds = [_whole(seed) for seed in typed_seeds]
    if twice := next((seed for seed in seeds if seeds.count(seed) > 1), None):
        raise ConfigError(f"seed={','.join(seeds)}: {twice} is given twice, which would be one run; leave one out")
    return seeds, None


def _whole(seed: str) -> str:
    """Return a whole number as digits: 1 for 1.0 and 1e0. Other text, which the check of the cells refuses, stays."""
    try:
        number = float(seed)
        return str(int(number)) if number.is_integer() and not seed.lstrip("+-").isdigit() else seed
    except ValueError:
        return seed


def _shared(given: Sequence[Override], experiment: Experiment) -> list[Override]:
    """Return the experiment's overrides of all arms and of its grid, except those that the command line replaces."""
    keys = {override.key_or_group for override in given}
    texts = [*experiment.base, *experiment.grid]
    if experiment.use and "use" not in keys:
        registry.load(experiment.use)
        texts.append(f"use=[{','.join(map(quoted, experiment.use))}]")
    shared = parse(texts)
    if any(key.startswith("budget.") for key in keys):  # a run has one budget: the command line's
        return [override for override in shared if not override.key_or_group.startswith("budget.")]
    return shared


def _variants(experiment: Experiment, common: Sequence[Override]) -> dict[str, list[str]]:
    """Return the experiment's variants, written out or made from two configs; a nameless one if it has none."""
    if ends := experiment.ladder or experiment.knock_out:
        start, end = ends
        fixed = [override.input_line or "" for override in common if len(values_of(override)) == 1]
        return ladder_arms(start, end, fixed) if experiment.ladder else knock_outs(start, end, fixed)
    return experiment.variants or {"": []}


def _arms(experiment: Experiment, shared: Sequence[Override], given: Sequence[Override], name: str) -> list[Arm]:
    variants = _variants(experiment, [*shared, *given])
    groups = [
        [_arm(variant, combination, name) for combination in expand([*shared, *parse(texts), *given])]
        for variant, texts in variants.items()
    ]
    arms = [arm for group in groups for arm in group]
    common = set.intersection(*(set(arm.overrides.items()) for arm in arms)) if len(arms) > 1 else set()
    # If all variants have the same number of combinations, each is matched to that combination of the first variant.
    baselines = [
        i if "" not in variants and len(group) == len(groups[0]) else 0 for group in groups for i in range(len(group))
    ]
    arms = [
        replace(arm, varying=dict(item for item in arm.overrides.items() if item not in common), baseline=baseline)
        for arm, baseline in zip(arms, baselines, strict=True)
    ]
    return [replace(arm, unique_name=name) for arm, name in zip(arms, unique_names(arms), strict=True)]


def _arm(variant: str, combination: dict[str, str], name: str) -> Arm:
    overrides = {key: value for key, value in combination.items() if key not in ("name", "variant")}
    given = combination.get("variant", "null")
    label = variant or text_of(parse([f"variant={given}"])[0]) or ""
    return Arm(overrides | {"name": quoted(name)}, varying={}, variant=label)


def _budgets(baseline: Arm) -> dict[str, Overrides]:
    """Return the overrides that give the baseline half and twice its budget."""
    budget = plain(load_config(baseline.texts).budget)
    key, value = next((key, value) for key, value in budget.items() if value is not None)
    counted = isinstance(value, int)
    shares = {share: float(share) * value for share in AT_SHARE}
    return {
        share: {f"budget.{key}": str(max(1, round(amount)) if counted else repr(amount))}
        for share, amount in shares.items()
    }


def _keep_fraction(arms: list[Arm], fraction: float, place: str) -> list[Arm]:
    if not 0 < fraction < 1:
        raise ConfigError(f"{place}={fraction:g}: must be between 0 and 1, such as 0.5")
    levels = [{**arm.varying, "variant": arm.variant} for arm in arms]
    return [replace(arms[i], baseline=0) for i in balanced(levels, fraction, place)]
