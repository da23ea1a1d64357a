"""The figures as tables: in a terminal, and as Markdown for a page of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """A table with what is to be said below it."""

    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def print_figures(figures: Figures, console: Console) -> None:
    for line in head(figures):
        console.print(Text(line), soft_wrap=True)
    for part in parts(figures):
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
    lines = [f"    {figures['command']}", "", *(f"- {line}" for line in head(figures))]
    for part in parts(figures):
        rules = ["---", *["---:"] * (len(part.header) - 1)]
        lines += ["", *(f"| {' | '.join(row)} |" for row in (part.header, rules, *part.rows))]
        lines += ["", *(f"- {note}" for note in part.notes)] if part.notes else []
    return "\n".join(lines) + "\n"


def head(figures: Figures) -> list[str]:
    """The machine and what was timed, a line for each."""
    machine = figures["machine"]
    threads = machine["torch_threads"]
    cpu = f"{machine['cpu']}, {threads} thread{'s' * (threads > 1)} on {machine['cpu_count']} cores"
    packages = ", ".join(f"{name} {machine['packages'][name]}" for name in ("torch", "gptlab"))
    compiled = ", compiled" if machine["compiled"] else ""
    load = "" if figures["load_before"] is None else f"; load {figures['load_before']:.1f} before"
    where = f"{machine['gpu'] or cpu}, {machine['precision']}{compiled}; Python {machine['python']}, {packages}{load}"
    return [f"machine  {where}", HEADS[figures["kind"]](figures)]


def parts(figures: Figures) -> list[Part]:
    return PARTS[figures["kind"]](figures)


def _model(figures: Figures) -> str:
    m = figures["model"]
    batch = f"{m['batch_size']} x {m['window']} = {m['batch_size'] * m['window']:,} tokens a step"
    return f"model    {m['parameters']:,} parameters, {m['flops_per_token'] / 1e6:,.2f} MFLOPs per token; {batch}"


def _cell(figures: Figures) -> str:
    c = figures["cell"]
    did = f"{c['steps']:,} steps = {c['trained_tokens']:,} tokens trained, {c['evaluated_tokens']:,} evaluated"
    return f"cell     {c['parameters']:,} parameters; {did}"


def _steps(figures: Figures) -> list[Part]:
    return [_own(figures), _peers(figures)] if figures["peers"] else [_own(figures)]


def _own(figures: Figures) -> Part:
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
    blocks = f"{figures['blocks']} blocks of {figures['steps_per_block']} steps"
    return Part(["", "median", "min .. max"], rows, [f"{blocks}; the last four lines are of fresh processes"])


def _peers(figures: Figures) -> Part:
    own = ["gptlab", f"{figures['model']['parameters']:,}", *_speeds(figures), "", ""]
    rows = [
        [p["name"], f"{p['parameters']:,}", *_speeds(p), f"{p['ratio']['median']:.2f}", _range(p["ratio"], "{:.2f}")]
        for p in figures["peers"]
    ]
    header = ["", "parameters", "tokens/s", "ms per step", "gptlab's speed / its", "min .. max"]
    return Part(header, [own, *rows], [_note(p) for p in figures["peers"]])


def _note(peer: Figures) -> str:
    return f"{peer['name']} {peer['version']}: {peer['architecture']}; {peer['precision']}; {peer['how']}"


def _sweep(figures: Figures) -> list[Part]:
    ways, several = figures["ways"], figures["rounds"] > 1
    header = ["", "cells", "cells per hour", *["min .. max"] * several]
    header += ["the sweep's speed / its", *["min .. max"] * several]
    rows = []
    for way in ways:
        rate, ratio = (
            [form.format(way[key]["median"]), *[_range(way[key], form)] * several]
            for key, form in (("cells_per_hour", "{:,.0f}"), ("ratio", "{:.2f}"))
        )
        rows.append([way["name"], str(way["cells"]), *rate, *(ratio if way is not ways[0] else [""] * len(ratio))])
    notes = [f"{way['name']}: {way['how']}" for way in ways]
    notes += [f"{figures['rounds']} rounds"] * several
    fewer = any(way["cells"] < ways[0]["cells"] for way in ways)
    return [Part(header, rows, [*notes, *["where cells are fewer, cells per hour are scaled from them"] * fewer])]


def _speeds(figures: Figures) -> list[str]:
    return [f"{figures['tokens_per_s']['median']:,.0f}", f"{figures['ms_per_step']['median']:,.2f}"]


def _row(name: str, spread: Mapping[str, float], form: str, scale: float = 1) -> list[str]:
    scaled = {key: value * scale for key, value in spread.items()}
    return [name, form.format(scaled["median"]), _range(scaled, form)]


def _range(spread: Mapping[str, float], form: str) -> str:
    return f"{form.format(spread['low'])} .. {form.format(spread['high'])}"


HEADS = {"steps": _model, "sweep": _cell}
PARTS = {"steps": _steps, "sweep": _sweep}
