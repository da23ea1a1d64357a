"""Runs on disk -> a table of arms, with differences from a baseline paired by seed, and a picture of the curves."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from gptlab.compare.arms import choose_baseline, group_arms
from gptlab.compare.runs import load_runs, load_sweep
from gptlab.compare.statistics import tabulate
from gptlab.compare.table import print_table
from gptlab.config import ConfigError

PICTURES = (".png", ".pdf", ".svg")

__all__ = ["compare"]


def compare(
    paths: Iterable[str | Path],
    *,
    metric: str = "val/loss",
    baseline: str | None = None,
    csv: str | Path | None = None,
    plot: str | Path | None = None,
    console: Console | None = None,
    defaults: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """Print and return one row per arm of the runs in `paths`, the baseline first.

    `metric` is a key of summary.json. `defaults` is gptlab's own baseline config, nested or flat: without `baseline`
    and without a sweep.yaml that names one, the arm nearest to it is the baseline.
    """
    if plot is not None and Path(plot).suffix not in PICTURES:
        raise ConfigError(f"plot={plot}: the name must end in one of {', '.join(PICTURES)}")
    console = console or Console()
    runs = load_runs(paths)
    sweep = load_sweep(runs)
    arms = group_arms(runs, sweep)
    chosen = choose_baseline(arms, baseline, sweep, defaults)
    arms = [chosen, *(arm for arm in arms if arm is not chosen)]
    table = tabulate(arms, metric)
    repeats = len(runs) - sum(len(arm.runs) for arm in arms)
    print_table(table, metric, question=sweep.question, repeats=repeats, console=console)
    if csv is not None:
        _write(Path(csv), table.to_csv(index=False).encode())
        console.print(f"table: {csv}", markup=False, soft_wrap=True)
    if plot is not None:
        from gptlab.compare.plot import draw_curves  # matplotlib takes a second to import

        _write(Path(plot), draw_curves(arms, metric, sweep.question, Path(plot).suffix[1:]))
        console.print(f"curves: {plot}", markup=False, soft_wrap=True)
    return table


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    os.replace(partial, path)
