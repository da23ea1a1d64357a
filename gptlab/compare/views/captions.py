"""What stands beside the table, in whole sentences: how to read it, and what else was found. For terminal and files."""

from collections.abc import Iterator

import pandas as pd

from gptlab.compare.analysis.comparison import CONFIDENCE, Comparison, Effect, EqualBudgetComparison, Result, Tuning
from gptlab.compare.analysis.verdict import NOT_SHOWN
from gptlab.compare.formatting import UNKNOWN, number, plus_minus, seeds, si
from gptlab.compare.read.runs import AXES
from gptlab.runs.metrics import metric_named

MANY = 4  # arms, from which on a range is given in place of a number for each


def verdict_of(effect: Effect) -> str:
    """`unstable (seed 3 diverged)`"""
    return f"{effect.verdict} ({effect.note})" if effect.note else effect.verdict


def difference_of(result: Result) -> str:
    """`+0.0033 ± 0.0143 (2 of 3)`: with its t interval, and the pairs where they are fewer than the arm's seeds."""
    effect, finished = result.effect, result.states["finished"]
    if effect is None:
        return "baseline"
    some = f" ({effect.pairs} of {finished})" if 0 < effect.pairs < finished else ""
    return plus_minus(effect.mean, effect.high - effect.mean, "+") + some


def captions(comparison: Comparison) -> Iterator[str]:
    """How to read the table."""
    metric, baseline = comparison.metric, comparison.baseline
    yield f"{metric}: mean and standard deviation over the n finished seeds; {metric_named(metric).better} is better."
    compared = [r for r in comparison.results if r.effect is not None]
    if compared:
        previous = any(r.reference != baseline.name for r in compared)
        corrected = f", corrected by Holm over {len(compared)} arms" if len(compared) > 1 else ""
        yield (
            f"Difference: from {'the arm before' if previous else 'the baseline'}, paired by seed, with a"
            f" {CONFIDENCE:.0%} t interval; p by the paired t test{corrected}."
        )
    if comparison.noise == comparison.noise:
        yield f"Noise floor: the baseline varies by {number(comparison.noise)} (standard deviation) over its seeds."
    if compared and comparison.margin == comparison.margin:
        yield f"Margin: {margin_of(comparison)}; what differs by less counts as equivalent if that can be shown."
    yield from _sensitivity(compared)
    low, high = (si(end) for end in _ends([r.costs["tokens"] for r in comparison.results]))
    if low != UNKNOWN:
        yield f"Tokens trained on: {low}." if low == high else f"Tokens trained on: {low} to {high}, not equal."
    if comparison.repeats:
        yield f"Runs left out because a later one has the same config and seed: {comparison.repeats}."


def margin_of(comparison: Comparison) -> str:
    """`0.0115, 0.50% of the baseline's mean`"""
    share = comparison.margin / abs(comparison.baseline.mean) if comparison.baseline.mean else float("nan")
    return f"{comparison.margin:.4g}" + (f", {share:.2%} of the baseline's mean" if share == share else "")


def _sensitivity(compared: list[Result]) -> Iterator[str]:
    """What so many seeds can show, and how many more it takes where they did not."""
    known = {r.name: r.effect.detectable for r in compared if r.effect and r.effect.detectable == r.effect.detectable}
    if known:
        low, high = _ends(list(known.values()))
        each = ", ".join(f"{name} {number(value)}" for name, value in known.items())
        said = each if len(known) <= MANY else f"{number(low)} to {number(high)}, depending on the arm"
        yield f"Smallest true difference that these seeds show with 80% power (p < 0.05, before Holm): {said}."
    still = {r.name: r.effect.seeds_needed for r in compared if r.effect and r.effect.verdict == NOT_SHOWN}
    if still := {name: n for name, n in still.items() if n == n}:
        said = ", ".join(f"{name} {seeds(n)}" for name, n in still.items())
        yield f"Seeds that would show a difference as large as the margin with 80% power: {said}."


def equal_budget_lines(comparison: Comparison) -> Iterator[str]:
    """Say whether the verdicts depend on what is held equal, and for which arms."""
    equal_budgets = comparison.equal_budgets
    if len(comparison.results) == 1 or not equal_budgets:
        return
    budgets = ", ".join(f"{AXES[equal.axis].word} ({si(equal.budget)})" for equal in equal_budgets if equal.effects)
    dependent = list(disagreements(comparison))
    if budgets and not dependent:
        yield f"At equal {budgets} the verdicts are the same."
    elif budgets:
        yield f"What is held equal matters: {budgets}."
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
    """`better at equal steps, tokens (-0.0210 ± 0.0040)`."""
    effect = group[0].effects[arm]
    difference = plus_minus(effect.mean, effect.high - effect.mean, "+")
    shared = "" if all(equal.reliable for equal in group) else ", on a shared machine"
    return f"{effect.verdict} at equal {', '.join(AXES[equal.axis].word for equal in group)} ({difference}{shared})"


def tuning_lines(tunings: list[Tuning]) -> Iterator[str]:
    """`optimizer.lr, tuned on seeds 1000, 1001: gelu 0.001; swiglu 0.003 (the highest tried).` and what follows."""
    for tuning in tunings:
        chosen = tuning.points[tuning.points["chosen"]]
        values = pd.to_numeric(tuning.points["value"], errors="coerce")
        each = [
            f"{row['arm']} {_value(row['value'])}" + (_edge(row["value"], values.max()) if row["at_edge"] else "")
            for row in chosen.to_dict("records")
        ]
        yield f"{tuning.setting}, tuned on seeds {', '.join(map(str, tuning.seeds))}: {'; '.join(each)}."
        if chosen["at_edge"].any():
            yield f"Where {tuning.setting} is at an edge of what was tried, the best may lie beyond: tune more widely."


def _value(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _edge(value: float, highest: float) -> str:
    return f" (the {'highest' if value == highest else 'lowest'} tried)"


def matched_lines(comparison: Comparison) -> Iterator[str]:
    """`swiglu matched in params: ffn.hidden 512 -> 344; 1,234,567 for the baseline's 1,230,000 (+0.37%).`"""
    for entry in (entry for entry in comparison.matched if entry["changed"]):
        changed = ", ".join(f"{key} {before} -> {after}" for key, (before, after) in entry["changed"].items())
        off = entry["reached"] / entry["reference"] - 1
        yield (
            f"{entry['arm']} matched in {entry['to']}: {changed}; {entry['reached']:,.0f} for the baseline's"
            f" {entry['reference']:,.0f} ({off:+.2%})."
        )
    if alike := [entry["arm"] for entry in comparison.matched if not entry["changed"]]:
        yield f"Near enough for match= as they are: {', '.join(alike)}."


def _ends(values: list[float]) -> tuple[float, float]:
    known = pd.Series(values, dtype=float)
    return known.min(), known.max()
