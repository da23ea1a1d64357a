"""The verb: which benchmark its flags ask for, what is printed, and what `--json` keeps."""

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

ALONE = {"steps": "--steps", "peer_precision": "--peer-precision"}  # have no meaning with --sweep
WITH_SWEEP = {"cells": "--cells", "loop_cells": "--loop-cells"}  # and these without
COUNTS = ("blocks", "steps", "threads", "cells", "loop_cells")


def bench(args: Namespace, console: Console) -> dict[str, Any]:
    """Raises ConfigError before anything is timed."""
    flags = {k: v for k, v in vars(args).items() if v is not None and k not in ("overrides", "sweep", "json")}
    _check(args, flags)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None

    def tell(line: str) -> None:  # not a spinner, which would turn while steps are timed
        if console.is_terminal:
            console.print(Text(f"... {line}", "dim"))

    if args.sweep:
        from gptlab.bench.sweeps import bench_sweep

        figures = bench_sweep(args.overrides, tell, **flags)
    else:
        from gptlab.bench.steps import bench_steps

        figures = bench_steps(args.overrides, tell, **flags)
    figures = {"command": _command(args, flags), "load_before": load, **figures}
    print_figures(figures, console)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def _check(args: Namespace, flags: dict[str, Any]) -> None:
    for key in COUNTS:
        if flags.get(key, 1) < 1:
            raise ConfigError(f"--{key.replace('_', '-')}={flags[key]}: must be at least 1")
    for key, flag in (ALONE if args.sweep else WITH_SWEEP).items():
        if key in flags:
            raise ConfigError(f"{flag}={flags[key]}: has no meaning {'with' if args.sweep else 'without'} --sweep")
    if args.json and not args.json.parent.is_dir():
        raise ConfigError(f"--json {args.json}: there is no folder {args.json.parent}; make it first")


def _command(args: Namespace, flags: dict[str, Any]) -> str:
    """As it was typed, but for where the user's files are, which is nobody else's."""
    words = ["gptlab", "bench", *(["--sweep"] if args.sweep else []), *map(_placeless, args.overrides)]
    for key, value in flags.items():
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{key.replace('_', '-')}", re.sub("=.*", "=PATH", str(one))]
    return shlex.join(words)


def _placeless(word: str) -> str:
    key, _, value = word.partition("=")
    path = value.strip("'")
    return f"{key}={Path(path).name}" if path.startswith(("/", "~")) else word
