"""Group runs into arms, and find the settings in which the arms differ."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gptlab.compare.read.runs import Run, SweepFile
from gptlab.config import COMMON, SLOTS, ConfigError, flatten, is_bookkeeping

# Settings of a slot whichever component is chosen, such as data.window
SLOT_SETTINGS = {f"{slot}.{f.name}" for slot, kind in SLOTS.items() if kind in COMMON for f in fields(COMMON[kind])}
VOCABULARY_SLOTS = ("tokenizer", "data")
BY_CONTENT = ("data", "tokenizer", "train.init_from")  # settings that may name files, which count by what is in them
SHA256 = "sha256"  # data.sha256=3fa1c2d4 tells two texts apart that have the same path
SHOWN = 8  # hex digits


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
    """Return the arms in the order of the sweep's arms or variants, then of their first runs.

    The runs of an arm read the same text, tokenizer and weights, wherever these lie, and use the same source of the
    user's components. Several of them may have the same seed, as when two sweeps share a cell. Then the one written
    last is used, but a run that has ended takes precedence over one that is still unfinished.
    """
    groups: dict[frozenset[tuple[str, str]], list[Run]] = {}
    for run in runs:
        groups.setdefault(identity(run), []).append(run)
    settings = differing(_shown_settings([group[0] for group in groups.values()]))
    arms = [
        Arm(group[0].config.get("variant"), differs, _one_per_seed(group))
        for group, differs in zip(groups.values(), settings, strict=True)
    ]
    return sorted(arms, key=lambda arm: _place(arm, sweep))


def identity(run: Run, without: Collection[str] = ()) -> frozenset[tuple[str, str]]:
    """Return what the runs of one arm have in common: their settings, and the content of the files that these name.

    `without` are settings to leave out, such as tuned ones.
    """
    settings = {key: text for key, text in as_text(run.config).items() if key not in without}
    for key in BY_CONTENT:
        if key in run.content:
            settings = {k: v for k, v in settings.items() if not _names_file(k, key)}
    if "components" in run.env:  # else only their paths are known
        settings.pop("use", None)
    return frozenset((settings | {f"{key}.{SHA256}": sha for key, sha in run.content.items()}).items())


def _names_file(setting: str, key: str) -> bool:
    """Return whether a setting is `key` or one of a component's own in that slot."""
    return setting == key or (setting.startswith(f"{key}.") and setting not in SLOT_SETTINGS)


def _shown_settings(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return the settings of each run as they are shown: as_text, in which equal content has equal settings.

    Files are named by their paths, those of the first run that has the content. Where different content has the same
    settings, or a component has several sources, the beginning of the sha256 tells them apart.
    """
    shown = [as_text(run.config) for run in runs]
    for run, settings in zip(runs, shown, strict=True):
        if "components" in run.env:
            settings.pop("use", None)
    for key in dict.fromkeys([*BY_CONTENT, *(key for run in runs for key in run.content)]):
        if key in BY_CONTENT:
            _name_by_content(key, runs, shown)
        else:
            for run, settings in zip(runs, shown, strict=True):
                settings[f"{key}.{SHA256}"] = run.content.get(key, "unknown")[:SHOWN]
    return shown


def _name_by_content(key: str, runs: Sequence[Run], shown: Sequence[dict[str, str]]) -> None:
    """Give runs with the same content of `key` the same settings in `shown`, and runs with other content others."""
    names: dict[str, dict[str, str]] = {}  # content -> its settings
    contents = []
    for run, settings in zip(runs, shown, strict=True):
        own = {k: text for k, text in settings.items() if _names_file(k, key)}
        contents.append(run.content.get(key) or f"unknown {own}")
        named = names.setdefault(contents[-1], own)
        if named != own:
            others = {k: text for k, text in settings.items() if k not in own}
            settings.clear()
            settings |= others | named
    if len({json.dumps(own, sort_keys=True) for own in names.values()}) < len(names):
        for content, settings in zip(contents, shown, strict=True):
            settings[f"{key}.{SHA256}"] = content.partition(" ")[0][:SHOWN]


def _place(arm: Arm, sweep: SweepFile) -> int:
    """Return an arm's place in the sweep: that of its runs, or else of its label, or else the last."""
    folders = {run.folder.name for run in arm.runs}
    by_runs = [i for i, names in enumerate(sweep.arms) if folders & set(names)]
    by_label = [len(sweep.arms) + i for i, label in enumerate(sweep.labels) if label == arm.label]
    return min(by_runs or by_label or [len(sweep.arms) + len(sweep.labels)])


def as_text(config: dict[str, Any]) -> dict[str, str]:
    """Return the settings that define an arm, flat and written as overrides, without those that are null."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in flatten(config).items()
        if value is not None and key != "seed" and not is_bookkeeping(key)
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


def choose_baseline(
    arms: list[Arm],
    wanted: str | None,
    sweep: SweepFile,
    defaults: dict[str, Any] | None,
    first: Collection[Path] = (),
) -> Arm:
    """Return the arm that the others are compared with; which of them started first never matters.

    It is the arm `wanted`, or else the sweep's baseline, which is its first arm as written. Without a sweep it is the
    arm of the folders `first`; if these have several arms, the one of them that is nearest to `defaults`, or without
    these the first.
    """
    if wanted is not None:
        return _find(arms, wanted)
    baselines = [arm for arm in arms if sweep.arms and {run.folder.name for run in arm.runs} & set(sweep.arms[0])]
    labelled = [arm for arm in arms if arm.label and arm.label == sweep.baseline]
    if len(baselines) == 1 or (labelled and not baselines):
        return baselines[0] if baselines else _find(arms, str(sweep.baseline))
    candidates = [arm for arm in arms if any(run.folder in first for run in arm.runs)] or arms
    if defaults is None:
        return candidates[0]
    usual = as_text(defaults)
    distance = {id(arm): sum(usual.get(k, "null") != v for k, v in arm.settings.items()) for arm in candidates}
    return min(candidates, key=lambda arm: (distance[id(arm)], sorted(arm.settings.items())))


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
