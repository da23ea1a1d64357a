"""The comparison over rungs as Markdown: the tables over all rungs, then the verdicts and costs at each."""

from collections.abc import Iterator

from gptlab.compare.analysis.over_rungs import Rung, RungsComparison
from gptlab.compare.views.captions import matched_lines, multiplier_lines, outcome_lines, standing_lines, tuning_lines
from gptlab.compare.views.columns import cost_cells, multiplied_arms, multiplier_cells, verdict_cells
from gptlab.compare.views.markdown import arm_name, escaped, listed, provenance, table
from gptlab.compare.views.published_tables import HEADING, published_over_rungs, published_rungs_lines
from gptlab.compare.views.rungs_tables import gate_cells, profile_cells, rung_cells, rungs_lines, worth_cells


def render_rungs(comparison: RungsComparison, picture: str | None = None) -> str:
    """Return the text. `picture` is the path of the picture, relative to the text's own folder."""
    return "\n\n".join(_blocks(comparison, picture)) + "\n"


def _blocks(comparison: RungsComparison, picture: str | None) -> Iterator[str]:
    file = comparison.file
    yield f"# {escaped(file.question or comparison.metric)}"
    if file.literature:
        yield f"What others found: {file.literature}"
    yield "## Over the rungs"
    yield table("rung", [rung.name for rung in comparison.rungs], rung_cells(comparison))
    arms = [arm.name for arm in comparison.arms]
    if gates := gate_cells(comparison):
        yield table("arm", arms, gates)
    if worth := worth_cells(comparison):
        yield "Worth in FLOPs:"
        yield table("arm", arms, worth)
    for flops, cells in profile_cells(comparison).items():
        yield f"The best size at {flops:.3g} FLOPs:"
        yield table("arm", list(comparison.profiles[flops]), cells)
    yield from listed(rungs_lines(comparison))
    if picture:
        yield f"![Loss and worth against compute](<{picture}>)"
    published, cells = published_over_rungs(comparison)
    if published:
        yield f"## {HEADING}"
        yield table("arm", published, cells)
        yield from listed(published_rungs_lines(comparison))
    for rung in comparison.rungs:
        yield from _rung(rung)
    yield from provenance([rung.comparison for rung in comparison.rungs], file.command, comparison.setup)


def _rung(rung: Rung) -> Iterator[str]:
    comparison = rung.comparison
    yield f"## At {rung.name}"
    yield table("arm", [arm_name(r) for r in comparison.results], verdict_cells(comparison))
    yield from (f"**{escaped(line)}**" for line in standing_lines(comparison))
    yield from listed(outcome_lines(comparison))
    if multiplied := multiplied_arms(comparison):
        yield table("worth in compute", [r.name for r in multiplied], multiplier_cells(comparison))
    yield from listed(multiplier_lines(comparison))
    yield table("costs", [r.name for r in comparison.results], cost_cells(comparison))
    yield from listed([*matched_lines(comparison), *tuning_lines(comparison)])
