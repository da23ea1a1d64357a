"""The comparison in a terminal. Numbers are never cut; names of arms are folded to fit, but not in a pipe."""

import re
from collections.abc import Iterable, Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.analysis.published import AGREES, DISAGREES
from gptlab.compare.analysis.verdict import BETTER, EQUIVALENT, EXPLORATORY, INTERIM, UNSTABLE, WORSE
from gptlab.compare.views.budget_captions import equal_budget_lines
from gptlab.compare.views.captions import (
    captions,
    matched_lines,
    multiplier_lines,
    outcome_lines,
    standing_lines,
    tuning_lines,
)
from gptlab.compare.views.columns import (
    TEXT_TITLES,
    Cells,
    cost_cells,
    factorial_cells,
    multiplied_arms,
    multiplier_cells,
    verdict_cells,
)
from gptlab.compare.views.labels import short_names
from gptlab.compare.views.published_tables import published_arms, published_cells, published_lines

MIN_NAME_WIDTH = 8  # characters; a name is not folded to less
MIN_TEXT_WIDTH = 10  # characters of a column of text: "equivalent", "not shown"
INTERVAL_OR_WORD = re.compile(r"\([\d.<>]+ to [^)]*\)|\S+")
STYLES = {BETTER: "green", WORSE: "red", EQUIVALENT: "blue", UNSTABLE: "yellow", AGREES: "green", DISAGREES: "red"}


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the question, the tables of verdicts and costs, the other findings, and how to read the tables."""
    if comparison.question:
        console.print(Text(comparison.question, "bold"), end="\n\n")
    if comparison.factorial:  # the effects of the choices are what a grid is made for
        columns = factorial_cells(comparison.factorial)
        header = next(iter(columns))
        print_table(header, list(map(Text, columns.pop(header))), columns, console)
        print_lines([comparison.factorial.note], console)
        console.print()
    verdicts = verdict_cells(comparison)
    whole = _arms(comparison)
    arms = whole if _fits(whole, verdicts, console) else _short_arms(comparison)
    print_table("arm", arms, verdicts, console)
    if arms is not whole:
        print_lines(_settings(comparison), console, "dim")
    print_lines(standing_lines(comparison), console, "bold yellow")
    print_lines(outcome_lines(comparison), console)
    if published := published_cells(comparison):
        console.print()
        print_table("published for", list(map(Text, published_arms(comparison))), published, console)
        print_lines(published_lines(comparison), console)
    names = {result.name: short for result, short in zip(comparison.results, _short_arms(comparison), strict=True)}
    if arms is whole:
        names = {result.name: Text(result.name) for result in comparison.results}
    if multiplied := multiplied_arms(comparison):
        console.print()
        print_table("worth in compute", [names[r.name] for r in multiplied], multiplier_cells(comparison), console)
    print_lines(multiplier_lines(comparison), console)
    console.print()
    print_table("arm", list(names.values()), cost_cells(comparison), console)
    print_lines(equal_budget_lines(comparison), console)
    print_lines(matched_lines(comparison), console)
    print_lines(tuning_lines(comparison), console)
    print_lines(captions(comparison), console, "dim")


def _arms(comparison: Comparison) -> list[Text]:
    return [
        Text(r.name) if r.differs in r.name else Text.assemble(r.name, (f" ({r.differs})", "dim"))
        for r in comparison.results
    ]


def _short_arms(comparison: Comparison) -> list[Text]:
    return list(map(Text, short_names(comparison.results).values()))


def _settings(comparison: Comparison) -> Iterator[str]:
    """Yield what each arm differs in, where its short name does not say it."""
    names = short_names(comparison.results)
    for result in comparison.results:
        if result.differs and names[result.name] != result.differs:
            yield f"{names[result.name]}: {result.differs}"


def print_table(header: str, names: list[Text], columns: Cells, console: Console) -> None:
    """Print a table. If a terminal is too narrow for it, these give way, one after the other.

    Columns of text are folded, then the names of the arms; intervals get lines of their own; and what still has no room
    becomes a table below, with the names again.
    """
    if not console.is_terminal or _fits(names, columns, console, header, folded=True):
        _print_whole(header, names, columns, console)
        return
    columns = {title: [_parted(cell) for cell in cells] for title, cells in columns.items()}
    for place, part in enumerate(_parts(header, names, columns, console)):
        console.print("\n" * (place > 0), end="")
        _print_whole(header, names, part, console)


def _parted(cell: str) -> str:
    """Put the interval of a number on a line of its own."""
    return re.sub(r"(?<=\d) (?=[(±])", "\n", cell)


def _parts(header: str, names: list[Text], columns: Cells, console: Console) -> Iterator[Cells]:
    """Yield as many columns at a time as have room beside the folded names."""
    part: Cells = {}
    for title, cells in columns.items():
        if part and not _fits(names, part | {title: cells}, console, header, folded=True):
            yield part
            part = {}
        part = part | {title: cells}
    yield part


def _fits(names: list[Text], columns: Cells, console: Console, header: str = "", *, folded: bool = False) -> bool:
    """Return whether a terminal has room for a table; `folded` if its texts and names may be folded."""
    if not console.is_terminal:
        return True
    widths = _widths(columns)
    longest = max(len(header), *(name.cell_len for name in names))
    if folded:
        widths = {title: _narrowest(title, columns) if title in TEXT_TITLES else w for title, w in widths.items()}
        words = [word for name in (header, *(name.plain for name in names)) for word in name.split()]
        longest = max(MIN_NAME_WIDTH, *map(len, words))
    return longest + sum(widths.values()) + 2 * len(columns) + 1 <= console.width


def _widths(columns: Cells) -> dict[str, int]:
    return {title: max(map(len, "\n".join([title, *cells]).split("\n"))) for title, cells in columns.items()}


def _narrowest(title: str, columns: Cells) -> int:
    """Return how narrow a column of text may become; a verdict of two words and an interval stay on one line."""
    words = INTERVAL_OR_WORD.findall(" ".join([title, *columns[title]]))
    return min(_widths(columns)[title], max(MIN_TEXT_WIDTH, *map(len, words)))


def _print_whole(header: str, names: list[Text], columns: Cells, console: Console) -> None:
    widths = _widths(columns)
    longest = max(len(header), *(name.cell_len for name in names))
    if console.is_terminal:
        room = console.width - 2 * len(columns) - 1 - sum(widths.values())  # for a name if no column is folded
        for title in widths.keys() & TEXT_TITLES:
            fold = min(max(0, longest - room), widths[title] - _narrowest(title, columns))
            widths[title], room = widths[title] - fold, room + fold
        longest = min(longest, max(room, MIN_NAME_WIDTH))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(header, overflow="fold", width=longest)
    for title, width in widths.items():
        table.add_column(
            title, width=width, justify="left" if title in TEXT_TITLES else "right", no_wrap=title not in TEXT_TITLES
        )
    for name, *cells in zip(names, *columns.values(), strict=True):
        table.add_row(name, *(Text(cell, _style(cell)) for cell in cells))
    table.width = longest + sum(widths.values()) + 2 * len(columns) + 1
    console.print(table, crop=False, no_wrap=True, overflow="ignore")


def _style(cell: str) -> str:
    """Return the style of a verdict; one of the plan's own words has a colour, a marked one the colour of a warning."""
    word = re.split(r" [\[(]", cell.split("\n")[-1])[0]
    marked = any(f"({mark})" in cell for mark in (EXPLORATORY, INTERIM))
    return STYLES[UNSTABLE] if marked else STYLES.get(word, "")


def print_lines(lines: Iterable[str], console: Console, style: str = "") -> None:
    """Print a paragraph with a line for each of its sentences."""
    for i, line in enumerate(lines):
        console.print(Text("\n" * (i == 0) + line, style), soft_wrap=not console.is_terminal)
