"""The margin: differences below it do not matter.

The default is DEFAULT_SHARE of compute if the baseline was run at several budgets and its slope is shown; otherwise
DEFAULT_BITS bits per byte of text, in the unit of the metric. For a metric that is no loss on text there
is no default, since no number suits all of them. A margin of "5%" is 5 % of compute: the loss that the baseline would
lose or gain if its tokens were multiplied by 1.05. It needs the baseline at two budgets, since the slope of the loss in
the logarithm of the tokens is taken from them, seed by seed. Both runs must be trained for their budget, each with its
own schedule; a slope within one run is not the same.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import isfinite, log, nan
from typing import NamedTuple

import numpy as np

from gptlab.compare.analysis.arms import Arm
from gptlab.compare.analysis.multiplier import gains_with_tokens, loss_of_compute
from gptlab.compare.analysis.statistics import Estimate
from gptlab.compare.read.runs import Run
from gptlab.config import ConfigError
from gptlab.runs.metrics import metric_named
from gptlab.runs.states import RunState

DEFAULT_BITS = 0.01  # per byte
DEFAULT_SHARE = "5%"  # of compute, where the baseline was run at several budgets
MIN_SEEDS = 3  # for a slope
NONE = "none for this metric: no arm is called equivalent; --margin, or margin: in the experiment file, sets one"


class Margin(NamedTuple):
    """A margin in the unit of the metric, NaN if there is none, and the text that a reader sees."""

    value: float
    text: str


def choose_margin(
    wanted: str | float | None, metric: str, baseline: Arm, at_other_budgets: Sequence[Sequence[Run]]
) -> Margin:
    """Return the margin that is `wanted`: a number in the metric's unit, a share of compute, or None for the default.

    Args:
        wanted: see above.
        metric: the metric that is judged.
        baseline: the baseline.
        at_other_budgets: runs of the same model, each group trained for another budget.

    Raises:
        ConfigError: it is not readable, or a share of compute for which the runs have no slope.
    """
    slope = _slope(metric, [baseline.runs, *at_other_budgets])
    if wanted is None:
        shown = slope is not None and gains_with_tokens(slope)
        return _of_compute(DEFAULT_SHARE, metric, slope) if shown else _default(metric, baseline)
    text = str(wanted).strip()
    if text.endswith("%"):
        return _of_compute(text, metric, slope)
    value = _number(text, text)
    unit = metric_named(metric).unit
    return Margin(value, f"{value:.4g}{' ' + unit if unit else ''}")


def _number(digits: str, text: str) -> float:
    try:
        value = float(digits)
    except ValueError:
        value = nan
    if not (value > 0 and isfinite(value)):
        rule = "must be a number above 0 in the metric's unit, or a share of compute such as 5%"
        raise ConfigError(f"margin={text}: {rule}; leave it out for {DEFAULT_BITS} bits per byte")
    return value


def _default(metric: str, baseline: Arm) -> Margin:
    bits = f"{DEFAULT_BITS} bits per byte"
    key = metric_named(metric)
    if key.unit == "bits per byte":
        return Margin(DEFAULT_BITS, bits)
    per_token = bytes_per_token(baseline.runs)
    if key.unit != "nats per token" or not per_token > 0:
        return Margin(nan, NONE)
    value = DEFAULT_BITS * log(2) * per_token
    return Margin(value, f"{value:.4g} nats per token, which is {bits}")


def bytes_per_token(runs: Sequence[Run]) -> float:
    """Return the bytes of validation text in a token; NaN if no run has bits per byte."""
    for run in runs:
        tokens, size = run.summary.get("val/block_tokens"), run.summary.get("val/block_bytes")
        if tokens and size and sum(tokens):
            return float(sum(size) / sum(tokens))
        loss, bits = run.number("val/loss"), run.number("val/bpb")
        if run.state == RunState.FINISHED and loss > 0 and bits > 0:
            return loss / (bits * log(2))
    return nan


def _of_compute(text: str, metric: str, slope: Estimate | None) -> Margin:
    share = _number(text[:-1], text) / 100
    if slope is None:
        raise ConfigError(
            f"margin={text}: needs at least {MIN_SEEDS} seeds of the baseline at a second budget; sweep with"
            " --multiplier, or give the margin as a number"
        )
    if not gains_with_tokens(slope):
        raise ConfigError(
            f"margin={text}: the baseline's {metric} does not show that more tokens lower it"
            f" ({slope.mean:+.4f} per e-fold); add seeds, or give the margin as a number"
        )
    value = loss_of_compute(slope, share)
    return Margin(value, f"{value:.4g}, which is {text} of compute ({slope.mean:.4f} per e-fold of tokens)")


def _slope(metric: str, budgets: Sequence[Sequence[Run]]) -> Estimate | None:
    """Return how much the metric gains per e-fold of tokens; None if no two budgets share MIN_SEEDS seeds.

    It is taken seed by seed, between those two budgets that are farthest apart.
    """
    sign = -1 if metric_named(metric).higher_is_better else 1
    ended = [_ended(runs, metric) for runs in budgets]
    found, widest = None, 0.0
    for few, many in combinations(sorted(ended, key=_tokens), 2):
        pairs = [(*few[seed], *many[seed]) for seed in few.keys() & many.keys() if few[seed][0] < many[seed][0]]
        if len(pairs) >= MIN_SEEDS and (apart := _tokens(many) / _tokens(few)) > widest:
            found, widest = [sign * (more - less) / log(most / least) for least, more, most, less in pairs], apart
    if found is None:
        return None
    values = np.array(found)
    return Estimate(float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5, len(values) - 1)


def _tokens(ended: Mapping[int, tuple[float, float]]) -> float:
    return max((tokens for tokens, _ in ended.values()), default=0.0)


def _ended(runs: Sequence[Run], metric: str) -> dict[int, tuple[float, float]]:
    """Return tokens and metric of the finished runs, by seed."""
    finished = [run for run in runs if run.state == RunState.FINISHED]
    numbers = {run.seed: (run.number("tokens"), run.number(metric)) for run in finished}
    return {seed: pair for seed, pair in numbers.items() if isfinite(pair[0]) and isfinite(pair[1])}
