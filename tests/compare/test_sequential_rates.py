"""The error rates of sequential experiments, through the code that settles their arms."""

import numpy as np
import pandas as pd
import pytest
from test_error_rates import allowed

from gptlab.compare import build_comparison
from gptlab.compare.analysis.effects import Evidence, Rules, compare_scores
from gptlab.compare.analysis.sequential import Looks
from gptlab.compare.analysis.settling import compare_so_far, settle
from paths import ROOT

CLAIMS = ("better", "worse")


def run(means, last, rng, *, noise=1.0, shared=1.0, margin=float("nan"), stuck=0.0, first=3):
    """Return the effects of a sequential experiment whose arms differ from the baseline by `means`, and its runs.

    The losses of a seed have `shared` in common, so that pairing pays; a share `stuck` of the runs ends far above.
    """
    scores = rng.normal(0, noise, (len(means) + 1, last)) + rng.normal(0, shared, last)
    scores += 20 * noise * (rng.random(scores.shape) < stuck)
    scores[1:] += np.array(means)[:, None]
    return judged(scores, Looks(first, tuple(range(last))), margin)


def judged(scores, looks, margin, family=0):
    """Return the effects of the arms, the baseline first, and the number of runs that were needed.

    `family` is the number of comparisons that were planned, if there are fewer.
    """
    names = ["base", *(f"arm {i}" for i in range(len(scores) - 1))]
    by_arm = {name: pd.Series(own) for name, own in zip(names, scores, strict=True)}
    references = dict.fromkeys(names[1:], "base")
    rules = Rules("val/loss", margin, family, looks=looks)
    if looks is None:
        return compare_scores(by_arm, references, rules), scores.size
    progress = settle(by_arm, references, dict.fromkeys(names, looks.seeds), rules, Evidence())
    effects = compare_so_far(by_arm, references, rules, Evidence(), progress)
    n_seeds = [one.seeds for one in progress.values()]
    return effects, sum(n_seeds) + max(n_seeds)


@pytest.mark.slow
@pytest.mark.parametrize(("arms", "last"), [(1, 12), (1, 20), (4, 12), (8, 12)])
def test_one_of_twenty_sequential_experiments_with_identical_arms_has_a_claim(arms, last):
    rng, draws = np.random.default_rng([arms, last]), 1000 if arms > 1 else 2000
    claims = sum(any(e.word in CLAIMS for e in run([0.0] * arms, last, rng)[0].values()) for _ in range(draws))
    print(f"\n{arms} identical arms, 3 to {last} seeds: {claims / draws:.1%}", end="")
    assert allowed(0.04, draws)[0] <= claims / draws <= allowed(0.06, draws)[1]


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.27, 0.5])
def test_stuck_seeds_do_not_raise_the_rate(share):
    rng, draws = np.random.default_rng(int(100 * share)), 1000
    claims = sum(run([0.0], 12, rng, stuck=share)[0]["arm 0"].word in CLAIMS for _ in range(draws))
    print(f"\n{share:.0%} of the seeds stuck: {claims / draws:.1%}", end="")
    assert claims / draws <= allowed(0.06, draws)[1]


@pytest.mark.slow
def test_a_false_equivalence_is_claimed_in_at_most_one_of_twenty_experiments():
    rng, draws = np.random.default_rng(1), 1000
    claims = sum(run([0.7], 20, rng, margin=0.7)[0]["arm 0"].word == "equivalent" for _ in range(draws))
    print(f"\nequivalent, though exactly at the margin: {claims / draws:.1%}", end="")
    assert claims / draws <= allowed(0.05, draws)[1]


@pytest.mark.slow
@pytest.mark.parametrize(("means", "promised"), [((0.0,) * 4, 0.95), ((0.5, 1.0, 1.5, 2.0), 0.95)])
def test_the_intervals_hold_together_whenever_an_experiment_ends(means, promised):
    rng, draws, covered = np.random.default_rng(2), 600, 0
    for _ in range(draws):
        found = run(means, 12, rng)[0].values()
        covered += all(e.low <= mean <= e.high for e, mean in zip(found, means, strict=True))
        assert all((e.low > 0 or e.high < 0) == (e.word in CLAIMS) for e in found)
    print(f"\narms {means}: all intervals hold in {covered / draws:.1%}", end="")
    assert covered / draws >= allowed(promised, draws)[0]


def kept_experiments():
    """Return the differences of the arms of the kept experiments, with the spreads of all arms and the margin."""
    truths = []
    for path in sorted((ROOT / "experiments").glob("*/kept.json")):
        comparison = build_comparison([path])
        arms = [r for r in comparison.results[1:] if r.effect and r.effect.pairs >= 3 and r.sd > 0]
        if arms and comparison.baseline.sd > 0 and comparison.margin == comparison.margin:
            truths.append(
                ([r.effect.mean for r in arms], [comparison.baseline.sd, *(r.sd for r in arms)], comparison.margin)
            )
    return truths


@pytest.mark.slow
@pytest.mark.parametrize(("last", "fixed", "fewer"), [(12, 8, 0.29), (20, 15, 0.4)])
def test_a_sequential_experiment_settles_as_many_arms_with_fewer_runs(last, fixed, fewer):
    """The arms of the kept experiments are taken as the truth; the losses of a seed correlate by 0.4."""
    rng, draws, settled, runs = np.random.default_rng(last), 20, np.zeros(2), np.zeros(2)
    for means, spreads, margin in kept_experiments():
        spread = np.array(spreads)
        for _ in range(draws):
            scores = 0.6**0.5 * rng.normal(0, 1, (len(spread), last)) + 0.4**0.5 * rng.normal(0, 1, last)
            scores *= spread[:, None]
            scores[1:] += np.array(means)[:, None]
            for design, looks in enumerate((None, Looks(3, tuple(range(last))))):
                effects, n_runs = judged(scores[:, : last if looks else fixed], looks, margin)
                settled[design] += sum(e.word in (*CLAIMS, "equivalent") for e in effects.values())
                runs[design] += n_runs
    print(f"\n3 to {last} seeds against {fixed}: settled {settled / draws}, runs {runs / draws}", end="")
    assert settled[1] >= 0.97 * settled[0] and runs[1] <= (1 - fewer) * runs[0]
