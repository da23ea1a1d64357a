"""How often the words on several rungs are wrong, simulated. docs/verdicts.md has the numbers.

`python -m pytest -m slow -s tests/compare/test_scaling_rates.py` prints them.
"""

import math

import numpy as np
import pandas as pd
import pytest

from gptlab.compare.analysis.isoflop import profile
from gptlab.compare.analysis.scaling import FADES, GROWS, HOLDS, MARGIN, fit_power_law, trend
from gptlab.compare.analysis.statistics import Estimate, interval
from simulated import SLOPE, allowed, falling, seeds_of

DRAWS = 4000
FITS = 300
SD = 0.01 * 2**0.5 / SLOPE  # of ln m in one seed, where runs vary by 0.01 nats and arms are not correlated


def words(per_decade, *, rungs, seeds, decades=2, uneven=1.0, draws=DRAWS):
    """Return the shares of the words, and how often a projection to 100 times the largest rung holds the truth.

    `uneven` is how many times more the first rung varies than the last.
    """
    rng = np.random.default_rng([rungs, seeds, round(100 * per_decade), round(uneven)])
    compute = np.logspace(15, 15 + decades, rungs)
    true = math.log(1.2) + math.log(per_decade) * np.log10(compute / compute[0])
    sds = SD * np.linspace(1, 1 / uneven, rungs)
    said, held = [], 0
    target = 1.2 * per_decade ** (decades + 2)
    for noise in rng.standard_normal((draws, rungs, seeds)):
        logs = true[:, None] + sds[:, None] * noise
        errors = logs.std(1, ddof=1) / seeds**0.5
        found = trend({c: Estimate(m, e, seeds - 1) for c, m, e in zip(compute, logs.mean(1), errors, strict=True)})
        said.append(found.word)
        projected = found.project(100 * compute[-1])
        held += projected.low <= target <= projected.high
    return {word: said.count(word) / draws for word in (GROWS, HOLDS, FADES)}, held / draws


@pytest.mark.slow
@pytest.mark.parametrize(("rungs", "seeds"), [(3, 3), (3, 5), (4, 3), (4, 5), (5, 3)])
def test_a_constant_multiplier_is_said_to_change_in_one_of_twenty_experiments(rungs, seeds):
    for uneven in (1, 2, 4):
        shares, held = words(1.0, rungs=rungs, seeds=seeds, uneven=uneven)
        level = shares[GROWS] + shares[FADES]
        print(
            f"\n{rungs} rungs, {seeds} seeds, spreads {uneven}: {level:.1%} grow or fade, {shares[HOLDS]:.0%} hold,"
            f" projections hold {held:.1%}",
            end="",
        )
        assert allowed(0.035, DRAWS)[0] <= level <= allowed(0.06, DRAWS)[1] and held > allowed(0.95, DRAWS)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("rungs", "seeds"), [(3, 3), (4, 3), (4, 5), (5, 3)])
def test_the_power_to_see_a_fade_and_the_rate_of_a_false_hold(rungs, seeds):
    for decades in (2, 3):
        fades = {f: words(f, rungs=rungs, seeds=seeds, decades=decades, draws=1000)[0][FADES] for f in (0.95, 0.9, 0.8)}
        false = words(1 / MARGIN, rungs=rungs, seeds=seeds, decades=decades)[0][HOLDS]
        shown = ", ".join(f"{factor} per decade {share:.0%}" for factor, share in fades.items())
        print(f"\n{rungs} rungs, {seeds} seeds, {decades} decades: {shown}; false holds {false:.1%}", end="")
        assert fades[0.8] > 0.95 and fades[0.95] < fades[0.9] <= fades[0.8] and false <= allowed(0.05, DRAWS)[1]


def drawn_law(rng, *, rungs, seeds, per_decade, sd=0.01, alpha=0.15, floor=1.0, true=1.3):
    """Losses of a baseline and an arm over two decades of compute."""
    losses = {"base": {}, "arm": {}}
    for x in np.linspace(0, 2 * math.log(10), rungs):
        more = math.log(true) + math.log(per_decade) * x / math.log(10)
        scores = seeds_of(rng, floor + falling([x, x + more], alpha), seeds, sd, 0.3)
        losses["base"][math.exp(x)], losses["arm"][math.exp(x)] = scores
    return losses


@pytest.mark.slow
@pytest.mark.parametrize(("rungs", "seeds"), [(3, 5), (4, 3), (4, 5), (5, 3)])
def test_the_fit_of_a_power_law_contains_the_truth(rungs, seeds):
    for alpha in (0.1, 0.3):
        rng = np.random.default_rng([rungs, seeds, round(10 * alpha)])
        constant = claims = floors = 0
        values = []
        for _ in range(FITS):
            losses = drawn_law(rng, rungs=rungs, seeds=seeds, per_decade=1.0, alpha=alpha)
            found = fit_power_law(losses, floor=1.0 if rungs == 3 else None, draws=100)
            low, high = interval(found.multipliers["arm"])
            constant += low <= math.log(1.3) <= high
            claims += found.words["arm"] in (GROWS, FADES)
            low, high = interval(found.floor)
            floors += low <= 1.0 <= high
            values.append(math.exp(found.multipliers["arm"].mean))
        print(
            f"\nfit, {rungs} rungs, {seeds} seeds, alpha {alpha}: multiplier {constant / FITS:.1%},"
            f" bias {np.median(values) / 1.3 - 1:+.1%}, grow or fade {claims / FITS:.1%}, floor {floors / FITS:.1%}",
            end="",
        )
        assert constant / FITS >= allowed(0.93, FITS)[0] and claims / FITS <= allowed(0.07, FITS)[1]


@pytest.mark.slow
def test_the_fit_of_a_power_law_sees_a_fade():
    rng = np.random.default_rng(0)
    for rungs, seeds in ((4, 3), (4, 5), (5, 3)):
        said = [
            fit_power_law(drawn_law(rng, rungs=rungs, seeds=seeds, per_decade=0.95), draws=100).words["arm"]
            for _ in range(FITS // 3)
        ]
        print(f"\nfit, {rungs} rungs, {seeds} seeds, 0.95 per decade: {said.count(FADES) / len(said):.0%} fade", end="")
        assert said.count(FADES) > said.count(GROWS)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_best_size_lies_in_the_interval_or_close_to_it(seeds):
    """Losses E + a N^-0.34 + b (C/N)^-0.28, in which 1e6 parameters are best; sizes span a factor of 4, 16 or 64."""
    for span, count, centre in ((4, 5, 1), (16, 5, 1), (64, 7, 1), (16, 5, 2)):
        rng = np.random.default_rng([seeds, span, centre])
        sizes = 1e6 * centre * np.geomspace(span**-0.5, span**0.5, count)
        x = np.log(sizes / 1e6)
        means = 2 + 0.5 * np.exp(-0.34 * x) + 0.5 * 0.34 / 0.28 * np.exp(0.28 * x)
        held, values = 0, []
        for _ in range(1000):
            table = [means + 0.005 * rng.standard_normal(count) for _ in range(seeds)]
            found = profile({float(s): pd.Series(column) for s, column in zip(sizes, np.transpose(table), strict=True)})
            held += bool(found.reason) or found.low <= 1e6 <= found.high
            values.append(found.best)
        bias = float(np.nanmedian(values)) / 1e6 - 1
        print(f"\n{count} sizes over {span}, centre {centre}, {seeds} seeds: {held / 1000:.1%}, {bias:+.1%}", end="")
        assert abs(bias) < 0.04  # of the size; where it is more than the error, the interval is too narrow
        assert held / 1000 > 0.92 or span > 4
