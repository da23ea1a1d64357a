"""The effect that a planned sweep can show, from the noise of its runs or an assumed one.

The noise is the standard deviation of a difference that is paired by seed. If runs in the sweep's folder form MIN_PAIRS
pairs for some arm, it is taken from these: the median over the arms, and so is the variance that the validation text
adds. Otherwise it is assumed to be ASSUMED_SD, without the text's. How much compute a difference is worth follows from
the slope of the baseline's loss in the logarithm of its tokens: that of its runs at other budgets, or ASSUMED_SLOPE.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import expm1, isfinite
from statistics import median
from typing import Any

from gptlab.compare import build_comparison
from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.analysis.judgement import LONG_LADDER
from gptlab.compare.analysis.margins import DEFAULT_SHARE
from gptlab.compare.analysis.multiplier import gains_with_tokens, loss_of_compute
from gptlab.compare.analysis.planned import DEFAULT_METRIC
from gptlab.compare.analysis.sequential import Looks
from gptlab.compare.analysis.statistics import LEVEL, Estimate, detectable, seeds_needed
from gptlab.compare.analysis.verdict import MIN_PAIRS
from gptlab.config import ConfigError, registry
from gptlab.config.compose import load_config
from gptlab.runs.metrics import metric_named
from gptlab.sweeps.arms import BUDGET
from gptlab.sweeps.cell import CheckedSweep

ASSUMED_SD = 0.011  # nats per token: size=tiny, 10 tokens per parameter, 32 seeds at three rates (experiments/same_arm)
ASSUMED_SLOPE = 0.22  # nats per e-fold of tokens: size=tiny, 20 to 30 tokens per parameter (experiments/longer_run)
RUNS, GIVEN, ASSUMED = "runs", "given", "assumed"


@dataclass(frozen=True)
class Noise:
    """The noise of a paired difference, in the unit of the metric."""

    sd: float | None  # standard deviation over the seeds; None if it is not known
    source: str = ""
    text_variance: float = 0.0  # of a mean difference, which more seeds do not lower
    n_arms: int = 0  # whose pairs it was taken from
    n_pairs: int = 0  # the fewest of an arm


@dataclass(frozen=True)
class Slope:
    """How much the baseline's loss falls with each e-fold of tokens, in the unit of the metric."""

    value: float | None
    source: str = ""


def effect_document(checked: CheckedSweep, sd: float | None) -> dict[str, Any]:
    """Return what a sweep can show, as plan.py documents it; `sd` is a noise that is to be taken instead."""
    comparison = _comparison(checked)
    metric = comparison.metric if comparison else checked.plan.experiment.metric or DEFAULT_METRIC
    has_default = metric == DEFAULT_METRIC and _reads_text(checked)
    noise = _noise(comparison, sd, has_default)
    slope = _slope(comparison, has_default)
    n_comparisons = _comparisons(checked)
    levels = _levels(checked, n_comparisons) if n_comparisons and noise.sd else {}
    return {
        "metric": metric,
        "unit": metric_named(metric).unit,
        "comparisons": n_comparisons,
        "sd": noise.sd,
        "sd_source": noise.source,
        "n_arms": noise.n_arms,
        "n_pairs": noise.n_pairs,
        "slope": slope.value,
        "slope_source": slope.source,
        "shown": [_shown(n, level, noise, slope) for n, level in levels.items() if n >= MIN_PAIRS],
        "target": _target(checked, noise, slope, level=list(levels.values())[-1]) if levels else None,
    }


def _comparison(checked: CheckedSweep) -> Comparison | None:
    """Return the comparison of the runs so far; None if there are none that can be compared."""
    if not any(checked.folder.glob("*/summary.json")):
        return None
    # With fixed seeds the margin changes neither noise nor slope. A margin in compute would need the slope already.
    options = {} if checked.plan.first_look else {"margin": 1.0}
    try:
        return build_comparison([checked.folder], **options)
    except ConfigError:  # such as runs of a tuning alone
        return None


def _reads_text(checked: CheckedSweep) -> bool:
    cfg = load_config(checked.cells[0].spec.overrides)
    return not getattr(registry.entry("data", cfg.data.name).cls, "makes_tokens", False)


def _noise(comparison: Comparison | None, given: float | None, has_default: bool) -> Noise:
    if given is not None:
        return Noise(given, GIVEN)
    effects = [result.effect for result in comparison.results if result.effect] if comparison else []
    known = [effect for effect in effects if effect.pairs >= MIN_PAIRS and effect.sd > 0]
    if known:
        text = [effect.text_share * effect.error**2 for effect in known if isfinite(effect.text_share)]
        return Noise(
            median(effect.sd for effect in known),
            RUNS,
            median(text) if text else 0.0,
            len(known),
            min(effect.pairs for effect in known),
        )
    return Noise(ASSUMED_SD, ASSUMED) if has_default else Noise(None)


def _slope(comparison: Comparison | None, has_default: bool) -> Slope:
    multipliers = [result.multiplier for result in comparison.results if result.multiplier] if comparison else []
    for found in (multiplier.tokens.slope for multiplier in multipliers):
        if gains_with_tokens(found):
            return Slope(found.mean, RUNS)
    return Slope(ASSUMED_SLOPE, ASSUMED) if has_default else Slope(None)


def _comparisons(checked: CheckedSweep) -> int:
    """Return the number of comparisons that `compare` corrects for."""
    arms = {cell.spec.arm.name for cell in checked.cells if cell.spec.phase != BUDGET}
    whole_ladder = bool(checked.plan.experiment.ladder) and len(arms) >= LONG_LADDER
    return len(arms) - 1 + whole_ladder + checked.plan.left_out


def _levels(checked: CheckedSweep, comparisons: int) -> Mapping[int, float]:
    """Return the level of the t test at Holm's first step, by the number of seeds at the first and at the last look."""
    plan, level = checked.plan, LEVEL / comparisons
    last = len(plan.seeds)
    if plan.first_look:
        looks = Looks(plan.first_look, tuple(map(int, plan.seeds)))
        return {n: looks.nominal(level, n) for n in (plan.first_look, last)}
    return {last: level}


def _shown(n: int, level: float, noise: Noise, slope: Slope) -> dict[str, Any]:
    """Return the smallest true effect that a look with n seeds detects with a power of 80 %."""
    assert noise.sd is not None
    effect = detectable(n - 1.0, level) * (noise.sd**2 / n + noise.text_variance) ** 0.5
    return {"seeds": n, "effect": effect, "compute": expm1(effect / slope.value) if slope.value else None}


def _target(checked: CheckedSweep, noise: Noise, slope: Slope, *, level: float) -> dict[str, Any] | None:
    """Return how many seeds detect a difference as large as the margin, by default 5 % of compute; None without one."""
    assert noise.sd is not None
    text = checked.plan.experiment.margin or DEFAULT_SHARE
    if not text.endswith("%"):
        effect = float(text)
    elif slope.value:
        effect = loss_of_compute(Estimate(slope.value, 0.0, float("nan")), float(text[:-1]) / 100)
    else:
        return None
    seeds = max(MIN_PAIRS, seeds_needed(noise.sd, effect, level, noise.text_variance))
    return {"text": text, "effect": effect, "seeds": int(seeds) if isfinite(seeds) else None}
