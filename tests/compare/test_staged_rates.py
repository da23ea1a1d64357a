"""How often a staged experiment lets a wrong arm pass, and what it saves, simulated. docs/verdicts.md has the numbers.

Ten arms and a baseline are compared at three rungs, whose runs cost 1, 6 and 30 smallest runs. An effect is a gain at
each rung, in standard deviations of a paired difference. `python -m pytest -m slow -s` on this file prints the rates.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from scipy.special import stdtr
from test_sequential_rates import judged

from gptlab.compare.analysis.gate import AtRung, gates
from gptlab.compare.analysis.sequential import GIVE_UP, GIVE_UP_FROM, Looks
from gptlab.compare.analysis.settling import FINAL
from gptlab.compare.analysis.statistics import Estimate, equivalence_p, holm
from gptlab.compare.analysis.text_share import MeanDifference
from gptlab.compare.analysis.verdict import BETTER, NOT_SHOWN, decide_verdict
from simulated import allowed

COSTS = (1, 6, 30)
MARGIN = 0.8  # of an effect, in the same unit; about that of half of the arms in experiments/
FIXED, LOOKS = None, Looks(3, tuple(range(8)))
N_FIXED = 5
PROMOTED = {"all": (), "better": (BETTER,), "better, not shown": (BETTER, NOT_SHOWN)}
DRAWS = 2000

LARGE = 6.0  # an effect that every rung shows
NULL = {
    "null at all rungs": [(0, 0, 0)] * 10,
    "half better at the first rung only, half null there": [(LARGE, 0, 0)] * 5 + [(0, LARGE, LARGE)] * 5,
    "null at the third rung": [(LARGE, LARGE, 0)] * 10,
    "null at one rung each": [(0, LARGE, LARGE)] * 3 + [(LARGE, 0, LARGE)] * 3 + [(LARGE, LARGE, 0)] * 4,
}
BETTERS = (1.5, 2.5, 4.0)
MIXED = [(gain,) * 3 for gain in (*BETTERS, -1.5, -3.0)] + [(0, 0, 0)] * 5


@dataclass
class Judged:
    """The arms at one rung, and the seeds that each got."""

    found: list[AtRung]
    seeds: list[int]


def words_of(losses, looks, margin, family):
    """Judge arms like `settle` and `compare_so_far`, with the same functions, but on plain arrays.

    Args:
        losses: of shape (arms + 1, seeds), the baseline first.
        looks: None for fixed seeds.
        margin: of equivalence.
        family: the number of arms over which p is corrected.
    """
    differences = losses[1:] - losses[0]
    arms, last = differences.shape
    p, p_equal, n_seeds = np.full(arms, np.nan), np.full(arms, np.nan), np.full(arms, last)
    means, still = np.zeros(arms), list(range(arms))
    for n in range(looks.first if looks else last, last + 1):
        seen = differences[still, :n]
        means[still], sds = seen.mean(1), seen.std(1, ddof=1)
        raw = 2 * stdtr(n - 1, -np.abs(means[still]) / sds * n**0.5)
        estimates = [Estimate(mean, sd / n**0.5, n - 1) for mean, sd in zip(means[still], sds, strict=True)]
        equal = [equivalence_p(one, margin) for one in estimates]
        p[still] = [looks.p(one, n) for one in raw] if looks else raw
        p_equal[still] = [looks.p(one, n, sides=1) for one in equal] if looks else equal
        corrected = holm(p, family)
        if n == last:
            break
        for arm, estimate, sd in zip(list(still), estimates, sds, strict=True):
            hopeless = looks.chance(MeanDifference(estimate, sd, np.nan), n, margin, family) < GIVE_UP
            if _word(n, means[arm], corrected[arm].p, p_equal[arm]) in FINAL or (n >= GIVE_UP_FROM and hopeless):
                still.remove(arm)
                n_seeds[arm] = n
        if not still:
            break
    corrected = holm(p, family)
    words = [_word(n, *one) for n, *one in zip(n_seeds, means, (c.p for c in corrected), p_equal, strict=True)]
    return Judged([AtRung(*one) for one in zip(words, means, p, strict=True)], list(n_seeds))


def _word(pairs, mean, p_holm, p_equivalent):
    return decide_verdict(
        pairs=pairs, mean=mean, p_holm=p_holm, p_equivalent=p_equivalent, unstable=False, higher=False
    )


@pytest.mark.parametrize("looks", [FIXED, LOOKS])
def test_the_simulated_words_are_those_of_a_comparison(looks):
    rng = np.random.default_rng(0)
    for gains, family in (([0.0] * 3 + [1.0, 2.0, 4.0, -3.0], 7), ([2.0] * 4, 10)):
        losses = drawn(rng, np.array(gains), looks)
        effects, n_runs = judged(losses, looks, MARGIN, family)
        found = words_of(losses, looks, MARGIN, family)
        assert [at.word for at in found.found] == [effect.word for effect in effects.values()]
        assert [at.p for at in found.found] == pytest.approx([effect.p_any_look for effect in effects.values()])
        assert n_runs == sum(found.seeds) + max(found.seeds)


def drawn(rng, gains, looks):
    """Return losses whose paired differences have a standard deviation of 1; those of a seed have a part in common."""
    seeds = looks.last if looks else N_FIXED
    losses = 0.5**0.5 * rng.standard_normal((len(gains) + 1, seeds)) + rng.standard_normal(seeds)
    losses[1:] -= gains[:, None]
    return losses


def staged(rng, gains, looks):
    """Return the gate and the cost of one experiment with each way to promote, on the same losses."""
    gains = np.asarray(gains, dtype=float)
    losses = [drawn(rng, column, looks) for column in gains.T]

    @cache  # the ways to promote often agree on the arms that go on
    def at(rung, arms):
        return words_of(losses[rung][[0, *(arm + 1 for arm in arms)]], looks, MARGIN, len(gains))

    results = {}
    for name, promoted in PROMOTED.items():
        going, cost = tuple(range(len(gains))), 0
        found = {arm: [] for arm in going}
        for rung, price in enumerate(COSTS):
            seen = at(rung, going) if going else Judged([], [])
            cost += price * (sum(seen.seeds) + max(seen.seeds, default=0))
            shown = dict(zip(going, seen.found, strict=True))
            for arm, rungs in found.items():
                rungs.append(shown.get(arm))
            going = tuple(arm for arm in going if not promoted or shown[arm].word in promoted)
        results[name] = ({arm for arm, gate in gates(found).items() if gate.word == BETTER}, cost)
    return results


def title(looks):
    return f"{looks.first} to {looks.last} seeds" if looks else f"{N_FIXED} seeds"


@pytest.mark.slow
@pytest.mark.parametrize("truth", NULL)
@pytest.mark.parametrize("looks", [FIXED, LOOKS], ids=title)
def test_in_one_of_twenty_experiments_an_arm_passes_that_is_not_better_at_some_rung(truth, looks):
    rng = np.random.default_rng(1)
    wrong = dict.fromkeys(PROMOTED, 0)
    for _ in range(DRAWS):
        for name, (passed, _) in staged(rng, NULL[truth], looks).items():
            wrong[name] += bool(passed)
    shares = ", ".join(f"{name} {count / DRAWS:.1%}" for name, count in wrong.items())
    print(f"\n{truth}, {title(looks)}: an arm passes in {shares}", end="")
    assert max(wrong.values()) / DRAWS <= allowed(0.05, DRAWS)[1]


@pytest.mark.slow
@pytest.mark.parametrize("looks", [FIXED, LOOKS], ids=title)
def test_a_staged_experiment_settles_ten_arms_with_half_the_compute(looks):
    rng, draws = np.random.default_rng(2), DRAWS // 2
    passed = {name: np.zeros(len(MIXED)) for name in PROMOTED}
    costs, same = dict.fromkeys(PROMOTED, 0.0), dict.fromkeys(PROMOTED, 0.0)
    for _ in range(draws):
        results = staged(rng, MIXED, looks)
        for name, (arms, cost) in results.items():
            passed[name][list(arms)] += 1 / draws
            costs[name] += cost / draws
            same[name] += (1 - len(arms ^ results["all"][0]) / len(MIXED)) / draws
    for name, shares in passed.items():
        betters = ", ".join(f"{gain} sd {share:.0%}" for gain, share in zip(BETTERS, shares, strict=False))
        print(
            f"\n{title(looks)}, {name}: better arms pass ({betters}; together {shares[:3].mean():.0%}), worse and null"
            f" ones do not in {1 - shares[3:].mean():.2%}; as with all arms {same[name]:.1%}; cost {costs[name]:.0f},"
            f" {costs[name] / costs['all']:.0%} of all",
            end="",
        )
        assert shares[3:].max() <= allowed(0.005, draws)[1]
        assert shares[:3].mean() >= 0.9 * passed["all"][:3].mean()
    assert costs["better"] <= 0.5 * costs["all"] and same["better"] > 0.9
    assert costs["better, not shown"] < costs["all"]
