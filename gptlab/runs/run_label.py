"""The label of a run: what sets it apart from others in a few words, for the lists and legends of a tracker."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from gptlab.config import Settings, is_bookkeeping
from gptlab.config.diff import diff_from_baseline, short_diff
from gptlab.config.overrides import typed

NOT_OF_ARM = ("seed", "use")
MOST = 128  # characters of a name in W&B


@dataclass(frozen=True)
class RunLabel:
    """The words by which a tracker lists a run: its name, arm, tags and notes."""

    arm: str  # groups the seeds
    name: str  # such as "swiglu lr=0.014 s3"
    tags: Sequence[str] = ()  # the settings that set it apart, such as "ffn=swiglu"
    notes: str | None = None  # the question of its sweep

    @classmethod
    def of(cls, arm: str, words: Sequence[str], settings: Mapping[str, str], seed: int | str) -> "RunLabel":
        """Return the label of the run of an arm with a seed, named by `words`, or `baseline` if there are none."""
        end = f" s{seed}"
        name = (" ".join(words) or "baseline")[: MOST - len(end)] + end
        return cls(arm, name, [f"{key}={value}" for key, value in settings.items()])


def short(settings: Mapping[str, str]) -> list[str]:
    """Return settings as text, each under the last part of its key unless another ends likewise: ["lr=0.014"]."""
    ends = Counter(key.rpartition(".")[2] for key in settings)
    shortened = ((key, key.rpartition(".")[2]) for key in settings)
    return [f"{end if ends[end] == 1 else key}={settings[key]}" for key, end in shortened]


def label_of(cfg: Settings) -> RunLabel:
    """Return the label of a run that no sweep has labelled: by its variant, W&B's sweep, or what it changes."""
    if cfg.variant:
        return RunLabel.of(cfg.variant, [cfg.variant], {}, cfg.seed)
    chosen = _chosen_by_agent()
    if chosen:
        arm = " ".join(f"{key}={value}" for key, value in chosen.items())
        return RunLabel.of(arm, short(chosen), chosen, cfg.seed)
    arm = " ".join(f"{key}={value}" for key, value in _typed(diff_from_baseline(cfg)).items()) or "baseline"
    changed = _typed(short_diff(cfg))
    return RunLabel.of(arm, short(changed), changed, cfg.seed)


def _typed(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as typed, without those in which the runs of an arm differ."""
    return {k: typed(v) for k, v in settings.items() if k not in NOT_OF_ARM and not is_bookkeeping(k)}


def _chosen_by_agent() -> dict[str, str]:
    """Return the settings that `wandb agent` has chosen for this process, as its file lists them; {} without one."""
    path = os.environ.get("WANDB_SWEEP_PARAM_PATH")
    if not path:
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
        values = {key: entry["value"] for key, entry in content.items() if isinstance(entry, dict)}
    except (OSError, yaml.YAMLError, AttributeError, KeyError):  # the file of another version of wandb
        return {}
    return _typed(values)
