"""A run's folder: runs_dir/name/slug-hash, found again by the same config."""

import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

from gptlab.config import BOOKKEEPING, ConfigError, Settings, plain, read_yaml, registry
from gptlab.config.diff import short_diff
from gptlab.runs.weights import weights_hash

SLUG_LENGTH = 80  # characters
SECTIONS = ("norm", "size", "data", "budget", "train", "eval")  # that every run's config has
NOT_IN_SLUG = (
    "seed",
    "use",
    "data.path",
    "tokenizer.path",
)  # paths are long and differ by machine


def run_dir(cfg: Settings) -> Path:
    """Return the folder of the run that `cfg` describes."""
    return Path(cfg.runs_dir).joinpath(cfg.name, f"{slug(cfg)}-{digest(cfg)}")


def slug(cfg: Settings) -> str:
    """Return the differences from the baseline as a name, cut to SLUG_LENGTH: `placement-post_norm-rmsnorm_seed-1`."""
    parts = [_slug_part(k, v) for k, v in short_diff(cfg).items() if k not in NOT_IN_SLUG]
    seed = f"seed-{cfg.seed}"
    room = SLUG_LENGTH - len(seed) - 1
    fitting = [start for start in itertools.accumulate(parts, "{}_{}".format) if len(start) <= room]
    if fitting:
        name = fitting[-1]
    else:
        name = parts[0][:room].rstrip("_.-") if parts else "baseline"
    return f"{name}_{seed}"


def _slug_part(key: str, value: Any) -> str:
    if key == "train.init_from":
        value = Path(value).name
    elif isinstance(value, float):
        value = re.sub(r"e\+0*", "e", f"{value:g}")  # 2e6, since the slug has no room for a plus sign
    elif isinstance(value, bool) or value is None:
        value = {True: "on", False: "off", None: "none"}[value]
    name, text = (re.sub(r"[^\w.]+", "-", str(part)) for part in (key, value))
    return f"{name}-{text}".rstrip("-")  # -1 is a dash and -1


def digest(cfg: Settings) -> str:
    """Hash everything that decides the run's outcome to eight hex digits.

    The user's component files and the weights of train.init_from count by their content, not by their path.
    """
    tree = {k: v for k, v in plain(cfg).items() if k not in BOOKKEEPING}
    tree["use"] = [hashlib.sha256(p.read_bytes()).hexdigest() for p in use_files(cfg)]
    if source := tree["train"]["init_from"]:
        tree["train"] = tree["train"] | {"init_from": weights_hash(Path(source).expanduser(), "train.init_from")}
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:8]


def use_files(cfg: Settings) -> list[Path]:
    """Return the user's component files that `use` names."""
    use = plain(cfg)["use"] or []
    return [Path(p) for p in ([use] if isinstance(use, str) else use)]


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
