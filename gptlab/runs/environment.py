"""The machine, versions and code of a run, for env.json: why two runs differ in speed or in the last digit."""

import functools
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("gptlab", "torch", "numpy", "hydra-core", "wandb", "tiktoken", "tokenizers")


def environment(data_hash: str | None, components: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the content of env.json: date, command, host, packages, hardware, git commit, hashes of data and code.

    `components` are the user's, each with the hash of its source.
    """
    import torch  # takes seconds, which listing names must not cost

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": _versions(),
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "git": git_state(Path.cwd()),
        "data_hash": data_hash,
        "components": dict(components or {}),
    }


@functools.cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


@functools.cache
def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


@functools.cache
def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of the checkout around `folder` and whether a tracked file differs; None outside of one.

    The answer is kept for the whole process: the code that runs is the code that was imported, whatever is committed
    in the meantime.
    """
    try:
        commit = _output(folder, "git", "rev-parse", "HEAD")
        changed = _output(folder, "git", "status", "--porcelain", "--untracked-files=no")
        return {"commit": commit, "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, no commit yet
        return None


def _output(folder: Path, *command: str) -> str:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
