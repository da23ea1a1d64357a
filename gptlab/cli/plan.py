"""`gptlab plan` and `gptlab sweep --dry-run`: print what a sweep would run, cost and show."""

from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gptlab.config.overrides import typed
from gptlab.runs.states import OUTCOMES

LABEL_WIDTH = len("literature") + 2  # the longest label
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
UNKNOWN_TIME = "not known: no run in the folder has measured a speed, and no steps were timed"
ASSUMED_NOISE = "assumed, as at size=tiny (experiments/same_arm); --noise gives another"
ASSUMED_SLOPE = "assumed, as at size=tiny (experiments/longer_run); --multiplier measures it"


def print_plan(plan: dict[str, Any], console: Console) -> None:
    """Print the document that gptlab.sweeps.plan.plan_document returned."""
    _line("sweep", f"{plan['name']}, into {plan['folder']}", console)
    for title in ("question", "literature"):
        if plan[title]:
            _line(title, plan[title], console)
    if "rungs" not in plan:
        _print_sweep(plan, console)
        return
    most = "at most " if plan["promote"] or any(rung["first_look"] for rung in plan["rungs"]) else ""
    time = "" if plan["seconds"] is None else f", about {_duration(plan['seconds'])} one cell after another"
    cost = "" if plan["flops"] is None else f", {plan['flops']:.3g} FLOPs of training that is left"
    _line("rungs", f"{len(plan['rungs'])}, {most}{plan['n_cells']} cells{cost}{time}", console)
    if plan["promote"]:
        _line("promote", f"an arm goes on to the next rung if it is {' or '.join(plan['promote'])}", console)
    if plan["unreached"]:
        _line("left out", f"{', '.join(plan['unreached'])}, since no arm went on", console)
    for rung in plan["rungs"]:
        console.print()
        _line("rung", rung["rung"], console)
        _print_sweep(rung, console)


def _line(title: str, text: str, console: Console) -> None:
    console.print(Text(f"{title:<{LABEL_WIDTH}}{text}"), soft_wrap=True)


def _print_sweep(plan: dict[str, Any], console: Console) -> None:
    """Print the seeds, cells, costs and effects of one sweep, and its arms."""

    def line(title: str, text: str) -> None:
        _line(title, text, console)

    looks = f": {plan['first_look']} for every arm, more for arms that are not settled" if plan["first_look"] else ""
    line("seeds", ", ".join(map(str, plan["seeds"])) + looks)
    if tuning := plan["tuning"]:
        grid = " ".join(f"{key}={','.join(values)}" for key, values in tuning["grid"].items())
        line("tuning", f"{grid} on seeds {', '.join(map(str, tuning['seeds']))}: {tuning['n_cells']} cells")
    done = plan["n_cells"] - plan["n_left"]
    most = "at most " if plan["first_look"] else ""
    line("cells", f"{most}{plan['n_cells']}" + (f", {done} of them done" if done else ""))
    if plan["tokens"] is not None:
        line("cost", f"{_short(plan['tokens'])} tokens, {plan['flops']:.3g} FLOPs of training that is left")
    for title, text in [*_times(plan), *_effects(plan["effect"])]:
        line(title, text)
    console.print()
    console.print(_arms(plan))


def _times(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the time that is left and how it is known, and the time at the rate that was asked for."""
    lines = [("time", _estimate(plan["estimate"]) if plan["estimate"] else UNKNOWN_TIME)]
    if rate := plan["at_rate"]:
        text = f"about {_duration(rate['seconds'])} on one device with {rate['flops_per_s']:.3g} FLOPs/s"
        lines.append(("at a rate", text))
    return lines


def _estimate(estimate: dict[str, Any]) -> str:
    seconds, workers, n = estimate["seconds"], estimate["workers"], estimate["n_measured"]
    if not seconds:
        return "nothing is left to run"
    gpu = "GPU " if "cuda" in estimate["device"] else ""
    parts = [f"about {_duration(seconds, gpu)} one cell after another"]
    if workers and workers > 1:
        parts.append(f"about {_duration(estimate['wall_seconds'])} with {workers} cells at once")
    if (share := estimate["evaluation_seconds"] / seconds) >= 0.01:
        parts.append(f"{share:.0%} of it evaluation")
    runs, models = ("run" if n == 1 else "runs"), ("model" if n == 1 else "models")
    known = {
        "runs": f"at the speed of {n} {runs}",
        "timing": f"timed on {estimate['n_steps']} steps of {n} {models}",
        "budget": "the budget in seconds, without evaluation",
    }
    return f"{', '.join(parts)} ({known[estimate['source']]})"


def _effects(effect: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the smallest effect that the seeds can show, the seeds for a margin, and the noise behind both."""
    if not effect["comparisons"]:
        return []
    if effect["sd"] is None:
        return [("shows", f"not known: nothing is known of the noise of {effect['metric']}; --noise gives it")]
    unit = f" {effect['unit']}" if effect["unit"] else ""
    corrected = f", corrected for {effect['comparisons']} comparisons" if effect["comparisons"] > 1 else ""
    lines = [
        (
            "shows",
            f"with {shown['seeds']} seeds a true difference of {shown['effect']:.3g}{unit}"
            f"{_in_compute(shown['compute'])}, at 80% power{corrected}",
        )
        for shown in effect["shown"]
    ] or [("shows", "nothing: fewer than three seeds give no verdict")]
    if target := effect["target"]:
        seeds = f"{target['seeds']} seeds" if target["seeds"] else "more than 1,000 seeds"
        share = f" ({target['text']} of compute)" if target["text"].endswith("%") else ""
        lines.append(("needs", f"{seeds} to show {target['effect']:.3g}{unit}{share}"))
    return lines + _sources(effect)


def _in_compute(share: float | None) -> str:
    """Return an effect as compute: ` (about 12% of compute)`, or ` (about 3.1 times the compute)` for a large one."""
    if share is None:
        return ""
    return f" (about {share:.0%} of compute)" if share < 1 else f" (about {1 + share:.2g} times the compute)"


def _sources(effect: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the noise and the slope, and where they come from."""
    arms = "1 arm" if effect["n_arms"] == 1 else f"{effect['n_arms']} arms"
    pairs = f"the median of {arms} with at least {effect['n_pairs']} pairs"
    known = {"runs": pairs, "given": "as given", "assumed": ASSUMED_NOISE}[effect["sd_source"]]
    lines = [("noise", f"{effect['sd']:.3g}, the standard deviation of a paired difference: {known}")]
    if effect["slope"] is not None:
        known = "of the baseline's budgets" if effect["slope_source"] == "runs" else ASSUMED_SLOPE
        lines.append(("slope", f"{effect['slope']:.3g} for each e-fold of tokens: {known}"))
    return lines


def _arms(plan: dict[str, Any]) -> Table:
    """Return a row for each arm: what varies, its cells, parameters, and the budget of one cell."""
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("arm")
    for title in ("done", "parameters", "FLOPs/token", "steps", "tokens"):
        table.add_column(title, justify="right")
    for arm in plan["arms"]:
        varying = " ".join(f"{key}={value}" for key, value in arm["varying"].items() if key != "variant")
        name = arm["name"] if varying in ("", arm["name"]) else f"{arm['name']} ({varying})"
        numbers = (arm["parameters"], arm["flops_per_token"], arm["steps"], arm["tokens"])
        shown = ("-" if number is None else _short(number) for number in numbers)
        table.add_row(Text(name), f"{arm['n_done']}/{arm['n_cells']}", *shown)
    for name, cells in _at_other_budgets(plan).items():
        done = Counter(cell["state"] in OUTCOMES for cell in cells)[True]
        steps, tokens = ("-" if cells[0][key] is None else _short(cells[0][key]) for key in ("steps", "tokens"))
        table.add_row(Text(name), f"{done}/{len(cells)}", "", "", steps, tokens)
    return table


def _at_other_budgets(plan: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the cells of the baseline at other budgets, by the name of each."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for cell in plan["cells"]:
        if cell["phase"] == "budget":
            groups.setdefault(cell["arm"], []).append(cell)
    return groups


def _duration(seconds: float, gpu: str = "") -> str:
    """Return a time in the unit that suits it: 0.2 seconds, 12 minutes, 3.4 GPU hours."""
    if seconds < 120:
        return f"{seconds:{'.2g' if seconds < 10 else '.0f'}} {gpu}seconds"
    return f"{seconds / 60:.0f} {gpu}minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} {gpu}hours"


def _short(number: float) -> str:
    """1234567 -> 1.23M."""
    for size, unit in UNITS:
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return typed(int(number))
