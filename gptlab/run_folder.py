"""A run's folder: runs_dir/name/slug-hash, found again by the same config; and who is writing in it."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from gptlab import registry
from gptlab.compose import named_differences, plain
from gptlab.config import BOOKKEEPING, ConfigError

SLUG_LENGTH = 80
ENDED = ("finished", "diverged")  # outcomes; a failed run has none


class Busy(Exception):
    """Another process is writing in this run's folder."""


def run_dir(cfg: DictConfig) -> Path:
    return Path(cfg.runs_dir) / cfg.name / f"{slug(cfg)}-{digest(cfg)}"


def slug(cfg: DictConfig) -> str:
    """What differs from the baseline, as far as it is short: `placement-post_norm-rmsnorm_seed-1`."""
    words = [_word(k, v) for k, v in named_differences(cfg).items() if k not in ("seed", "use", "data.path")]
    seed = f"seed-{cfg.seed}"
    room = SLUG_LENGTH - len(seed) - 1
    starts = [s for s in itertools.accumulate(words, "{}_{}".format) if len(s) <= room]
    kept = starts[-1] if starts else words[0][:room].rstrip("_.-") if words else "baseline"
    return f"{kept}_{seed}"


def _word(key: str, value: Any) -> str:
    if isinstance(value, float):
        value = f"{value:g}"
    elif isinstance(value, bool) or value is None:
        value = {True: "on", False: "off", None: "none"}[value]
    return re.sub(r"[^\w.]+", "-", f"{key}-{value}").strip("-")


def digest(cfg: DictConfig) -> str:
    """Eight hex digits over all that decides the run's outcome, the content of the user's files among it."""
    tree = {k: v for k, v in plain(cfg).items() if k not in BOOKKEEPING}
    tree["use"] = [hashlib.sha256(p.read_bytes()).hexdigest() for p in use_files(cfg)]
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:8]


def use_files(cfg: DictConfig) -> list[Path]:
    use = plain(cfg)["use"] or []
    return [Path(p) for p in ([use] if isinstance(use, str) else use)]


def make_folder(folder: Path) -> None:
    """A run's folder, or one line on why it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"runs_dir={folder.parents[1]}: cannot be written ({e.strerror}); give another") from e


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run's folder. The lock goes with the process, however that ends."""
    make_folder(folder)
    lock = FileLock(folder / ".lock", timeout=2)  # seconds; is_locked holds it for an instant
    try:
        lock.acquire()
    except Timeout:
        raise Busy(f"{folder}: another process is running this") from None
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a live process holds the run's folder."""
    if not (folder / ".lock").exists():
        return False
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True


def open_config(folder: Path) -> DictConfig:
    """The config of a run, with the user's components registered from the copies in its folder."""
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder}: not a run's folder; there is no config.yaml in it")
    registry.load(sorted((folder / "components").glob("*.py")))
    return OmegaConf.load(folder / "config.yaml")  # type: ignore[return-value]
