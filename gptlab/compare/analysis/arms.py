"""Group runs into arms, and find the settings in which the arms differ."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from gptlab.compare.read.runs import Run, SweepFile
from gptlab.config import BOOKKEEPING, COMMON, SLOTS, ConfigError, flatten

NOT_OF_ARM = ("seed", *BOOKKEEPING)  # the runs of one arm may differ in these
# Settings of a slot whichever component is chosen, such as data.window
SLOT_SETTINGS = {f"{slot}.{f.name}" for slot, kind in SLOTS.items() if kind in COMMON for f in fields(COMMON[kind])}
VOCABULARY_SLOTS = ("tokenizer", "data")


@dataclass(frozen=True, eq=False)
class Arm:
    """The runs of one config, one for each seed."""

    label: str | None  # the variant's name in the experiment
    settings: dict[str, str]  # those in which the arms differ: {"norm": "rmsnorm", "optimizer.lr": "0.001"}
    runs: list[Run]

    def changed(self, baseline: "Arm") -> dict[str, str]:
        """Return the settings that differ from the baseline's; for the baseline itself all of `settings`."""
        usual = {} if self is baseline else baseline.settings
        return {key: value for key, value in self.settings.items() if usual.get(key) != value}

    def changes(self, baseline: "Arm") -> str:
        """Return `changed` as text: `norm=rmsnorm placement=post`."""
        return " ".join(f"{key}={value}" for key, value in self.changed(baseline).items())

    def __str__(self) -> str:
        changes = self.changes(self)
        return f"{self.label} ({changes})" if self.label else changes or "all runs"


def group_arms(runs: Iterable[Run], sweep: SweepFile) -> list[Arm]:
    """Return the arms in the order of the sweep's variants, then of their first runs.

    Several runs of an arm may have the same seed, as when two sweeps share a cell. Then the one written last is used,
    but a run that has ended takes precedence over one that is still unfinished.
    """
    groups: dict[frozenset[tuple[str, str]], list[Run]] = {}
    for run in runs:
        groups.setdefault(frozenset(as_text(run.config).items()), []).append(run)
    settings = differing([as_text(group[0].config) for group in groups.values()])
    arms = [
        Arm(group[0].config.get("variant"), differs, _one_per_seed(group))
        for group, differs in zip(groups.values(), settings, strict=True)
    ]
    order = {label: i for i, label in enumerate(sweep.labels)}
    return sorted(arms, key=lambda arm: order.get(arm.label or "", len(order)))


def as_text(config: dict[str, Any]) -> dict[str, str]:
    """Return the settings that define an arm, flat and written as overrides, without those that are null."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in flatten(config).items()
        if value is not None and key.split(".")[0] not in NOT_OF_ARM
    }


def differing(configs: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return, for each config, the settings in which the configs differ.

    A component's setting is compared only among the configs that chose this component: norm=layernorm against
    norm=rmsnorm says everything, whatever settings each of them has. In the same way the size of the vocabulary is
    compared only among the configs that have the same text and tokenizer.
    """
    differs: list[dict[str, str]] = [{} for _ in configs]
    for key in dict.fromkeys(key for config in configs for key in config):
        if key == "model.vocab_size":
            slots: tuple[str, ...] = VOCABULARY_SLOTS
        else:
            slots = ("" if key in SLOT_SETTINGS else key.rpartition(".")[0],)
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


def choose_baseline(arms: list[Arm], wanted: str | None, sweep: SweepFile, defaults: dict[str, Any] | None) -> Arm:
    """Return the arm `wanted`, or else the sweep's baseline, the arm nearest to `defaults`, or the first arm."""
    if wanted is not None:
        return _find(arms, wanted)
    if sweep.baseline in {arm.label for arm in arms if arm.label}:
        return _find(arms, str(sweep.baseline))
    if defaults is None:
        return arms[0]
    usual = as_text(defaults)
    return min(arms, key=lambda arm: sum(usual.get(key, "null") != value for key, value in arm.settings.items()))


def _find(arms: list[Arm], wanted: str) -> Arm:
    """Return the arm with the label `wanted`, or else the one whose label and settings contain all its words."""
    matches = [arm for arm in arms if arm.label == wanted]
    if not matches:
        wanted_parts = set(wanted.split())
        matches = [arm for arm in arms if wanted_parts <= {*(arm.label or "").split(), *arm.changes(arm).split()}]
    if len(matches) == 1:
        return matches[0]
    choices = "; ".join(map(str, matches or arms))
    raise ConfigError(f"baseline={wanted}: fits {len(matches) or 'none'} of the arms; name one of: {choices}")


def names(arms: list[Arm]) -> list[str]:
    """Return a name for each arm: its label, or its changes from the baseline `arms[0]`."""
    labels = [arm.label for arm in arms]
    return [
        arm.label
        if arm.label and labels.count(arm.label) == 1
        else " ".join(filter(None, [arm.label, arm.changes(arms[0])])) or "all runs"
        for arm in arms
    ]
