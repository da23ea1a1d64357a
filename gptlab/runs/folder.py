"""A run's folder: runs_dir/name/slug-hash, or runs_dir/name/rung/slug-hash, found again by the same config."""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from gptlab.config import (
    BOOKKEEPING,
    COMMON,
    SLOTS,
    ConfigError,
    Settings,
    plain,
    read_yaml,
    registry,
    without_bookkeeping,
)
from gptlab.config.diff import short_diff
from gptlab.config.user_files import source_hash
from gptlab.data.identity import content_of
from gptlab.runs.weights import weights_hash

SLUG_LENGTH = 80  # characters
NOT_IN_SLUG = ("seed", "use")
BY_CONTENT = ("data", "tokenizer")  # slots whose settings may name files, which count by what is in them
SECTIONS = ("norm", "size", "data", "budget", "train", "eval")  # that every run's config has


def run_dir(cfg: Settings, content: Mapping[str, str] | None = None) -> Path:
    """Return the folder of the run that `cfg` describes. `content` is that of `content_of`, if it is known already."""
    return Path(cfg.runs_dir).joinpath(cfg.name, cfg.rung or "", f"{slug(cfg)}-{digest(cfg, content)}")


def slug(cfg: Settings) -> str:
    """Return the differences from the baseline as a name, cut to SLUG_LENGTH: `placement-post_norm-rmsnorm_seed-1`."""
    parts = [_slug_part(k, v) for k, v in short_diff(cfg).items() if k not in NOT_IN_SLUG and not _names_files(k, v)]
    seed = f"seed-{cfg.seed}"
    room = SLUG_LENGTH - len(seed) - 1
    fitting = [start for start in itertools.accumulate(parts, "{}_{}".format) if len(start) <= room]
    if fitting:
        name = fitting[-1]
    else:
        name = parts[0][:room].rstrip("_.-") if parts else "baseline"
    return f"{name}_{seed}"


def _names_files(key: str, value: Any) -> bool:
    """Return whether a setting may be a path: a text in a slot that reads files. Paths differ by machine."""
    slot, dot, setting = key.partition(".")
    return bool(dot) and slot in BY_CONTENT and isinstance(value, str) and setting not in _common(slot)


def _common(slot: str) -> set[str]:
    """Return the settings of a slot that do not belong to the component."""
    return {f.name for f in fields(COMMON[SLOTS[slot]])} if SLOTS[slot] in COMMON else set()


def _slug_part(key: str, value: Any) -> str:
    if key == "train.init_from":
        value = Path(value).name
    elif isinstance(value, float):
        value = re.sub(r"e\+0*", "e", f"{value:g}")  # 2e6, since the slug has no room for a plus sign
    elif isinstance(value, bool) or value is None:
        value = {True: "on", False: "off", None: "none"}[value]
    name, text = (re.sub(r"[^\w.]+", "-", str(part)) for part in (key, value))
    return f"{name}-{text}".rstrip("-")  # -1 is a dash and -1


def digest(cfg: Settings, content: Mapping[str, str] | None = None) -> str:
    """Hash everything that decides the run's outcome to eight hex digits.

    What is read from files counts by its content, wherever it lies: the text, the tokenizer, the weights of
    train.init_from, and the source of those of the user's components that the run uses.
    """
    tree = without_bookkeeping(plain(cfg))
    tree["use"] = components_of(cfg)
    for slot, found in (content_of(cfg) if content is None else content).items():
        shared = {key: value for key, value in tree[slot].items() if key in _common(slot)}
        tree[slot] = shared | {"content": found}
    if source := tree["train"]["init_from"]:
        tree["train"] = tree["train"] | {"init_from": weights_hash(Path(source).expanduser(), "train.init_from")}
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:8]


def components_of(cfg: Settings) -> dict[str, str]:
    """Return the hash of the source of each of the user's components that a run uses: {"norm.my_norm": sha256}.

    `match` is not among them: the width that it chooses is a setting of the run.
    """
    chosen = {slot: registry.entry(slot, cfg[slot]["name"]) for slot in SLOTS if slot not in BOOKKEEPING}
    hashes = {f"{slot}.{entry.name}": source_hash(entry.cls) for slot, entry in chosen.items()}
    return {component: found for component, found in hashes.items() if found}


def use_files(cfg: Settings) -> list[str]:
    """Return the user's component files that `use` names."""
    use = plain(cfg)["use"] or []
    return [use] if isinstance(use, str) else use


def open_config(folder: str | Path) -> Settings:
    """Return the config of a run, and register the user's components from the copies in its folder."""
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder}: not a run's folder; there is no config.yaml in it")
    registry.load(sorted((folder / "components").glob("*.py")))
    cfg = read_yaml(folder / "config.yaml")
    if missing := [section for section in ("model", *SECTIONS) if not isinstance(cfg.get(section), dict)]:
        raise ConfigError(f"{folder / 'config.yaml'}: is cut off, without {missing[0]}; restore it")
    return cfg if "name" in cfg.model else cfg.edited("model.name", "gpt")  # old runs had no other model
