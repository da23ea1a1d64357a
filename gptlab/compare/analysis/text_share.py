"""The standard error of a mean difference, over seeds and over the validation text.

All seeds read the same validation text, so the error of that sample of text is common to them: it does not appear in
the spread between seeds, and more seeds do not lower it. It is estimated from the losses by block of text that the last
evaluation leaves (val/block_nats and the sizes of the blocks).

The difference y[s, b] of seed s in block b is taken as a + seed[s] + text[b] + rest[s, b]. The variance of the mean
over seeds and blocks is then that of the seeds' means over n, which includes the rest, plus what text[b] causes.
Neighbouring blocks come from the same files, so text[b] is correlated along the text. Its long-run variance is
therefore taken from the slowest COSINES cosine components of the blocks (Müller 2007, J. Econometrics 141: 1331-1352),
which are nearly independent of each other whatever the correlation, minus what the rest causes in them. PAD makes up
for what these miss of the long-run variance where the correlation of neighbours is about 0.3. Degrees of freedom follow
from Satterthwaite (1946, Biometrics Bull. 2: 110-114). tests/compare/test_error_rates.py measures the level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np

from gptlab.compare.analysis.statistics import Estimate

COSINES = 6
PAD = 1.1
SIZES = {"val/loss": "val/block_tokens", "val/bpb": "val/block_bytes"}  # metric -> what its blocks are divided by
UNIT = {"val/loss": 1.0, "val/bpb": log(2)}  # nats in a unit of the metric


@dataclass(frozen=True)
class MeanDifference:
    """A mean over paired seeds, with the parts of its variance."""

    estimate: Estimate
    sd: float  # standard deviation of a paired difference, at least that of the metric's resolution
    text_variance: float  # of the mean, from the choice of the validation text; NaN if the blocks are not known


def block_deviations(summary: Mapping[str, Any], metric: str) -> np.ndarray | None:
    """Return how much each block of text adds to a run's metric above its share; None if the run has no blocks.

    The deviations of a run have the mean 0. Those of two runs can be subtracted, if both read the same text.
    """
    nats, sizes = summary.get("val/block_nats"), summary.get(SIZES.get(metric, ""))
    if not nats or not sizes or len(nats) != len(sizes) or len(nats) <= COSINES:
        return None
    values, weights = np.asarray(nats, dtype=float) / UNIT[metric], np.asarray(sizes, dtype=float)
    if not np.isfinite(values).all() or not weights.sum() > 0:
        return None
    ratio = values.sum() / weights.sum()
    deviations: np.ndarray = (values - ratio * weights) * (len(values) / weights.sum())
    return deviations


def estimate(differences: np.ndarray, deviations: Sequence[np.ndarray] | None, resolution: float) -> MeanDifference:
    """Return the mean of the paired differences with its standard error.

    Args:
        differences: one for each seed, (n,).
        deviations: for each seed, the difference of the block deviations of the two runs; None if they are unknown.
        resolution: the step in which the metric changes; differences are not taken to vary less than its rounding does.
    """
    n = len(differences)
    mean = float(differences.mean()) if n else float("nan")
    if n < 2:
        unknown = float("nan")
        return MeanDifference(Estimate(mean, unknown, unknown), unknown, unknown)
    sd = max(float(differences.std(ddof=1)), resolution / 6**0.5)  # the difference of two roundings
    seeds = sd**2 / n
    if deviations is None:
        return MeanDifference(Estimate(mean, seeds**0.5, n - 1), sd, float("nan"))
    text, df = _text_variance(np.stack(deviations))
    total = seeds + text
    df = total**2 / (seeds**2 / (n - 1) + text**2 / df) if text else n - 1
    return MeanDifference(Estimate(mean, total**0.5, df), sd, text)


def _text_variance(deviations: np.ndarray) -> tuple[float, float]:
    """Return the variance of the mean from the choice of the text, and its degrees of freedom."""
    n, blocks = deviations.shape
    waves = np.pi * np.outer(np.arange(blocks) + 0.5, np.arange(1, COSINES + 1)) / blocks
    components = deviations @ (np.cos(waves) * (2 / blocks) ** 0.5)
    means = PAD * float(np.mean(components.mean(0) ** 2)) / blocks
    rest = PAD * float(components.var(0, ddof=1).mean()) / (n * blocks)
    text = max(means - rest, 0.0)
    return text, COSINES * text / ((text + means) / 2) if text else float(COSINES)
