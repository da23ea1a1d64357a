"""The sentences around the tables: how to read them, and further findings. Terminal and files print the same ones."""

from collections.abc import Iterator

import pandas as pd

from gptlab.compare.analysis.comparison import CONFIDENCE, Comparison, Effect, EqualBudgetComparison, Result, Tuning
from gptlab.compare.analysis.verdict import NOT_SHOWN
from gptlab.compare.formatting import UNKNOWN, number, plus_minus, seeds, si
from gptlab.compare.read.runs import AXES
from gptlab.runs.metrics import metric_named

MOST_LISTED = 4  # arms; for more arms only the range is given


def verdict_of(effect: Effect) -> str:
    """Return the verdict with its note: `unstable (seed 3 diverged)`."""
    return f"{effect.verdict} ({effect.note})" if effect.note else effect.verdict


def difference_of(result: Result) -> str:
    """Return the difference with its t interval, and the number of pairs if not all seeds of the arm have one.

    For example `+0.0033 ± 0.0143 (2 of 3)`.
    """
    effect, finished = result.effect, result.states["finished"]
    if effect is None:
        return "baseline"
    some = f" ({effect.pairs} of {finished})" if 0 < effect.pairs < finished else ""
    return plus_minus(effect.mean, effect.high - effect.mean, "+") + some


def captions(comparison: Comparison) -> Iterator[str]:
    """Yield the sentences that explain the table of verdicts."""
    metric, baseline = comparison.metric, comparison.baseline
    better = metric_named(metric).better
    yield f"{metric}: mean and standard deviation over the n finished seeds; {better} is better."
    compared = [r for r in comparison.results if r.effect is not None]
    if compared:
        previous = any(r.reference != baseline.name for r in compared)
        corrected = f", with Holm's correction over {len(compared)} arms" if len(compared) > 1 else ""
        yield (
            f"Difference: the arm minus the {'previous arm' if previous else 'baseline'}, paired by seed, with its"
            f" {CONFIDENCE:.0%} t interval; p: the paired t test{corrected}."
        )
    if comparison.noise == comparison.noise:
        yield f"Noise floor: {number(comparison.noise)}, the standard deviation of the baseline over its seeds."
    if compared and comparison.margin == comparison.margin:
        yield f"Margin: {margin_of(comparison)}. An arm is equivalent if its difference is shown to be smaller."
    yield from _sensitivity(compared)
    low, high = (si(end) for end in _range([r.costs["tokens"] for r in comparison.results]))
    if low != UNKNOWN:
        yield f"Training tokens: {low}." if low == high else f"Training tokens: {low} to {high}, not the same for all."
    if comparison.repeats:
        yield f"Runs left out because a later run has the same config and seed: {comparison.repeats}."


def margin_of(comparison: Comparison) -> str:
    """Return the margin, `0.0115, 0.50% of the baseline's mean`."""
    share = comparison.margin / abs(comparison.baseline.mean) if comparison.baseline.mean else float("nan")
    return f"{comparison.margin:.4g}" + (f", {share:.2%} of the baseline's mean" if share == share else "")


def _sensitivity(compared: list[Result]) -> Iterator[str]:
    """Say what difference these seeds can detect, and how many seeds are needed where no difference was shown."""
    effects = {r.name: r.effect for r in compared if r.effect}
    detectable = {name: e.detectable for name, e in effects.items() if e.detectable == e.detectable}
    if detectable:
        low, high = _range(list(detectable.values()))
        each = ", ".join(f"{name} {number(value)}" for name, value in detectable.items())
        text = each if len(detectable) <= MOST_LISTED else f"{number(low)} to {number(high)}, depending on the arm"
        yield f"Smallest true difference that these seeds detect with 80% power (p < 0.05, before Holm): {text}."
    needed = {name: e.seeds_needed for name, e in effects.items() if e.verdict == NOT_SHOWN}
    if needed := {name: n for name, n in needed.items() if n == n}:
        text = ", ".join(f"{name} {seeds(n)}" for name, n in needed.items())
        yield f"Seeds needed to detect a difference as large as the margin with 80% power: {text}."


def equal_budget_lines(comparison: Comparison) -> Iterator[str]:
    """Say whether the verdicts depend on what is held equal, and for which arms."""
    equal_budgets = comparison.equal_budgets
    if len(comparison.results) == 1 or not equal_budgets:
        return
    budgets = ", ".join(f"{AXES[equal.axis].word} ({si(equal.budget)})" for equal in equal_budgets if equal.effects)
    dependent = list(disagreements(comparison))
    if budgets and not dependent:
        yield f"The verdicts are the same at equal {budgets}."
    elif budgets:
        yield f"The verdicts depend on what is held equal: {budgets}."
    yield from dependent
    yield from (f"Equal {AXES[equal.axis].word}: {equal.note}." for equal in equal_budgets if equal.note)


def disagreements(comparison: Comparison) -> Iterator[str]:
    """Yield a line for each arm whose verdict, or the sign of its difference, depends on what is held equal."""
    for result in comparison.results[1:]:
        groups: dict[tuple[str, bool], list[EqualBudgetComparison]] = {}
        for equal in comparison.equal_budgets:
            if effect := equal.effects.get(result.name):
                groups.setdefault((effect.verdict, effect.mean > 0), []).append(equal)
        if len(groups) > 1:
            yield f"{result.name}: {'; '.join(_agreeing(result.name, group) for group in groups.values())}"


def _agreeing(arm: str, group: list[EqualBudgetComparison]) -> str:
    """Return `better at equal steps, tokens (-0.0210 ± 0.0040)`."""
    effect = group[0].effects[arm]
    difference = plus_minus(effect.mean, effect.high - effect.mean, "+")
    shared = "" if all(equal.reliable for equal in group) else ", on a shared machine"
    return f"{effect.verdict} at equal {', '.join(AXES[equal.axis].word for equal in group)} ({difference}{shared})"


def tuning_lines(tunings: list[Tuning]) -> Iterator[str]:
    """Say which value each arm got, and whether it is at an edge of the values tried.

    For example `optimizer.lr, tuned on seeds 1000, 1001: gelu 0.001; swiglu 0.003 (the highest tried).`
    """
    for tuning in tunings:
        chosen = tuning.points[tuning.points["chosen"]]
        values = pd.to_numeric(tuning.points["value"], errors="coerce")
        each = [
            f"{row['arm']} {_value(row['value'])}" + (_edge(row["value"], values.max()) if row["at_edge"] else "")
            for row in chosen.to_dict("records")
        ]
        yield f"{tuning.setting}, tuned on seeds {', '.join(map(str, tuning.seeds))}: {'; '.join(each)}."
        if chosen["at_edge"].any():
            yield f"Where the lowest or highest {tuning.setting} was chosen, a better value may lie beyond: try more."


def _value(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _edge(value: float, highest: float) -> str:
    return f" (the {'highest' if value == highest else 'lowest'} tried)"


def matched_lines(comparison: Comparison) -> Iterator[str]:
    """Say what match= changed in each arm.

    For example `swiglu, matched in params: ffn.hidden 512 -> 344, which gives 1,234,567 (baseline: 1,230,000; +0.37%).`
    """
    for entry in (entry for entry in comparison.matched if entry["changed"]):
        changed = ", ".join(f"{key} {before} -> {after}" for key, (before, after) in entry["changed"].items())
        off = entry["reached"] / entry["reference"] - 1
        yield (
            f"{entry['arm']}, matched in {entry['to']}: {changed}, which gives {entry['reached']:,.0f}"
            f" (baseline: {entry['reference']:,.0f}; {off:+.2%})."
        )
    if unchanged := [entry["arm"] for entry in comparison.matched if not entry["changed"]]:
        yield f"Within the tolerance of match= without a change: {', '.join(unchanged)}."


def _range(values: list[float]) -> tuple[float, float]:
    known = pd.Series(values, dtype=float)
    return known.min(), known.max()
