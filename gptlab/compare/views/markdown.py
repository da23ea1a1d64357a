"""The comparison as GitHub-flavoured Markdown, for the folder of an experiment."""

from collections.abc import Iterable, Iterator, Sequence

from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.analysis.setup import Fact
from gptlab.compare.analysis.verdict import DEFINITIONS
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
    breakdown_cells,
    cost_cells,
    equal_budget_cells,
    factorial_cells,
    mean_cells,
    multiplied_arms,
    multiplier_cells,
    verdict_cells,
)
from gptlab.compare.views.published_tables import HEADING, published_arms, published_cells, published_lines


def render_markdown(comparison: Comparison, picture: str | None = None) -> str:
    """Return the text. `picture` is the path of the picture, relative to the text's own folder."""
    return "\n\n".join(_blocks(comparison, picture)) + "\n"


def _blocks(comparison: Comparison, picture: str | None) -> Iterator[str]:
    yield f"# {escaped(comparison.question or comparison.metric)}"
    if comparison.literature:
        yield f"What others found: {comparison.literature}"
    if comparison.factorial:
        yield "## Main effects"
        columns = factorial_cells(comparison.factorial)
        header = next(iter(columns))
        yield table(header, columns.pop(header), columns)
        yield escaped(comparison.factorial.note)
    yield "## Verdicts"
    yield table("arm", [arm_name(r) for r in comparison.results], verdict_cells(comparison))
    yield from (f"**{escaped(line)}**" for line in standing_lines(comparison))
    yield _list([*outcome_lines(comparison), *captions(comparison)])
    if picture:
        yield f"![Effects and curves](<{picture}>)"
    if published := published_cells(comparison):
        yield f"## {HEADING}"
        yield table("arm", published_arms(comparison), published)
        yield from listed(published_lines(comparison))
    if multiplied := multiplied_arms(comparison):
        yield "## Worth in compute"
        yield table("arm", [r.name for r in multiplied], multiplier_cells(comparison))
    yield from listed(multiplier_lines(comparison))
    yield "## Costs"
    names = [r.name for r in comparison.results]
    yield table("arm", names, cost_cells(comparison))
    yield "The first row is the baseline; the other rows are relative to it."
    yield from listed(matched_lines(comparison))
    for breakdown in comparison.breakdowns:
        yield f"## {breakdown.title}"
        yield table("arm", names, breakdown_cells(breakdown))
    if comparison.equal_budgets and len(names) > 1:
        yield "## At equal steps, tokens, FLOPs and seconds"
        yield table("arm", names[1:], equal_budget_cells(comparison))
        yield from listed(equal_budget_lines(comparison, in_table=True))
    if comparison.tuning:
        yield "## Tuning"
        yield _list(tuning_lines(comparison))
    if comparison.factorial:
        yield "## Means over the grid"
        for title, means in mean_cells(comparison.factorial):
            yield f"Mean {comparison.metric}, {escaped(title)}:"
            corner = next(iter(means))
            yield table(corner, means.pop(corner), means)
    yield from provenance([comparison], comparison.command, comparison.setup)


def provenance(comparisons: Sequence[Comparison], command: str | None, setup: Sequence[Fact]) -> Iterator[str]:
    """Yield what the verdicts mean, what was trained, and how the runs were made."""
    yield "## What the verdicts mean"
    yield "\n".join(f"- **{word}**: {escaped(meaning)}." for word, meaning in DEFINITIONS.items())
    if setup:
        yield "## What was trained"
        yield "\n".join(f"- **{fact.name}**: {escaped(fact.text)}" for fact in setup)
    yield "## How to reproduce"
    if command:
        yield f"    {command}"
    seconds = sum(comparison.runs["seconds"].sum() for comparison in comparisons)
    yield f"{sum(len(comparison.runs) for comparison in comparisons)} runs, {seconds:,.0f} seconds of training in all."
    yield from listed(dict.fromkeys(line for comparison in comparisons for line in comparison.hardware))


def arm_name(result: Result) -> str:
    """Return an arm's name with the settings in which it differs, unless the name says them."""
    return result.name if result.differs in result.name else f"{result.name} ({result.differs})"


def table(header: str, names: Iterable[str], columns: Cells) -> str:
    """Return a table with a row for each name."""
    heads = [header, *(title.replace("-\n", "").replace("\n", " ") for title in columns)]
    rows = [list(row) for row in zip(names, *columns.values(), strict=True)]
    rules = ["---", *("---" if title in TEXT_TITLES else "---:" for title in columns)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [_cells(heads), rules, *map(_cells, rows)])


def _cells(row: Iterable[str]) -> list[str]:
    return [escaped(cell).replace("\n", "<br>") for cell in row]


def listed(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines as one list, or nothing if there are none."""
    if text := _list(lines):
        yield text


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def escaped(text: str) -> str:
    """Escape the characters that Markdown or HTML would interpret."""
    for sign in "\\|<*_`":
        text = text.replace(sign, f"\\{sign}")
    return text
