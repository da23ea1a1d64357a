"""The tables of a comparison for a paper: the verdicts, and what the arms are worth in compute."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.analysis.over_rungs import RungsComparison
from gptlab.compare.analysis.verdict import EXPLORATORY, INTERIM
from gptlab.compare.formatting import UNKNOWN
from gptlab.compare.views.captions import difference_lines, long_notes, multiplier_lines, standing_lines
from gptlab.compare.views.columns import (
    TEXT_TITLES,
    Cells,
    factorial_cells,
    multiplied_arms,
    multiplier_cells,
    verdict_cells,
)
from gptlab.compare.views.labels import short_names, short_names_over
from gptlab.compare.views.rungs_tables import gate_cells, rung_cells, rungs_lines, worth_cells
from gptlab.runs.metrics import metric_named

HEAD = "% Needs \\usepackage{booktabs}.\n"
ESCAPES = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": r"$-$",
    "…": r"\dots{}",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "→": r"$\to$",
    '"': "''",  # \\textquotedbl needs another font encoding than LaTeX's own
    "’": "'",
    "–": "--",
}
SIGNED = re.compile(r"(?<![\w.)])-(?=\d)")  # a minus sign, not a hyphen


def render_latex(comparison: Comparison) -> str:
    """Return the tables of one comparison."""
    return HEAD + "\n".join(_tables(comparison, short_names(comparison.results), "tab:verdicts"))


def render_rungs_latex(comparison: RungsComparison) -> str:
    """Return the tables over the rungs, then those at each rung."""
    return HEAD + "\n".join(_over_rungs(comparison))


def _over_rungs(comparison: RungsComparison) -> Iterator[str]:
    names = short_names_over(comparison)
    arms = [names[arm.name] for arm in comparison.arms]
    question = [comparison.file.question] if comparison.file.question else []
    yield _table("rung", [rung.name for rung in comparison.rungs], rung_cells(comparison), question, "tab:rungs")
    lines = list(rungs_lines(comparison))
    if gates := gate_cells(comparison):
        yield _table("arm", arms, gates, [f"Differences in {comparison.metric} by rung.", *lines], "tab:gates")
    if worth := worth_cells(comparison):
        worth = {title: [cell.replace(" (", "\n(") for cell in cells] for title, cells in worth.items()}
        yield _table("arm", arms, worth, ["Worth in compute by rung, in FLOPs."], "tab:worth")
    for rung in comparison.rungs:
        yield from _tables(rung.comparison, names, f"tab:{rung.name}", f"At {rung.name}. ")


def _tables(comparison: Comparison, names: Mapping[str, str], label: str, before: str = "") -> Iterator[str]:
    arms = [names[result.name] for result in comparison.results]
    if factorial := comparison.factorial:
        columns = factorial_cells(factorial)
        header = next(iter(columns))
        caption = [f"{before}Main effects and interactions of the grid, in {comparison.metric}.", factorial.note]
        yield _table(header, columns.pop(header), columns, caption, f"{label}-grid")
    yield _table("arm", arms, verdict_cells(comparison), _verdict_caption(comparison, names, before), label)
    if multiplied := multiplied_arms(comparison):
        worth = [names[result.name] for result in multiplied]
        caption = [before.strip(), *multiplier_lines(comparison)]
        yield _table("arm", worth, multiplier_cells(comparison), caption, f"{label}-worth")


def _verdict_caption(comparison: Comparison, names: Mapping[str, str], before: str) -> Iterator[str]:
    """Yield what a reader of the table must know: the metric, the tests, the margin, and the notes of the verdicts."""
    better = metric_named(comparison.metric).better
    yield f"{before}{comparison.question or ''}".strip()
    yield f"{comparison.metric}: mean and standard deviation over n seeds; {better} is better."
    if any(result.effect for result in comparison.results):
        yield from difference_lines(comparison)
    if comparison.margin > 0:
        yield f"Margin: {comparison.margin_text}."
    for place, (note, arms) in enumerate(long_notes(comparison).items(), start=1):
        yield f"[{place}] {', '.join(names[arm] for arm in arms)}: {note}."
    if comparison.standing in (EXPLORATORY, INTERIM):
        yield from standing_lines(comparison)


def _table(header: str, names: Sequence[str], columns: Cells, caption: Iterable[str], label: str) -> str:
    """Return a table with rules of booktabs, whose caption stands above it."""
    kinds = "l" + "".join("l" if title in TEXT_TITLES else "r" for title in columns)
    titles = [title.replace("-\n", "").split("\n") for title in (header, *columns)]
    depth = max(map(len, titles))
    heads = [[""] * (depth - len(title)) + title for title in titles]
    lines = [_row([head[i] for head in heads]) for i in range(depth)]
    rows = [_rows(cells) for cells in zip(names, *columns.values(), strict=True)]
    said = escaped(" ".join(filter(None, caption)))
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering\\footnotesize\\setlength{\\tabcolsep}{3.5pt}",
            f"\\caption{{{said}}}",
            f"\\label{{{re.sub(r'[^A-Za-z0-9:.-]', '-', label)}}}",
            f"\\begin{{tabular}}{{{kinds}}}",
            "\\toprule",
            *lines,
            "\\midrule",
            *rows,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
            "",
        ]
    )


def _rows(cells: Sequence[str]) -> str:
    """Return the row of a table; a cell with several lines makes several rows."""
    parts = [cell.split("\n") for cell in cells]
    depth = max(map(len, parts))
    return "\n".join(_row([part[i] if i < len(part) else "" for part in parts]) for i in range(depth))


def _row(cells: Sequence[str]) -> str:
    """Return a row. A bracket at its start would be read as the argument of the line break before it."""
    shown = ["--" if cell == UNKNOWN else escaped(cell) for cell in cells]
    first = f"{{}}{shown[0]}" if shown[0].startswith(("[", "*")) else shown[0]
    return " & ".join([first, *shown[1:]]) + r" \\"


def escaped(text: str) -> str:
    """Escape the characters that LaTeX would interpret; a hyphen before a number becomes a minus sign."""
    signs = SIGNED.sub("−", text)
    return "".join(ESCAPES.get(sign, sign) for sign in " ".join(signs.split()))
