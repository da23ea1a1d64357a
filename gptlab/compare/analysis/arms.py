"""Runs -> arms: runs of one config, and what tells the arms apart."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from gptlab.compare.read.runs import Run, Sweep
from gptlab.config import BOOKKEEPING, COMMON, SLOTS, ConfigError, flatten

APART = ("seed", *BOOKKEEPING)  # in these the runs of one arm may differ
# data.window and the like: settings of the slot, whichever component is chosen
OF_SLOT = {f"{slot}.{f.name}" for slot, kind in SLOTS.items() if kind in COMMON for f in fields(COMMON[kind])}
OF_VOCABULARY = ("tokenizer", "data")


@dataclass(frozen=True, eq=False)
class Arm:
    """The runs of one config, one for each seed."""

    label: str | None  # the variant's name in the experiment
    settings: dict[str, str]  # those in which the arms differ: {"norm": "rmsnorm", "optimizer.lr": "0.001"}
    runs: list[Run]

    def changes(self, baseline: "Arm") -> str:
        """`norm=rmsnorm placement=post`: its settings where the baseline has others; all of the baseline's own."""
        same = {} if self is baseline else baseline.settings
        return " ".join(f"{key}={value}" for key, value in self.settings.items() if same.get(key) != value)

    def __str__(self) -> str:
        changes = self.changes(self)
        return f"{self.label} ({changes})" if self.label else changes or "all runs"


def group_arms(runs: Iterable[Run], sweep: Sweep) -> list[Arm]:
    """Arms in the order of the sweep's variants, then of their first runs.

    Where runs of an arm share a seed, as the same cell of two sweeps does, the last one written to counts, and one that
    ended before one that did not.
    """
    groups: dict[frozenset, list[Run]] = {}
    for run in runs:
        groups.setdefault(frozenset(as_text(run.config).items()), []).append(run)
    settings = differing([as_text(group[0].config) for group in groups.values()])
    arms = [
        Arm(group[0].config.get("variant"), differs, _one_per_seed(group))
        for group, differs in zip(groups.values(), settings, strict=True)
    ]
    place = {label: i for i, label in enumerate(sweep.labels)}
    return sorted(arms, key=lambda arm: place.get(arm.label or "", len(place)))


def as_text(config: dict[str, Any]) -> dict[str, str]:
    """The settings that make an arm, flat, as one writes them; null is left out."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in flatten(config).items()
        if value is not None and key.split(".")[0] not in APART
    }


def differing(configs: list[dict[str, str]]) -> list[dict[str, str]]:
    """For each of the configs its settings where they differ.

    A component's knob counts only among the configs that chose this component: norm=layernorm against norm=rmsnorm says
    all, whatever knobs each has. So does the vocabulary's size among those of one text and tokenizer.
    """
    differs: list[dict[str, str]] = [{} for _ in configs]
    for key in dict.fromkeys(key for config in configs for key in config):
        slots = OF_VOCABULARY if key == "model.vocab_size" else ("" if key in OF_SLOT else key.rpartition(".")[0],)
        peers = defaultdict(list)
        for i, config in enumerate(configs):
            peers[tuple(map(config.get, slots))].append(i)
        for group in peers.values():
            values = {i: configs[i].get(key, "null") for i in group}
            if len(set(values.values())) > 1:
                for i, value in values.items():
                    differs[i][key] = value
    return differs


def _one_per_seed(runs: list[Run]) -> list[Run]:
    ordered = sorted(runs, key=lambda run: (bool(run.summary), run.when("updated")))
    return sorted({run.seed: run for run in ordered}.values(), key=lambda run: run.seed)


def choose_baseline(arms: list[Arm], wanted: str | None, sweep: Sweep, defaults: dict[str, Any] | None) -> Arm:
    """The arm `wanted`, or the sweep's, or the nearest to `defaults`, or the first."""
    if wanted is not None:
        return _find(arms, wanted)
    if sweep.baseline in {arm.label for arm in arms if arm.label}:
        return _find(arms, str(sweep.baseline))
    if defaults is None:
        return arms[0]
    usual = as_text(defaults)
    return min(arms, key=lambda arm: sum(usual.get(key, "null") != value for key, value in arm.settings.items()))


def _find(arms: list[Arm], wanted: str) -> Arm:
    """The one arm with the label `wanted`, or else with every word of it among its label and settings."""
    found = [arm for arm in arms if arm.label == wanted]
    if not found:
        found = [arm for arm in arms if set(wanted.split()) <= {*(arm.label or "").split(), *arm.changes(arm).split()}]
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        f"baseline={wanted}: fits {len(found) or 'none'} of the arms; name one of: {'; '.join(map(str, found or arms))}"
    )


def names(arms: list[Arm]) -> list[str]:
    """What to call each arm beside the baseline, `arms[0]`: its label, or what it changes."""
    labels = [arm.label for arm in arms]
    return [
        arm.label
        if arm.label and labels.count(arm.label) == 1
        else " ".join(filter(None, [arm.label, arm.changes(arms[0])])) or "all runs"
        for arm in arms
    ]
