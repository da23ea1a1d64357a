"""`gptlab bench`: the checks of its flags, and where the figures go."""

import json
import os
import re
import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from gptlab.bench.display import print_figures
from gptlab.config import ConfigError
from gptlab.files import require_writable

STEPS_ONLY = ("steps", "peer_precision")
SWEEP_ONLY = ("cells", "loop_cells")
COUNTS = ("blocks", "steps", "threads", "cells", "loop_cells")


def bench(args: Namespace, console: Console) -> dict[str, Any]:
    """Run the benchmark that the flags ask for, print its figures, write them to `--json`, and return them.

    Raises:
        ConfigError: A flag, an override or a peer is refused; nothing has been timed by then.
    """
    flags = {k: v for k, v in vars(args).items() if v is not None and k not in ("overrides", "sweep", "json")}
    _check(args, flags)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None

    def report(stage: str) -> None:  # no spinner, which would take time from the steps
        if console.is_terminal:
            console.print(Text(f"... {stage}", "dim"))

    if args.sweep:
        from gptlab.bench.sweeps import bench_sweep

        figures = bench_sweep(args.overrides, report, **flags)
    else:
        from gptlab.bench.steps import bench_steps

        figures = bench_steps(args.overrides, report, **flags)
    figures = {"command": _command(args, flags), "load_before": load, **figures}
    print_figures(figures, console)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def _check(args: Namespace, flags: dict[str, Any]) -> None:
    for key in COUNTS:
        if flags.get(key, 1) < 1:
            raise ConfigError(f"{_flag(key)}={flags[key]}: must be at least 1")
    for key in STEPS_ONLY if args.sweep else SWEEP_ONLY:
        if key in flags:
            raise ConfigError(
                f"{_flag(key)}={flags[key]}: has no meaning {'with' if args.sweep else 'without'} --sweep"
            )
    if args.json and not args.json.parent.is_dir():
        raise ConfigError(f"--json {args.json}: there is no folder {args.json.parent}; make it first")
    if args.json:
        require_writable(args.json, f"--json {args.json}")


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _command(args: Namespace, flags: dict[str, Any]) -> str:
    """Return the command as typed, without the folders of the user's files."""
    parts = ["gptlab", "bench", *(["--sweep"] if args.sweep else []), *map(_without_folder, args.overrides)]
    for key, value in flags.items():
        for item in value if isinstance(value, list) else [value]:
            parts += [_flag(key), re.sub("=.*", "=PATH", str(item))]
    return shlex.join(parts)


def _without_folder(override: str) -> str:
    key, _, value = override.partition("=")
    path = value.strip("'")
    return f"{key}={Path(path).name}" if path.startswith(("/", "~")) else override
