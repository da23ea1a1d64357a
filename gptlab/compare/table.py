"""The table of arms in a terminal."""

from collections.abc import Hashable, Iterator
from math import isnan
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gptlab.compare.statistics import CONFIDENCE

UNKNOWN = "-"
NARROW_ARM = 8  # characters


def print_table(frame: pd.DataFrame, metric: str, *, question: str | None, repeats: int, console: Console) -> None:
    """Print what `tabulate` gives. Numbers are never cut; arms are folded to fit a terminal, and whole in a pipe."""
    columns = _columns(frame, metric)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold")
    for header, cells in columns.items():
        table.add_column(header, justify="right", no_wrap=True, min_width=max(map(len, cells)))
    arms = _arms(frame)
    for arm, *cells in zip(arms, *columns.values(), strict=True):
        table.add_row(arm, *cells)
    table.width = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    if console.is_terminal:
        narrowest = table.width - max(arm.cell_len for arm in arms) + NARROW_ARM
        table.width = min(table.width, max(narrowest, console.width))
    if question:
        console.print(Text(question, "bold"), end="\n\n")
    console.print(table, crop=False, no_wrap=True, overflow="ignore")
    console.print(Text("\n" + " ".join(_caption(frame, metric, repeats)), "dim"))


def _columns(frame: pd.DataFrame, metric: str) -> dict[str, list[str]]:
    """The cells under each header."""
    rows = frame.to_dict("records")
    columns = {
        "n": [f"{row['seeds']}" for row in rows],
        f"{metric}\nmean ± std": [_plus_minus(row["mean"], row["std"]) for row in rows],
        f"difference\n± {CONFIDENCE:.0%}": ["baseline", *map(_difference, rows[1:])],
        "params": [si(row["parameters"]) for row in rows],
        "FLOPs\n/token": [si(row["flops_per_token"]) for row in rows],
        "tokens\n/s": [si(row["tokens_per_s"]) for row in rows],
        "di-\nverged": [f"{row['diverged']}" for row in rows],
    }
    for state in ("failed", "unfinished"):
        if frame[state].any():
            columns[state] = [f"{row[state]}" for row in rows]
    return columns


def _arms(frame: pd.DataFrame) -> list[Text]:
    return [
        Text(name) if differs in name else Text.assemble(name, (f" ({differs})", "dim"))
        for name, differs in zip(frame["arm"], frame["differs"], strict=True)
    ]


def si(value: float) -> str:
    """Three digits: 809_536 -> 810K."""
    if isnan(value):
        return UNKNOWN
    for unit in ("", "K", "M", "G", "T", "P"):
        if abs(value) < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}E"


def _difference(row: dict[Hashable, Any]) -> str:
    if row["seeds"] and not row["pairs"]:
        return "no common seed"
    some = f" ({row['pairs']} of {row['seeds']})" if row["pairs"] < row["seeds"] else ""
    return _plus_minus(row["difference"], row["high"] - row["difference"], sign="+") + some


def _plus_minus(value: float, half: float, sign: str = "") -> str:
    if isnan(value):
        return UNKNOWN
    digits = ".4f" if abs(value) < 1000 else ",.0f"
    return f"{value:{sign}{digits}}" + ("" if isnan(half) else f" ± {half:{digits}}")


def _caption(frame: pd.DataFrame, metric: str, repeats: int) -> Iterator[str]:
    lower = ", lower is better" if metric.startswith(("val/", "train/loss")) else ""
    yield f"{metric}: mean and standard deviation over the n finished seeds{lower}."
    if len(frame) > 1:
        yield f"Difference: from {frame['arm'][0]}, paired by seed, with a {CONFIDENCE:.0%} t interval."
    low, high = si(frame["tokens"].min()), si(frame["tokens"].max())
    if low != UNKNOWN:
        yield f"Tokens trained on: {low}." if low == high else f"Tokens trained on: {low} to {high}, not equal."
    if repeats:
        yield f"Runs left out because a later one has the same config and seed: {repeats}."
