"""The tables and sentences about arms over rungs, as text. The terminal, Markdown and the page print the same cells."""

from collections.abc import Iterator
from math import exp, isfinite

from gptlab.compare.analysis.comparison import CONFIDENCE
from gptlab.compare.analysis.isoflop import Profile
from gptlab.compare.analysis.over_rungs import ArmOverRungs, Rung, RungsComparison
from gptlab.compare.analysis.scaling import MARGIN, MIN_RUNGS, Projection, Trend
from gptlab.compare.analysis.statistics import interval
from gptlab.compare.analysis.verdict import BETTER
from gptlab.compare.formatting import UNKNOWN, number, p_value, plus_minus, si
from gptlab.compare.views.captions import difference_of, long_notes, rate_lines
from gptlab.compare.views.columns import GATE, TREND, Cells


def rung_cells(comparison: RungsComparison) -> Cells:
    """Return what each rung is: size, budget, and the baseline's result."""
    rungs = comparison.rungs
    return {
        "parameters": [si(rung.parameters) for rung in rungs],
        "tokens": [si(rung.tokens) for rung in rungs],
        "FLOPs": [f"{rung.flops:.3g}" if rung.is_known else UNKNOWN for rung in rungs],
        "seeds": [_seeds(rung) for rung in rungs],
        f"baseline's\n{comparison.metric}": [
            plus_minus(rung.comparison.baseline.mean, rung.comparison.baseline.sd) for rung in rungs
        ],
    }


def _seeds(rung: Rung) -> str:
    counts = sorted({result.states["finished"] for result in rung.comparison.results})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def gate_cells(comparison: RungsComparison) -> Cells:
    """Return each arm's verdict that holds at all rungs, and the one at every rung; {} without arms to judge."""
    if not comparison.arms:
        return {}
    over = {
        GATE: [_marked(arm) for arm in comparison.arms],
        "p\n(Holm)": [p_value(arm.p_holm) if arm.p < 1 else UNKNOWN for arm in comparison.arms],
    }
    return over | {rung.name: [_verdict(rung, arm) for arm in comparison.arms] for rung in comparison.rungs}


def _verdict(rung: Rung, arm: ArmOverRungs) -> str:
    result = rung.result(arm.name)
    if result is None or result.effect is None:
        return arm.words[rung.name]
    return f"{difference_of(result)}\n{result.effect.verdict}"


def _marked(arm: ArmOverRungs) -> str:
    return f"{arm.word} ({arm.standing})" if arm.standing else arm.word


def worth_cells(comparison: RungsComparison) -> Cells:
    """Return how each arm's compute multiplier in FLOPs changes, and what it is at every rung; {} without any."""
    if not multiplied(comparison):
        return {}
    cells: Cells = {}
    if not comparison.profiles:  # of sizes at one compute there is no trend
        cells |= {TREND: [trend_text(arm.trend) for arm in comparison.arms]}
    if target := comparison.file.target_flops:
        cells |= {f"at {target:.3g}\nFLOPs": [projection_text(arm.projection) for arm in comparison.arms]}
    return cells | {rung.name: [_multiplier(rung, arm) for arm in comparison.arms] for rung in comparison.rungs}


def multiplied(comparison: RungsComparison) -> bool:
    """Return whether some arm has a compute multiplier at some rung."""
    return any(result.multiplier is not None for rung in comparison.rungs for result in rung.comparison.results)


def _multiplier(rung: Rung, arm: ArmOverRungs) -> str:
    result = rung.result(arm.name)
    if result is None:
        return arm.words[rung.name]
    return str(result.multiplier.flops) if result.multiplier and not result.multiplier.flops.reason else UNKNOWN


def trend_text(trend: Trend) -> str:
    """Return the word for a trend with the factor for each tenfold of compute: `holds: 1.02 (0.97 to 1.07)`."""
    if trend.reason:
        return trend.word
    value, low, high = trend.per_decade
    return f"{trend.word}: {value:.3g} ({low:.3g} to {high:.3g})"


def projection_text(projection: Projection | None) -> str:
    """Return a projected multiplier with its interval."""
    if projection is None or not isfinite(projection.value):
        return UNKNOWN
    return f"{projection.value:.3g} ({projection.low:.3g} to {projection.high:.3g})"


def profile_cells(comparison: RungsComparison) -> dict[float, Cells]:
    """Return the best size of each arm at each number of FLOPs."""
    return {
        flops: {
            "best size": [_size(found) for found in profiles.values()],
            f"{comparison.metric}\nthere": [number(found.loss) for found in profiles.values()],
        }
        for flops, profiles in comparison.profiles.items()
    }


def _size(found: Profile) -> str:
    if found.reason:
        return found.reason
    if found.edge:
        return f"at the {found.edge} size"
    low, high = (si(end) if isfinite(end) and end else "" for end in (found.low, found.high))
    if low and high:
        return f"{si(found.best)} ({low} to {high})"
    one_end = f"above {low}" if low else f"below {high}" if high else "no interval"
    return f"{si(found.best)} ({one_end})"


def rungs_lines(comparison: RungsComparison) -> Iterator[str]:
    """Say what the tables mean, what is missing, and which arms were left out."""
    if comparison.gone:
        yield f"EXPLORATORY: {', '.join(comparison.gone)} was planned as a rung, and is not in the experiment any more."
    if comparison.unreached:
        yield f"No arm went on to {', '.join(comparison.unreached)}."
    if comparison.pending:
        yield f"INTERIM: no run yet at {', '.join(comparison.pending)}. Run the sweep to its end for the other rungs."
    for rung in comparison.rungs:
        if mark := rung.comparison.standing:
            yield f"{mark.upper()} at {rung.name}: {'; '.join(rung.comparison.reasons)}."
    if unknown := [rung.name for rung in comparison.rungs if not rung.is_known]:
        yield f"No run of the baseline has finished at {', '.join(unknown)}, whose compute is therefore not known."
    if comparison.arms:
        yield from _gate_lines(comparison)
    if multiplied(comparison):
        yield from _worth_lines(comparison)
    if comparison.power_law and not comparison.power_law.reason:
        yield from _power_law_lines(comparison)


def outcomes_at_rungs(comparison: RungsComparison) -> Iterator[str]:
    """Say which runs of which rung failed, diverged or are stuck, and why an arm has no verdict there."""
    for rung in comparison.rungs:
        if n := sum(result.states["failed"] for result in rung.comparison.results):
            yield f"At {rung.name}: {n} failed {'run' if n == 1 else 'runs'}; `gptlab sweep --retry` runs them again."
        for note, arms in long_notes(rung.comparison).items():
            yield f"At {rung.name}: {', '.join(arms)}: {note}."
        for line in rate_lines(rung.comparison):
            yield f"At {rung.name}: {line}"


def _gate_lines(comparison: RungsComparison) -> Iterator[str]:
    n = len(comparison.arms)
    yield (
        f"Differences in {comparison.metric} with {CONFIDENCE:.0%} intervals and words are those of each rung alone."
        f" At all rungs an arm is {BETTER} if it is so at each of them; p is its largest one, with Holm's correction"
        f" over {n} {'arm' if n == 1 else 'arms'}, so that at most 5% of experiments let an arm pass that is not"
        " better at some rung."
    )
    if promote := comparison.file.promote:
        yield (
            f"An arm goes on to the next rung if it is {' or '.join(promote)}; the others are left out of it and cannot"
            " pass. The words at later rungs are corrected over all arms of the experiment, as the gate is."
        )


def _worth_lines(comparison: RungsComparison) -> Iterator[str]:
    yield "Worth in compute: how many times the arm's FLOPs the baseline needs at that rung for the arm's loss."
    if comparison.profiles:
        return
    yield (
        "Per tenfold compute: the factor by which that changes, with a 95% interval for each arm alone. It grows or"
        f" fades if the factor is shown to differ from 1, and holds if it is shown to lie within {1 / MARGIN:.3g} to"
        f" {MARGIN:g}."
    )
    reasons: dict[str, list[str]] = {}
    for arm in comparison.arms:
        if arm.trend.reason:
            reasons.setdefault(arm.trend.reason, []).append(arm.name)
    for reason, arms in reasons.items():
        yield f"No trend for {', '.join(arms)}: {reason}."
    notes = {arm.projection.note for arm in comparison.arms if arm.projection and not arm.trend.reason}
    for note in sorted(notes - {""}):
        yield f"The target is {note}."
    if len(comparison.rungs) < MIN_RUNGS and comparison.file.target_flops:
        yield f"A projection needs {MIN_RUNGS} rungs."


def _power_law_lines(comparison: RungsComparison) -> Iterator[str]:
    law = comparison.power_law
    if law is None:
        return
    each = "; ".join(
        f"{arm} {exp(found.mean):.3g} ({exp(low):.3g} to {exp(high):.3g}), {law.words[arm]}"
        for arm, found in law.multipliers.items()
        for low, high in [interval(found)]
    )
    floor = "" if not isfinite(law.floor.mean) else f" floor {law.floor.mean:.4g}, exponent {law.exponent.mean:.3g};"
    yield f"Power law along the rungs, in size and tokens at once, with one floor and exponent:{floor} worth {each}."
