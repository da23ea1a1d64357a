"""The figures of a benchmark as tables, in a terminal and in Markdown."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class FigureTable:
    """A table, with notes below it."""

    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def print_figures(figures: Figures, console: Console) -> None:
    """Print the figures of either benchmark."""
    for line in header_lines(figures):
        console.print(Text(line), soft_wrap=True)
    for part in figure_tables(figures):
        console.print()
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        for i, title in enumerate(part.header):
            table.add_column(title, justify="right" if i else "left", no_wrap=True)
        for row in part.rows:
            table.add_row(*map(Text, row))
        table.width = sum(max(map(len, column)) + 2 for column in zip(part.header, *part.rows, strict=True))
        console.print(table, crop=False, no_wrap=True, overflow="ignore")
        for note in part.notes:
            console.print(Text(note, "dim"), soft_wrap=True)


def markdown(figures: Figures) -> str:
    """Return the figures of either benchmark as Markdown."""
    lines = [f"    {figures['command']}", "", *(f"- {line}" for line in header_lines(figures))]
    for part in figure_tables(figures):
        rules = ["---", *["---:"] * (len(part.header) - 1)]
        lines += ["", *(f"| {' | '.join(row)} |" for row in (part.header, rules, *part.rows))]
        lines += ["", *(f"- {note}" for note in part.notes)] if part.notes else []
    return "\n".join(lines) + "\n"


def header_lines(figures: Figures) -> list[str]:
    """Return a line about the machine and a line about what was timed."""
    machine = figures["machine"]
    threads = machine["torch_threads"]
    cpu = f"{machine['cpu']}, {threads} thread{'s' * (threads > 1)} on {machine['cpu_count']} cores"
    packages = ", ".join(f"{name} {machine['packages'][name]}" for name in ("torch", "gptlab"))
    compiled = ", compiled" if machine["compiled"] else ""
    load = "" if figures["load_before"] is None else f"; load {figures['load_before']:.1f} before"
    where = f"{machine['gpu'] or cpu}, {machine['precision']}{compiled}; Python {machine['python']}, {packages}{load}"
    where += f"; measured on {machine['date'][:10]}"
    return [f"machine  {where}", (_cell if figures["kind"] == "sweep" else _model)(figures)]


def figure_tables(figures: Figures) -> list[FigureTable]:
    """Return the tables of a benchmark's figures."""
    if figures["kind"] == "sweep":
        return [_sweep(figures)]
    return [_own(figures), _peers(figures)] if figures["peers"] else [_own(figures)]


def _model(figures: Figures) -> str:
    m = figures["model"]
    batch = f"{m['batch_size']} x {m['window']} = {m['batch_size'] * m['window']:,} tokens a step"
    return f"model    {m['parameters']:,} parameters, {m['flops_per_token'] / 1e6:,.2f} MFLOPs per token; {batch}"


def _cell(figures: Figures) -> str:
    c = figures["cell"]
    did = f"{c['steps']:,} steps = {c['trained_tokens']:,} tokens trained, {c['evaluated_tokens']:,} evaluated"
    return f"cell     {c['parameters']:,} parameters; {did}"


def _own(figures: Figures) -> FigureTable:
    startup, datasheet = figures["startup"], figures["datasheet"]
    best = max(figures["gemm"], key=lambda g: g["flops_per_s"]["median"])
    rows = [
        _row("tokens/s", figures["tokens_per_s"], "{:,.0f}"),
        _row("ms per step", figures["ms_per_step"], "{:,.2f}"),
        _row("GFLOP/s", figures["flops_per_s"], "{:,.1f}", 1e-9),
        *(_row(f"GFLOP/s of {gemm['shape']}", gemm["flops_per_s"], "{:,.1f}", 1e-9) for gemm in figures["gemm"]),
        _row("% of the faster of the two", best["share"], "{:.1f}", 100),
    ]
    if datasheet:
        peak = datasheet["flops_per_s"] / 1e12
        rows.append(_row(f"MFU: % of the datasheet's {peak:g} TFLOP/s", datasheet["mfu"], "{:.1f}", 100))
    memory = "of the device" if figures["machine"]["device"] == "cuda" else "of the process"
    rows += [
        _row(f"peak memory {memory}, MiB", startup["peak_memory_bytes"], "{:,.0f}", 2**-20),
        _row("seconds from start to first step", startup["first_step_s"], "{:.2f}"),
        _row("... to import torch", startup["import_torch_s"], "{:.2f}"),
        _row("... to import torch and gptlab", startup["import_gptlab_s"], "{:.2f}"),
    ]
    n_steps = figures["steps_per_block"]
    blocks = f"{figures['blocks']} blocks of {n_steps} step{'s' * (n_steps != 1)}"
    return FigureTable(
        ["", "median", "min .. max"], rows, [f"{blocks}; the last four lines were measured in new processes"]
    )


def _peers(figures: Figures) -> FigureTable:
    gptlab_row = ["gptlab", f"{figures['model']['parameters']:,}", *_speeds(figures), "", ""]
    rows = [
        [p["name"], f"{p['parameters']:,}", *_speeds(p), f"{p['ratio']['median']:.2f}", _range(p["ratio"], "{:.2f}")]
        for p in figures["peers"]
    ]
    header = ["", "parameters", "tokens/s", "ms per step", "gptlab's speed / its", "min .. max"]
    return FigureTable(header, [gptlab_row, *rows], [_note(p) for p in figures["peers"]])


def _note(peer: Figures) -> str:
    return f"{peer['name']} {peer['version']}: {peer['architecture']}; {peer['precision']}; {peer['how']}"


def _sweep(figures: Figures) -> FigureTable:
    methods, several = figures["ways"], figures["rounds"] > 1
    header = ["", "cells", "cells per hour", *["min .. max"] * several]
    header += ["the sweep's speed / its", *["min .. max"] * several]
    rows: list[list[str]] = []
    for method in methods:
        rate, ratio = (
            [form.format(method[key]["median"]), *[_range(method[key], form)] * several]
            for key, form in (("cells_per_hour", "{:,.0f}"), ("ratio", "{:.2f}"))
        )
        rows.append([method["name"], str(method["cells"]), *rate, *(ratio if rows else [""] * len(ratio))])
    notes = [f"{method['name']}: {method['how']}" for method in methods]
    notes += [f"{figures['rounds']} rounds"] * several
    if any(method["cells"] < methods[0]["cells"] for method in methods):
        notes.append("cells per hour of methods with fewer cells are scaled up from those cells")
    return FigureTable(header, rows, notes)


def _speeds(figures: Figures) -> list[str]:
    return [f"{figures['tokens_per_s']['median']:,.0f}", f"{figures['ms_per_step']['median']:,.2f}"]


def _row(name: str, spread: Mapping[str, float], form: str, scale: float = 1) -> list[str]:
    scaled = {key: value * scale for key, value in spread.items()}
    return [name, form.format(scaled["median"]), _range(scaled, form)]


def _range(spread: Mapping[str, float], form: str) -> str:
    return f"{form.format(spread['low'])} .. {form.format(spread['high'])}"
