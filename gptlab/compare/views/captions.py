"""The sentences around the tables: how to read them, and further findings. Terminal and files print the same ones."""

from collections.abc import Iterator

import pandas as pd

from gptlab.compare.analysis.comparison import (
    CONFIDENCE,
    Comparison,
    Result,
)
from gptlab.compare.analysis.sequential import GIVE_UP, OPEN, Looks
from gptlab.compare.analysis.verdict import EXPLORATORY, INTERIM, MIN_PAIRS, NOT_SHOWN
from gptlab.compare.formatting import UNKNOWN, number, p_value, plus_minus, seed_range, si
from gptlab.runs.metrics import metric_named

MOST_LISTED = 4  # arms; for more arms only the range is given
SHORT_NOTE = 20  # letters; a longer note stands below the table


def verdict_of(comparison: Comparison, result: Result) -> str:
    """Return the verdict with its note, `unstable (seed 3 diverged)`, or the number of a note below the table."""
    effect = result.effect
    if effect is None or not effect.note:
        return effect.verdict if effect else ""
    if len(effect.note) <= SHORT_NOTE:
        return f"{effect.verdict} ({effect.note})"
    return f"{effect.verdict} [{list(long_notes(comparison)).index(effect.note) + 1}]"


def long_notes(comparison: Comparison) -> dict[str, list[str]]:
    """Return the notes that stand below the table, each with the arms that have it."""
    arms: dict[str, list[str]] = {}
    for result in comparison.results:
        if result.effect and len(result.effect.note) > SHORT_NOTE:
            arms.setdefault(result.effect.note, []).append(result.name)
    return arms


def difference_of(result: Result) -> str:
    """Return the difference with its t interval, and the number of pairs if not all seeds of the arm have one.

    For example `+0.0033 ± 0.0143 (2 of 3)`.
    """
    effect, finished = result.effect, result.states["finished"]
    if effect is None:
        return "baseline"
    some = f" ({effect.pairs} of {finished})" if 0 < effect.pairs < finished else ""
    return plus_minus(effect.mean, effect.half, "+") + some


def standing_lines(comparison: Comparison) -> Iterator[str]:
    """Say why the words are marked, and how to get words without a mark."""
    reasons = "; ".join(comparison.reasons)
    if comparison.standing == EXPLORATORY:
        yield (
            f"EXPLORATORY: {reasons}. After such a choice, words are wrong more often than in 5% of experiments."
            " For a confirmed word, run the same arms on fresh seeds under another name."
        )
    elif comparison.standing == INTERIM and comparison.looks:
        yield f"INTERIM: {reasons}. Words without the mark hold already; run the sweep to its end for the others."
    elif comparison.standing == INTERIM:
        yield (
            f"INTERIM: {reasons}. Run the sweep to its end before you use these words: to stop or to add seeds because"
            " of them makes them exploratory."
        )


def outcome_lines(comparison: Comparison) -> Iterator[str]:
    """Yield the long notes of the verdicts, the rates of divergence, what stuck seeds change, and a ladder's whole."""
    for place, (note, arms) in enumerate(long_notes(comparison).items(), start=1):
        yield f"[{place}] {', '.join(arms)}: {note}."
    yield from rate_lines(comparison)
    for result in comparison.results:
        if (effect := result.without_stuck) is not None:
            if effect.pairs < MIN_PAIRS:
                continue
            difference = plus_minus(effect.mean, effect.half, "+")
            yield f"Without stuck seeds: {result.name} {difference}, {effect.verdict} ({effect.pairs} pairs)."
    if comparison.whole:
        name, effect = comparison.whole
        difference = plus_minus(effect.mean, effect.half, "+")
        yield f"The whole ladder: {name} {difference}, p {p_value(effect.p_holm)}, {effect.verdict}."


def rate_lines(comparison: Comparison) -> Iterator[str]:
    """Yield how many runs diverged or are stuck, where some are."""
    for outcome in ("diverged", "stuck"):
        yield from _rates(comparison, outcome)


def _rates(comparison: Comparison, outcome: str) -> Iterator[str]:
    """`Diverged: pre 0 of 5; post 3 of 5 (p 0.167). p: Fisher's exact test against the reference, with Holm's ...`."""
    rated = [(r.name, r.rates[outcome]) for r in comparison.results if outcome in r.rates]
    rated = [(name, rate) for name, rate in rated if rate.hits or rate.other_hits]
    if not rated:
        return
    each = "; ".join(
        f"{name} {rate.hits} of {rate.runs} against {rate.other_hits} of {rate.other_runs} (p {p_value(rate.p_holm)})"
        for name, rate in rated
    )
    yield f"{outcome.capitalize()} runs beside those of the reference: {each}; p: Fisher's exact test, Holm."


def captions(comparison: Comparison) -> Iterator[str]:
    """Yield the sentences that explain the table of verdicts."""
    metric = comparison.metric
    better = metric_named(metric).better
    yield f"{metric}: mean and standard deviation over the n finished seeds; {better} is better."
    compared = [r for r in comparison.results if r.effect is not None]
    if compared:
        yield from difference_lines(comparison)
    if comparison.noise == comparison.noise:
        yield f"Noise floor: {number(comparison.noise)}, the standard deviation of the baseline over its seeds."
    if any(r.stuck for r in comparison.results):
        yield "A stuck run ended, but far above the better seeds of its arm, or above the loss of guessing."
    if compared:
        end = " An arm is equivalent if its difference is shown to be smaller." * (comparison.margin > 0)
        yield f"Margin: {comparison.margin_text}.{end}"
    yield from _sensitivity(compared, comparison.family)
    low, high = (si(end) for end in _range([r.costs["tokens"] for r in comparison.results]))
    if low != UNKNOWN:
        yield f"Training tokens: {low}." if low == high else f"Training tokens: {low} to {high}, not the same for all."
    if comparison.repeats:
        yield f"Runs left out because a later run has the same config and seed: {comparison.repeats}."


def difference_lines(comparison: Comparison) -> Iterator[str]:
    """Say what a difference, its interval and its p are, and what they cover."""
    compared = [r for r in comparison.results if r.effect is not None]
    previous = any(r.reference != comparison.baseline.name for r in compared)
    family = comparison.family
    corrected = f", with Holm's correction over {family} comparisons" if family > 1 else ""
    yield (
        f"Difference: the arm minus the {'previous arm' if previous else 'baseline'}, paired by seed, with"
        f" {'simultaneous ' if family > 1 else ''}{CONFIDENCE:.0%} t intervals; p: the paired t test{corrected}."
    )
    if comparison.looks:
        yield _looks(comparison.looks, compared)
    yield _coverage(compared)
    if not comparison.planned:
        yield "These runs have no plan of one sweep, so that added seeds and looks at part of them are not counted."


def _looks(looks: Looks, compared: list[Result]) -> str:
    """Say when the arms were looked at, what that means for p, and how likely open arms are to be settled."""
    progress = {r.name: r.effect.progress for r in compared if r.effect and r.effect.progress}
    unsettled = {name: one.chance for name, one in progress.items() if one.state == OPEN and one.chance == one.chance}
    still = ", ".join(f"{name} {chance:.0%}" for name, chance in unsettled.items())
    left = f" Chance that an arm without a word gets one by then: {still}." if still else ""
    return (
        f"The arms are looked at after each seed from {looks.first} to {looks.last}, until they have a word or the"
        f" chance of one is below {GIVE_UP:.0%}; p and intervals hold at any of these looks.{left}"
    )


def _coverage(compared: list[Result]) -> str:
    """Say whether the intervals cover the choice of the validation text."""
    shares = [r.effect.text_share for r in compared if r.effect and r.effect.text_share == r.effect.text_share]
    if not shares:
        return "Intervals and p cover the seeds only, not the choice of the validation text."
    low, high = (f"{share:.0%}" for share in _range(shares))
    share = low if low == high else f"{low} to {high}"
    rest = "" if len(shares) == len(compared) else "; where the losses by block are not known, the seeds only"
    return f"Intervals and p cover the seeds and the validation text, which makes {share} of the variance{rest}."


def _sensitivity(compared: list[Result], family: int) -> Iterator[str]:
    """Say what difference these seeds can detect, and how many seeds are needed where no difference was shown."""
    effects = {r.name: r.effect for r in compared if r.effect}
    detectable = {name: e for name, e in effects.items() if e.detectable == e.detectable and e.pairs >= MIN_PAIRS}
    if detectable:
        low, _ = _range([e.detectable_low for e in detectable.values()])
        _, high = _range([e.detectable_high for e in detectable.values()])
        each = ", ".join(
            f"{name} {number(e.detectable)} ({number(e.detectable_low)} to {number(e.detectable_high)})"
            for name, e in detectable.items()
        )
        text = each if len(detectable) <= MOST_LISTED else f"{number(low)} to {number(high)}, depending on the arm"
        step = f", at the level of Holm's first step over {family}" if family > 1 else ""
        yield (
            f"Smallest true difference that these seeds detect with 80% power{step}: {text}."
            " Shown differences below that tend to be over-stated."
        )
    needed = {name: e for name, e in effects.items() if e.word == NOT_SHOWN and e.seeds_high == e.seeds_high}
    if needed:
        text = ", ".join(f"{name} {seed_range(e.seeds_low, e.seeds_high)}" for name, e in needed.items())
        yield f"To settle whether the difference is as large as the margin, with 80% power: {text} seeds."


def multiplier_lines(comparison: Comparison) -> Iterator[str]:
    """Say what a compute multiplier is, and why arms have none or an unreliable one."""
    found = [(r.name, r.multiplier) for r in comparison.results if r.multiplier is not None]
    if any(not m.tokens.reason for _, m in found):
        yield (
            "Worth in compute: how many times the arm's compute the baseline needs for the arm's loss, read from its"
            " runs at several budgets; above 1 is good. In brackets the interval at the level of the verdict's."
        )
    for name, m in found:
        if m.tokens.reason:
            yield f"{name} has no compute multiplier: {m.tokens.reason}."
        elif m.unsteady:
            yield f"* {name}: {m.unsteady}."


def tuning_lines(comparison: Comparison) -> Iterator[str]:
    """Say which value each arm got, how it is used, and whether it is at an edge of the values tried.

    For example `optimizer.lr, tuned on seeds 1000, 1001: gelu 0.001; swiglu 0.003 (the highest tried).`
    """
    tuned_by_seed = bool((comparison.runs["phase"] == "neighbour").any())
    for tuning in comparison.tuning:
        chosen = tuning.points[tuning.points["chosen"]]
        values = pd.to_numeric(tuning.points["value"], errors="coerce")
        each = [
            f"{row['arm']} {_value(row['value'])}" + (_edge(row["value"], values.max()) if row["at_edge"] else "")
            for row in chosen.to_dict("records")
        ]
        yield f"{tuning.setting}, tuned on seeds {', '.join(map(str, tuning.seeds))}: {'; '.join(each)}."
        if tuned_by_seed:
            yield (
                f"Each seed ran the chosen {tuning.setting} and the values beside it, and counts at the best of these."
            )
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
