"""The sentences about readings at equal budgets. Terminal and files print the same ones."""

from collections.abc import Iterator, Sequence

from gptlab.compare.analysis.comparison import Comparison, EqualBudgetComparison, Reading
from gptlab.compare.analysis.equal_budget import shifted
from gptlab.compare.formatting import p_value, plus_minus, si
from gptlab.compare.read.runs import AXES
from gptlab.compare.views.captions import MOST_LISTED


def equal_budget_lines(comparison: Comparison, *, in_table: bool = False) -> Iterator[str]:
    """Say what the runs show at equal budgets, and for which arms it is shown to matter what is held equal.

    `in_table`: whether a table shows the numbers, which these lines then do not repeat.
    """
    ends = [AXES[equal.axis].word for equal in comparison.equal_budgets if _all_judged(equal) and not equal.note]
    if ends:
        yield f"All runs end at equal {', '.join(ends)}: there, the verdicts are those above."
    for equal in comparison.equal_budgets:
        if equal.readings and not _all_judged(equal):
            yield from _numbers(equal, in_table)
        yield from _shifts(equal)
    yield from _left_out(comparison.equal_budgets)


def _left_out(equal_budgets: Sequence[EqualBudgetComparison]) -> Iterator[str]:
    """Yield what was left out and why, once for all axes of which the same is to be said."""
    axes: dict[str, list[str]] = {}
    for equal in (e for e in equal_budgets if e.note):
        rest = " The runs of the other arms end there: the verdicts are those above." if _all_judged(equal) else ""
        axes.setdefault(f"{equal.note}.{rest}", []).append(AXES[equal.axis].word)
    yield from (f"Equal {', '.join(words)}: {said}" for said, words in axes.items())


def _all_judged(equal: EqualBudgetComparison) -> bool:
    return bool(equal.readings) and not any(reading.why for reading in equal.readings.values())


def _numbers(equal: EqualBudgetComparison, in_table: bool) -> Iterator[str]:
    """Yield the differences at an equal budget, and why some of them get no word."""
    word = AXES[equal.axis].word
    each = [f"{arm} {reading_of(reading)}" for arm, reading in equal.readings.items()]
    reasons: dict[str, list[str]] = {}
    for arm, reading in equal.readings.items():
        if reading.why:
            reasons.setdefault(reading.why, []).append(arm)
    if not in_table and len(each) > MOST_LISTED:
        n = sum(map(len, reasons.values()))
        yield f"At equal {word} {n} of {len(each)} arms get no word; --markdown and --html have the numbers."
        return
    if not in_table:
        yield f"At equal {word}: {'; '.join(each)}."
    yield from (f"No word for {', '.join(arms)} at equal {word}: {why}." for why, arms in reasons.items())


def _shifts(equal: EqualBudgetComparison) -> Iterator[str]:
    for arm, reading in equal.readings.items():
        if shifted(reading) and reading.shift:
            moved = plus_minus(reading.shift.mean, reading.shift.half, "+")
            yield (
                f"What is held equal matters for {arm}: at equal {AXES[equal.axis].word} its difference lies {moved}"
                f" from that at the end of the runs (p {p_value(reading.shift.p_holm)}), in part since a schedule had"
                " not ended."
            )


def reading_of(reading: Reading) -> str:
    """Return `-0.0210 ± 0.0040 (31.2), better`, with the budget; or `no word` in place of the verdict."""
    effect = reading.effect
    word = "no word" if reading.why else effect.verdict
    return f"{plus_minus(effect.mean, effect.half, '+')} at {si(reading.budget)}, {word}"
