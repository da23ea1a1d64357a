"""How often the interval of a compute multiplier contains the truth, simulated. docs/verdicts.md has the numbers.

`python -m pytest -m slow -s tests/compare/test_multiplier_rates.py` prints them.
"""

import numpy as np
import pytest

from gptlab.compare.analysis.multiplier import Losses, multiplier
from simulated import allowed, falling, seeds_of

DRAWS = 1000
TRUE = (0.6, 0.8, 1.0, 1.2, 1.5, 1.8)


def coverage(true, *, n, sd, correlation=0.2, alpha=0.3, ratios=(0.5, 2.0), slope_seeds=None, level=0.05):
    """Return how often the interval contains the truth, the median relative bias, and how often there is no number.

    An end beyond the budgets counts as beyond the truth, which lies within them.
    """
    rng = np.random.default_rng([round(100 * true), n, round(1000 * sd), round(100 * correlation), round(10 * alpha)])
    means = falling(np.log([true, 1, *ratios]), alpha)
    held, values, none = 0, [], 0
    for _ in range(DRAWS):
        arm, base, *others = (Losses(scores) for scores in seeds_of(rng, means, n, sd, correlation))
        baseline = {1.0: base} | {
            ratio: Losses(one.scores[:slope_seeds]) for ratio, one in zip(ratios, others, strict=True)
        }
        found = multiplier(arm, baseline, level=level)
        none += bool(found.reason)
        held += found.low <= true <= found.high
        values.append(found.value)
    return held / (DRAWS - none), float(np.nanmedian(values)) / true - 1, none / DRAWS


def near(rate, target, points=0.02):
    return allowed(target - points, DRAWS)[0] <= rate <= allowed(target + points, DRAWS)[1]


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 8])
@pytest.mark.parametrize("sd", [0.005, 0.01, 0.02])
def test_with_three_budgets_95_percent_of_intervals_contain_the_truth(n, sd):
    for true in TRUE if sd == 0.01 else (0.6, 1.2, 1.8):
        rate, bias, none = coverage(true, n=n, sd=sd, correlation=(0.0, 0.5)[n == 5])
        print(
            f"\nthree budgets, {n} seeds, sd {sd}, true {true}: {rate:.1%}, bias {bias:+.1%}, none {none:.1%}", end=""
        )
        assert near(rate, 0.95) and abs(bias) < 0.01 and none < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [2.0, 0.5])
@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_two_budgets_do_not_claim_to_know_the_curve(alpha, ratio):
    """The arm is better, so that 2T is on its side and T/2 is not."""
    for n, sd in ((3, 0.01), (8, 0.005)):
        for true in (1.1, 1.4, 1.8):
            rate, bias, none = coverage(true, n=n, sd=sd, alpha=alpha, ratios=(ratio,))
            name = f"two budgets with {ratio:g} T, alpha {alpha}, {n} seeds, sd {sd}, true {true}"
            print(f"\n{name}: {rate:.1%}, bias {bias:+.1%}, none {none:.1%}", end="")
            assert rate >= allowed(0.94, DRAWS)[0] and abs(bias) < (0.015 if ratio > 1 else 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 8])
def test_three_seeds_at_the_other_budgets_are_enough(n):
    for correlation in (0.0, 0.5):
        for true in (0.6, 1.2, 1.8):
            rate, bias, none = coverage(true, n=n, sd=0.01, correlation=correlation, slope_seeds=3)
            print(f"\n{n} seeds, 3 of the slope, r {correlation}, true {true}: {rate:.1%}, none {none:.1%}", end="")
            assert near(rate, 0.97)


@pytest.mark.slow
def test_a_corrected_level_is_kept():
    rates = [coverage(true, n=n, sd=0.01, level=0.01)[0] for n in (3, 8) for true in (0.8, 1.4)]
    print(f"\nlevel 1 %: {min(rates):.1%} to {max(rates):.1%}", end="")
    assert all(near(rate, 0.99, 0.005) for rate in rates)
