"""Published findings beside those of the runs, as text. The terminal, Markdown and the pages print the same cells."""

from collections.abc import Iterator

from gptlab.compare.analysis.comparison import Comparison, Published
from gptlab.compare.analysis.over_rungs import RungsComparison
from gptlab.compare.analysis.published import AGREES, DISAGREES
from gptlab.compare.analysis.verdict import NOT_SHOWN
from gptlab.compare.formatting import UNKNOWN
from gptlab.compare.views.captions import difference_of
from gptlab.compare.views.columns import AGREEMENT, PUBLISHED, Cells

HEADING = "Published and found"
EXPLANATION = (
    f"An arm {AGREES} if its verdict is the published word, or the one that the sign of the published difference stands"
    " for; better or worse within the margin agrees with equivalent, which 0 stands for. An arm"
    f" {DISAGREES} if the runs show another word, and is {NOT_SHOWN} if they show none."
)


def published_arms(comparison: Comparison) -> list[str]:
    """Return the arms for which something was published."""
    return [line.arm for line in comparison.published.lines] if comparison.published else []


def published_cells(comparison: Comparison) -> Cells:
    """Return what was published, the difference and the verdict that were found, and whether they agree."""
    if comparison.published is None:
        return {}
    lines, results = comparison.published.lines, {result.name: result for result in comparison.results}
    return {
        PUBLISHED: [line.published for line in lines],
        "difference\n± 95%": [difference_of(results[line.arm]) if line.arm in results else UNKNOWN for line in lines],
        "verdict": [line.found or line.reason for line in lines],
        AGREEMENT: [line.agreement for line in lines],
    }


def published_lines(comparison: Comparison) -> Iterator[str]:
    """Say how many lines agree, what the runs show of the published order, and why an arm has no verdict."""
    if comparison.published:
        yield f"{HEADING}: {summary(comparison.published)}."
        yield from _details(comparison.published)
        yield EXPLANATION


def summary(published: Published) -> str:
    """Return the counts: `of 8 findings 4 agree, 0 disagree, 4 not shown`."""
    n = len(published.lines)
    counts = [published.count(agreement) for agreement in (AGREES, DISAGREES, NOT_SHOWN)]
    return (
        f"of {n} {'finding' if n == 1 else 'findings'} {counts[0]} agree, {counts[1]} disagree, {counts[2]} not shown"
    )


def order_summary(published: Published) -> str:
    """Return `of 36 pairs 20 are shown in the published order, 1 reversed, 15 not shown`; "" without an order."""
    if (order := published.order) is None:
        return ""
    counts = f"{len(order.shown)} are shown in the published order, {len(order.reversed)} reversed"
    return f"of {order.pairs} pairs {counts}, {order.not_shown} not shown"


def _details(published: Published) -> Iterator[str]:
    if order := published.order:
        yield (
            f"Published order, from the best on: {', '.join(order.arms)}; {order_summary(published)} (paired t tests"
            " with Holm's correction over the pairs)."
        )
        if order.reversed:
            yield f"Reversed: {'; '.join(f'{better} is better than {worse}' for better, worse in order.reversed)}."
    for line in published.lines:
        if line.reason:
            yield f"No verdict on {line.arm}: {line.reason}."


def published_over_rungs(comparison: RungsComparison) -> tuple[list[str], Cells]:
    """Return the arms, and what was published for them beside the verdict at each rung; nothing without any."""
    by_rung = {rung.name: rung.comparison.published for rung in comparison.rungs}
    lines = {(rung, line.arm): line for rung, published in by_rung.items() if published for line in published.lines}
    arms = list(dict.fromkeys(arm for _, arm in lines))
    if not arms:
        return [], {}
    texts = {arm: line.published for (_, arm), line in lines.items()}
    cells = {PUBLISHED: [texts[arm] for arm in arms]}
    for rung in by_rung:
        own = [lines[rung, arm] for arm in arms if (rung, arm) in lines]
        if own:
            cells[rung] = [f"{line.found or line.reason}\n{line.agreement}" for line in own]
    return arms, cells


def published_rungs_lines(comparison: RungsComparison) -> Iterator[str]:
    """Say the same as published_lines, for each rung."""
    found = [(rung.name, rung.comparison.published) for rung in comparison.rungs]
    for name, published in found:
        if published:
            yield f"At {name}: {summary(published)}."
            for line in _details(published):
                yield f"At {name}: {line}"
    if any(published for _, published in found):
        yield EXPLANATION
