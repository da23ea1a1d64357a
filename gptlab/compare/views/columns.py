"""The tables as text, column by column, for a terminal and for Markdown alike."""

from collections.abc import Callable, Iterator

from gptlab.compare.analysis.comparison import CONFIDENCE, Breakdown, Comparison, Factorial, Reading, Result
from gptlab.compare.analysis.equal_budget import WORDS, disagreements
from gptlab.compare.views.captions import difference_of, verdict_of
from gptlab.compare.views.formatting import number, p_value, percent, plus_minus, si

Columns = dict[str, list[str]]  # the cells under each header; in a header a line break where it may be broken
TEXT = ("verdict", "levels")  # headers of columns that hold words
COSTS = {
    "params\nnon-emb.": "parameters_non_embedding",
    "FLOPs\n/token": "flops_per_token",
    "state\nbytes": "state_bytes",
    "tokens\n/s": "tokens_per_s",
}


def verdict_cells(comparison: Comparison) -> Columns:
    results = comparison.results
    columns = {
        "n": [f"{r.states['finished']}" for r in results],
        f"{comparison.metric}\nmean ± sd": [plus_minus(r.mean, r.sd) for r in results],
    }
    if len(results) == 1:
        return columns
    return columns | {
        f"difference\n± {CONFIDENCE:.0%}": [difference_of(r) for r in results],
        "p\n(Holm)": [p_value(r.effect.p_holm) if r.effect else "" for r in results],
        "verdict": [verdict_of(r.effect) if r.effect else "" for r in results],
    }


def cost_cells(comparison: Comparison) -> Columns:
    """Of the baseline the figures, of the others how much more or less; and how many runs did not finish."""
    columns = {header: _relative(comparison, key) for header, key in COSTS.items()}
    for state, header in {"diverged": "di-\nverged", "failed": "failed", "unfinished": "unfin-\nished"}.items():
        if state == "diverged" or any(r.states[state] for r in comparison.results):
            columns[header] = [f"{r.states[state]}" for r in comparison.results]
    return columns


def _relative(comparison: Comparison, key: str) -> list[str]:
    reference = comparison.baseline.costs[key]
    return [si(reference), *(percent(r.costs[key], reference) for r in comparison.results[1:])]


def breakdown_cells(breakdown: Breakdown) -> Columns:
    return {level: [plus_minus(mean, sd) for mean, sd in arms] for level, arms in breakdown.levels.items()}


def reading_cells(comparison: Comparison) -> Columns:
    """For each arm but the baseline the difference and the verdict on it, at each equal budget."""
    return {
        f"equal {WORDS[reading.axis]}\n({si(reading.budget)})": [
            _read(reading, result) if reading.effects else "left out" for result in comparison.results[1:]
        ]
        for reading in comparison.readings
    }


def _read(reading: Reading, result: Result) -> str:
    effect = reading.effects[result.name]
    return f"{plus_minus(effect.mean, effect.high - effect.mean, '+')}, {effect.verdict}"


def reading_lines(comparison: Comparison) -> Iterator[str]:
    """What the readings at equal budgets say beyond the table."""
    readings = comparison.readings
    if len(comparison.results) == 1 or not readings:
        return
    budgets = ", ".join(f"{WORDS[r.axis]} ({si(r.budget)})" for r in readings if r.effects)
    depends = disagreements(comparison)
    if budgets and not depends:
        yield f"At equal {budgets} the verdicts are the same."
    elif budgets:
        yield f"What is held equal matters: {budgets}."
    yield from depends
    yield from (f"Equal {WORDS[r.axis]}: {r.note}." for r in readings if r.note)


def factorial_cells(factorial: Factorial) -> Columns:
    rows = factorial.effects.to_dict("records")
    shown: dict[str, Callable[[dict], str]] = {
        "effect of": lambda row: row["slots"],
        "levels": lambda row: row["levels"],
        f"effect\n± {CONFIDENCE:.0%}": lambda row: plus_minus(row["effect"], row["high"] - row["effect"], "+"),
        "p\n(Holm)": lambda row: p_value(row["p_holm"]),
    }
    return {header: [cell(row) for row in rows] for header, cell in shown.items()}


def mean_cells(factorial: Factorial) -> Iterator[tuple[str, Columns]]:
    """For each two settings their names and the means: the first setting's levels down, the second's across."""
    for (down, across), means in factorial.means.items():
        columns = {f"{down} \\ {across}": [str(level) for level in means.index]}
        yield f"{down} x {across}", columns | {str(k): [number(v) for v in own] for k, own in means.items()}
