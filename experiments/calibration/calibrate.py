"""Measure from the kept runs how often the verdict is right: false claims (A/A) and detected differences (A/B).

Experiments with k seeds are drawn from the runs of this folder, each without replacement. In A/A both arms are the same
arm with different seeds; in A/B they are two arms whose order is known, paired by seed.
"""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from gptlab.compare import build_comparison
from gptlab.compare.analysis.effects import Rules, compare_scores
from gptlab.compare.analysis.statistics import LEVEL
from gptlab.compare.analysis.verdict import BETTER, WORSE

HERE = Path(__file__).parent
DRAWS = 20_000  # experiments drawn for each number
AA_SEEDS = (3, 5, 8)
AB_SEEDS = (3, 4, 5, 8)
N_SPLITS = 100  # of the runs into halves
FAMILY = 4  # arms besides the baseline
PAIRS = (("learned", "none"), ("learned", "rope"), ("none", "rope"))  # arm, and the one it is compared with
METRIC = "val/loss"


def main() -> dict[str, bytes]:
    """Return the files made from the kept runs, by name."""
    comparison = build_comparison([HERE / "kept.json"])
    scores = pd.DataFrame({r.name: r.scores for r in comparison.results}).sort_index()
    _check_claims(scores, comparison.margin)
    same = pd.DataFrame([_false_claims(scores, k) for k in AA_SEEDS])
    family = _family(scores, 5)
    power = pd.DataFrame([_power(scores, arm, other, k) for arm, other in PAIRS for k in AB_SEEDS])
    pairing = pd.DataFrame([_pairing(scores, arm, other) for arm, other in PAIRS])
    text = _text(comparison, scores, same, family, power, pairing)
    return {"RESULTS.md": text.encode(), "results.png": _picture(scores, same, power)}


def row() -> dict[str, str]:
    """Return what stands in place of verdicts on the page of all experiments."""
    return {"verdicts": "measures how often the verdicts are right; see its page"}


def _claims(differences: np.ndarray) -> np.ndarray:
    """Return, for each row of paired differences, -1 for the verdict better, 1 for worse and 0 for neither."""
    test = stats.ttest_1samp(differences, 0, axis=1)
    return np.where(test.pvalue < LEVEL, np.sign(differences.mean(1)), 0)


def _check_claims(scores: pd.DataFrame, margin: float) -> None:
    """Assert on some of the draws that _claims, which is faster, agrees with gptlab's own verdict."""
    rng = np.random.default_rng(1)
    for values in _draws(scores["learned"].to_numpy(), 2, 5, 40, rng):
        a, b = (pd.Series(half, index=range(5)) for half in values)
        effect = compare_scores({"a": a, "b": b}, {"b": "a"}, Rules(METRIC, margin))["b"]
        word = {-1: BETTER, 1: WORSE}.get(int(_claims((values[1] - values[0])[None])[0]))
        assert (word == effect.verdict) if word else effect.verdict not in (BETTER, WORSE)


def _draws(values: np.ndarray, arms: int, k: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw n times `arms` disjoint sets of k values: (n, arms, k)."""
    shuffled = rng.permuted(np.tile(values, (n, 1)), axis=1)
    return shuffled[:, : arms * k].reshape(n, arms, k)


def _false_claims(scores: pd.DataFrame, k: int) -> dict[str, float]:
    """Return the share of A/A experiments with a claim, over all arms, and its 95 % interval.

    The same runs are in many draws, so the interval must come from the runs and not from the draws. The runs are split
    into halves, whose rates are independent. A quarter of the mean squared difference of the two rates is the variance
    of the rate over all runs (McCarthy 1969, Rev. Int. Statist. Inst. 37: 239-264). The part of it that is due to the
    draws is subtracted.
    """
    rng = np.random.default_rng(k)
    rate = np.mean([_rate(scores[arm].to_numpy(), k, DRAWS, rng) for arm in scores])
    variances = []
    for arm in scores:
        halves = (np.array_split(rng.permutation(scores[arm].to_numpy()), 2) for _ in range(N_SPLITS))
        rates = np.array([[_rate(half, k, DRAWS // 10, rng) for half in pair] for pair in halves])
        of_draws = np.mean(rates * (1 - rates)) / (DRAWS // 10)
        variances.append(max(0.0, np.mean(np.diff(rates) ** 2) / 2 - of_draws) / 2)
    half_width = 1.96 * np.sqrt(np.sum(variances)) / len(variances)
    return {"seeds": k, "rate": rate, "low": max(0.0, rate - half_width), "high": rate + half_width}


def _rate(values: np.ndarray, k: int, n: int, rng: np.random.Generator) -> float:
    drawn = _draws(values, 2, k, n, rng)
    return float(np.mean(_claims(drawn[:, 0] - drawn[:, 1]) != 0))


def _family(scores: pd.DataFrame, k: int) -> dict[str, float]:
    """Return how often an experiment with FAMILY + 1 equal arms has a claim, with and without Holm's correction."""
    rng = np.random.default_rng(0)
    any_corrected, any_raw = [], []
    for arm in scores:
        drawn = _draws(scores[arm].to_numpy(), FAMILY + 1, k, DRAWS, rng)
        p = stats.ttest_1samp(drawn[:, 1:] - drawn[:, :1], 0, axis=2).pvalue
        any_corrected.append(np.mean(p.min(1) * FAMILY < LEVEL))  # Holm's first step decides whether there is any
        any_raw.append(np.mean(p.min(1) < LEVEL))
    return {"corrected": float(np.mean(any_corrected)), "raw": float(np.mean(any_raw))}


def _power(scores: pd.DataFrame, arm: str, other: str, k: int) -> dict[str, object]:
    """Return how often k seeds detect the difference between two arms, and how often with the wrong sign."""
    difference = (scores[arm] - scores[other]).to_numpy()
    rng = np.random.default_rng(k)
    claims = _claims(_draws(difference, 1, k, DRAWS, rng)[:, 0])
    sign = np.sign(difference.mean())
    return {"arm": arm, "other": other, "seeds": k, "found": np.mean(claims == sign), "wrong": np.mean(claims == -sign)}


def _pairing(scores: pd.DataFrame, arm: str, other: str) -> dict[str, object]:
    """Return how pairing by seed changes the spread of a difference."""
    a, b = scores[arm], scores[other]
    r = stats.pearsonr(a, b)
    low, high = r.confidence_interval()
    paired, unpaired = float((a - b).std()), float(np.hypot(a.std(), b.std()))
    fewer = 1 - (paired / unpaired) ** 2
    return {
        "difference": f"{arm} - {other}",
        "mean": float((a - b).mean()),
        "paired": paired,
        "unpaired": unpaired,
        "correlation": f"{r.statistic:.2f} ({low:.2f} to {high:.2f})",
        "fewer": fewer,
    }


def _text(comparison, scores, same, family, power, pairing) -> str:
    n = len(scores)
    spread = ", ".join(f"{arm} {scores[arm].std():.4f}" for arm in scores)
    rows_same = "\n".join(f"| {r.seeds:.0f} | {r.rate:.1%} | {r.low:.1%} to {r.high:.1%} |" for r in same.itertuples())
    rows_power = "\n".join(
        f"| {r.arm} - {r.other} | {r.seeds} | {r.found:.1%} | {r.wrong:.2%} |" for r in power.itertuples()
    )
    rows_pairing = "\n".join(
        f"| {r.difference} | {r.mean:+.4f} | {r.paired:.4f} | {r.unpaired:.4f} | {r.correlation} | {r.fewer:.0%} |"
        for r in pairing.itertuples()
    )
    gains = pairing["fewer"]
    effect = (
        f"Pairing lowers the variance of a difference by {gains.min():.0%} to {gains.max():.0%}"
        if gains.min() > 0.1
        else f"Pairing changes the variance of a difference by {-gains.max():+.0%} to {-gains.min():+.0%}, which is no"
        " reliable gain"
    )
    seconds = comparison.runs["seconds"].sum()
    return (
        f"""# {comparison.question}

{comparison.literature}

{n} seeds of three arms, {METRIC} in nats per token. Standard deviation over seeds: {spread}.

![False claims, power, pairs](results.png)

## The same arm against itself (A/A)

Two disjoint sets of k seeds of one arm are compared as if they were two arms, in {DRAWS:,} draws for each of the
three arms. A claim is the verdict "better" or "worse". Its nominal rate is 5 %. The interval treats the {n} runs of
each arm as a sample.

| seeds | claims | 95 % interval |
| ---: | ---: | ---: |
{rows_same}

Of experiments with {FAMILY + 1} equal arms and 5 seeds, {family["corrected"]:.1%} have a claim; without Holm's
correction {family["raw"]:.1%} would.

## Arms of known order (A/B)

How often k paired seeds detect the difference, and how often they report the opposite sign; {DRAWS:,} draws.

| difference | seeds | found | wrong sign |
| --- | ---: | ---: | ---: |
{rows_power}

## The effect of pairing by seed

| difference | mean | deviation paired | unpaired | correlation (95 %) | variance saved |
| --- | ---: | ---: | ---: | ---: | ---: |
{rows_pairing}

{effect}. Arms with the same seed see the same batches, and the weights that they share have the same initial values.

## How to reproduce

    {comparison.command}
    gptlab compare runs/calibration --keep experiments/calibration/kept.json
    make results

{len(comparison.runs)} runs, {seconds:,.0f} seconds of training in all.

"""
        + "\n".join(f"- {line}" for line in comparison.hardware)
        + "\n"
    )


def _picture(scores: pd.DataFrame, same: pd.DataFrame, power: pd.DataFrame) -> bytes:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), dpi=100, layout="constrained")
    left.axhline(LEVEL * 100, color="grey", linewidth=1, linestyle="--")
    errors = 100 * np.abs(same[["low", "high"]].T.to_numpy() - same["rate"].to_numpy())
    left.errorbar(same["seeds"], 100 * same["rate"], errors, fmt="o", color="black", capsize=4)
    left.set(title="A/A: claims where there is nothing", xlabel="seeds per arm", ylabel="experiments with a claim (%)")
    left.set_ylim(0, max(12, 110 * same["high"].max()))
    for (arm, other), group in power.groupby(["arm", "other"], sort=False):
        middle.plot(group["seeds"], 100 * group["found"], "o-", label=f"{arm} - {other}")
    middle.set(title="A/B: differences that are found", xlabel="seeds", ylabel="experiments (%)", ylim=(0, 103))
    middle.legend(frameon=False)
    right.scatter(scores["none"], scores["rope"], s=16, color="black")
    right.set(title="one point a seed", xlabel=f"none, {METRIC} (nats per token)", ylabel=f"rope, {METRIC}")
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    plt.close(figure)
    return out.getvalue()
