"""`gptlab plan`: print what a sweep would run and what it would cost."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gptlab.config.overrides import typed

LABEL_WIDTH = len("literature") + 2  # the longest label
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def print_plan(plan: dict[str, Any], console: Console) -> None:
    """Print the document that gptlab.sweeps.plan.plan_document returned."""

    def line(title: str, text: str) -> None:
        console.print(Text(f"{title:<{LABEL_WIDTH}}{text}"), soft_wrap=True)

    line("sweep", f"{plan['name']}, into {plan['folder']}")
    for title in ("question", "literature"):
        if plan[title]:
            line(title, plan[title])
    looks = f": {plan['first_look']} for every arm, more for arms that are not settled" if plan["first_look"] else ""
    line("seeds", ", ".join(map(str, plan["seeds"])) + looks)
    if tuning := plan["tuning"]:
        grid = " ".join(f"{key}={','.join(values)}" for key, values in tuning["grid"].items())
        line("tuning", f"{grid} on seeds {', '.join(map(str, tuning['seeds']))}: {tuning['n_cells']} cells")
    done = plan["n_cells"] - plan["n_left"]
    most = "at most " if plan["first_look"] else ""
    line("cells", f"{most}{plan['n_cells']}" + (f", {done} of them done" if done else ""))
    line("cost", _cost(plan))
    console.print()
    console.print(_arms(plan))


def _cost(plan: dict[str, Any]) -> str:
    if plan["tokens"] is None:
        seconds = sum(cell["seconds"] or 0 for cell in plan["cells"])
        return f"{seconds:,.0f} seconds of training, one cell after another"
    cost = f"{_short(plan['tokens'])} tokens, {plan['flops']:.3g} FLOPs"
    if not (estimate := plan["estimate"]):
        return f"{cost}; no run in the folder has measured a speed yet"
    minutes = estimate["seconds"] / 60
    return (
        f"{cost}, about {minutes:,.0f} minutes, one cell after another, at the speed of {estimate['n_measured']} runs"
    )


def _arms(plan: dict[str, Any]) -> Table:
    """Return a row for each arm: what varies, parameters, and the budget of one cell."""
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("arm")
    for title in ("parameters", "FLOPs/token", "steps", "tokens"):
        table.add_column(title, justify="right")
    for arm in plan["arms"]:
        varying = " ".join(f"{key}={value}" for key, value in arm["varying"].items() if key != "variant")
        name = arm["name"] if varying in ("", arm["name"]) else f"{arm['name']} ({varying})"
        numbers = (arm["parameters"], arm["flops_per_token"], arm["steps"], arm["tokens"])
        table.add_row(Text(name), *("-" if number is None else _short(number) for number in numbers))
    return table


def _short(number: float) -> str:
    """1234567 -> 1.23M."""
    for size, unit in UNITS:
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return typed(int(number))
