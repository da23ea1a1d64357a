"""Folders with weights: a run's own, or one that transformers wrote."""

import functools
import hashlib
from pathlib import Path

from gptlab.config import ConfigError
from gptlab.runs import checkpoint


def folder_kind(folder: Path, setting: str) -> str:
    """Return `run` or `transformers`, judged by the files in a folder with weights.

    `setting` is what named the folder, such as train.init_from, for the error. Raises ConfigError if it is neither.
    """
    if not folder.is_dir():
        raise ConfigError(f"{setting}={folder}: no such folder; nothing is downloaded: give one on this machine")
    is_run, is_transformers = (folder / "config.yaml").is_file(), (folder / "config.json").is_file()
    if is_run == is_transformers:
        has = "both config.yaml and config.json" if is_run else "neither config.yaml nor config.json"
        raise ConfigError(f"{setting}={folder}: has {has}; give a run's folder or one of transformers")
    return "run" if is_run else "transformers"


def best_weights(folder: Path, setting: str = "") -> Path:
    """Return the file with a run's best weights, or with its last ones before the first evaluation."""
    for name in (checkpoint.BEST, checkpoint.LAST):
        if (file := folder / "checkpoint" / name).exists():
            return file
    raise ConfigError(f"{setting}{folder}: has no checkpoint yet; one is written at every evaluation")


def weights_files(folder: Path, setting: str) -> list[Path]:
    """Return the files that determine the weights; in a transformers folder the config too, which names the layers."""
    if folder_kind(folder, setting) == "run":
        return [best_weights(folder, f"{setting}=")]
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ConfigError(f"{setting}={folder}: has no model.safetensors; save_pretrained of transformers writes it")
    return [folder / "config.json", *files]


def weights_hash(folder: Path, setting: str) -> str:
    """Return the sha256, in hex, over the contents of `weights_files`."""
    digests = [_file_hash(p, p.stat().st_size, p.stat().st_mtime_ns) for p in weights_files(folder, setting)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


@functools.lru_cache(maxsize=256)  # a sweep asks once per cell, and weights are large
def _file_hash(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
