"""A run's folder: runs_dir/name/slug-hash, found again by the same config."""

import functools
import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

from gptlab.config import BOOKKEEPING, AnyConfig, ConfigError, plain, read_yaml, registry
from gptlab.config.diff import short_diff
from gptlab.runs import checkpoint

SLUG_LENGTH = 80
ENDED = ("finished", "diverged")  # outcomes; a failed run has none
PATHS = ("data.path", "tokenizer.path")  # too long to name a folder by, and they differ between machines


def run_dir(cfg: AnyConfig) -> Path:
    return Path(cfg.runs_dir) / cfg.name / f"{slug(cfg)}-{digest(cfg)}"


def slug(cfg: AnyConfig) -> str:
    """What differs from the baseline, as far as it is short: `placement-post_norm-rmsnorm_seed-1`."""
    words = [_word(k, v) for k, v in short_diff(cfg).items() if k not in ("seed", "use", *PATHS)]
    seed = f"seed-{cfg.seed}"
    room = SLUG_LENGTH - len(seed) - 1
    starts = [s for s in itertools.accumulate(words, "{}_{}".format) if len(s) <= room]
    kept = starts[-1] if starts else words[0][:room].rstrip("_.-") if words else "baseline"
    return f"{kept}_{seed}"


def _word(key: str, value: Any) -> str:
    if key == "train.init_from":
        value = Path(value).name
    elif isinstance(value, float):
        value = f"{value:g}"
    elif isinstance(value, bool) or value is None:
        value = {True: "on", False: "off", None: "none"}[value]
    return re.sub(r"[^\w.]+", "-", f"{key}-{value}").strip("-")


def digest(cfg: AnyConfig) -> str:
    """Eight hex digits over all that decides the run's outcome: of the user's files and of weights, the content."""
    tree = {k: v for k, v in plain(cfg).items() if k not in BOOKKEEPING}
    tree["use"] = [hashlib.sha256(p.read_bytes()).hexdigest() for p in use_files(cfg)]
    if source := tree["train"]["init_from"]:
        tree["train"] = tree["train"] | {"init_from": weights_hash(Path(source).expanduser(), "train.init_from")}
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:8]


def use_files(cfg: AnyConfig) -> list[Path]:
    use = plain(cfg)["use"] or []
    return [Path(p) for p in ([use] if isinstance(use, str) else use)]


def open_config(folder: Path) -> AnyConfig:
    """The config of a run, with the user's components registered from the copies in its folder."""
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder}: not a run's folder; there is no config.yaml in it")
    registry.load(sorted((folder / "components").glob("*.py")))
    cfg = read_yaml(folder / "config.yaml")
    return cfg if "name" in cfg.model else cfg.edited("model.name", "gpt")  # written when there was no other model


def kind_of(folder: Path, place: str) -> str:
    """`run` or `transformers`, by what is in a folder with weights. `place` is where it was named."""
    if not folder.is_dir():
        raise ConfigError(f"{place}={folder}: no such folder; nothing is downloaded: give one on this machine")
    run, theirs = (folder / "config.yaml").is_file(), (folder / "config.json").is_file()
    if run == theirs:
        has = "both config.yaml and config.json" if run else "neither config.yaml nor config.json"
        raise ConfigError(f"{place}={folder}: has {has}; give a run's folder or one of transformers")
    return "run" if run else "transformers"


def best_weights(folder: Path, place: str = "") -> Path:
    """A run's best weights, or before its first evaluation the last."""
    files = [folder / "checkpoint" / name for name in (checkpoint.BEST, checkpoint.LAST)]
    found = next((file for file in files if file.exists()), None)
    if found is None:
        raise ConfigError(f"{place}{folder}: has no checkpoint yet; one is written at every evaluation")
    return found


def weights_files(folder: Path, place: str) -> list[Path]:
    """The files that say all about the weights in a folder; in one of transformers the config says where each goes."""
    if kind_of(folder, place) == "run":
        return [best_weights(folder, f"{place}=")]
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ConfigError(f"{place}={folder}: has no model.safetensors; save_pretrained of transformers writes it")
    return [folder / "config.json", *files]


def weights_hash(folder: Path, place: str) -> str:
    """sha256 of the content of `weights_files`, hex."""
    digests = [_file_hash(p, p.stat().st_size, p.stat().st_mtime_ns) for p in weights_files(folder, place)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


@functools.lru_cache(maxsize=256)  # a sweep asks once a cell, and weights are large
def _file_hash(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
