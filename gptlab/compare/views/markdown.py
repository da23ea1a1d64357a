"""The comparison as GitHub-flavoured Markdown, for the folder of an experiment."""

from collections.abc import Iterable, Iterator

from gptlab.compare.analysis.comparison import Comparison
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


def render_markdown(comparison: Comparison, picture: str | None = None) -> str:
    """Return the text. `picture` is the path of the picture, relative to the text's own folder."""
    return "\n\n".join(_blocks(comparison, picture)) + "\n"


def _blocks(comparison: Comparison, picture: str | None) -> Iterator[str]:
    yield f"# {_escaped(comparison.question or comparison.metric)}"
    if comparison.literature:
        yield f"What others found: {comparison.literature}"
    yield "## Verdicts"
    yield _table("arm", [_arm(r.name, r.differs) for r in comparison.results], verdict_cells(comparison))
    yield from (f"**{_escaped(line)}**" for line in standing_lines(comparison))
    yield _list([*outcome_lines(comparison), *captions(comparison)])
    if picture:
        yield f"![Effects and curves](<{picture}>)"
    if multiplied := multiplied_arms(comparison):
        yield "## Worth in compute"
        yield _table("arm", [r.name for r in multiplied], multiplier_cells(comparison))
    yield from _listed(multiplier_lines(comparison))
    yield "## Costs"
    names = [r.name for r in comparison.results]
    yield _table("arm", names, cost_cells(comparison))
    yield "The first row is the baseline; the other rows are relative to it."
    yield from _listed(matched_lines(comparison))
    for breakdown in comparison.breakdowns:
        yield f"## {breakdown.title}"
        yield _table("arm", names, breakdown_cells(breakdown))
    if comparison.equal_budgets and len(names) > 1:
        yield "## At equal steps, tokens, FLOPs and seconds"
        yield _table("arm", names[1:], equal_budget_cells(comparison))
        yield from _listed(equal_budget_lines(comparison, in_table=True))
    if comparison.tuning:
        yield "## Tuning"
        yield _list(tuning_lines(comparison))
    if comparison.factorial:
        yield "## Effects over the grid"
        columns = factorial_cells(comparison.factorial)
        header = next(iter(columns))
        yield _table(header, columns.pop(header), columns)
        yield _escaped(comparison.factorial.note)
        for title, means in mean_cells(comparison.factorial):
            yield f"Mean {comparison.metric}, {_escaped(title)}:"
            corner = next(iter(means))
            yield _table(corner, means.pop(corner), means)
    yield from _provenance(comparison)


def _provenance(comparison: Comparison) -> Iterator[str]:
    yield "## What the verdicts mean"
    yield "\n".join(f"- **{word}**: {_escaped(meaning)}." for word, meaning in DEFINITIONS.items())
    yield "## How to reproduce"
    if comparison.command:
        yield f"    {comparison.command}"
    seconds = comparison.runs["seconds"].sum()
    yield f"{len(comparison.runs)} runs, {seconds:,.0f} seconds of training in all."
    yield from _listed(comparison.hardware)


def _arm(name: str, differs: str) -> str:
    return name if differs in name else f"{name} ({differs})"


def _table(header: str, names: Iterable[str], columns: Cells) -> str:
    heads = [header, *(title.replace("-\n", "").replace("\n", " ") for title in columns)]
    rows = [list(row) for row in zip(names, *columns.values(), strict=True)]
    rules = ["---", *("---" if title in TEXT_TITLES else "---:" for title in columns)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [_cells(heads), rules, *map(_cells, rows)])


def _cells(row: Iterable[str]) -> list[str]:
    return [_escaped(cell) for cell in row]


def _listed(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines as one list, or nothing if there are none."""
    if text := _list(lines):
        yield text


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_escaped(line)}" for line in lines)


def _escaped(text: str) -> str:
    """Escape the characters that Markdown or HTML would interpret."""
    for sign in "\\|<*_`":
        text = text.replace(sign, f"\\{sign}")
    return text
