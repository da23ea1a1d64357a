"""A fraction of a grid: the rank and the variances of the least-squares fit show that its effects can be told apart."""

import itertools

import numpy as np
import pytest

from gptlab.config import ConfigError
from gptlab.sweeps.fractional_design import balanced
from gptlab.sweeps.grid import plan_sweep


def grid(*sizes):
    names = "abcdefgh"
    return [
        {names[i]: str(level) for i, level in enumerate(levels)} for levels in itertools.product(*map(range, sizes))
    ]


def design(levels, chosen, *, interactions):
    """The design matrix with treatment coding, which the code under test does not use."""
    factors = sorted(levels[0])
    columns = {
        f: [[float(levels[i][f] == v) for i in chosen] for v in sorted({a[f] for a in levels})[1:]] for f in factors
    }
    parts = [np.ones((len(chosen), 1)), *(np.array(c).T for c in columns.values())]
    if interactions:
        parts += [
            np.array([np.multiply(x, y) for x in columns[f] for y in columns[g]]).T
            for f, g in itertools.combinations(factors, 2)
        ]
    return np.hstack(parts)


@pytest.mark.parametrize(
    ("sizes", "fraction"), [((2, 2, 2), 0.5), ((2, 2, 2, 2), 0.5), ((3, 3, 2), 0.5), ((4, 3, 2), 0.4)]
)
def test_main_effects_are_estimable_and_the_baseline_is_kept(sizes, fraction):
    levels = grid(*sizes)
    chosen = balanced(levels, fraction)
    assert chosen[0] == 0 and len(set(chosen)) == len(chosen) == int(np.ceil(fraction * len(levels)))
    x = design(levels, chosen, interactions=False)
    assert np.linalg.matrix_rank(x) == x.shape[1]


def test_half_of_a_cube_is_the_textbook_half_fraction():
    """2^(3-1): main effects are orthogonal, and every level is as frequent as the other."""
    chosen = balanced(grid(2, 2, 2), 0.5)
    signs = np.array([[int(v) * 2 - 1 for v in grid(2, 2, 2)[i].values()] for i in chosen])
    assert (signs.T @ signs == 4 * np.eye(3)).all()


def test_with_enough_arms_interactions_are_estimable_too():
    levels = grid(2, 2, 2, 2)
    x = design(levels, balanced(levels, 0.75), interactions=True)
    assert np.linalg.matrix_rank(x) == x.shape[1] == 11


def test_main_effects_are_at_least_as_precise_as_in_random_fractions():
    levels, rng = grid(3, 3, 2, 2), np.random.default_rng(0)

    def variance(chosen):
        x = design(levels, chosen, interactions=False)
        return np.trace(np.linalg.pinv(x.T @ x)) if np.linalg.matrix_rank(x) == x.shape[1] else np.inf

    ours = variance(balanced(levels, 1 / 3))
    others = [variance([0, *rng.choice(np.arange(1, 36), 11, replace=False)]) for _ in range(200)]
    assert ours <= np.quantile(others, 0.05)


def test_a_sweep_keeps_its_first_arm_and_a_fraction_of_the_others():
    words = ["norm=layernorm,rmsnorm", "ffn=gelu,swiglu,relu", "placement=pre,post", "seed=0,1"]
    planned = plan_sweep(words, fraction=0.5)
    assert len(planned.arms) == 6 and len(planned.cells) == 12
    assert planned.arms[0].overrides == plan_sweep(words).arms[0].overrides


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.1])
def test_a_fraction_that_is_too_small_or_too_large_is_refused(fraction):
    with pytest.raises(ConfigError, match="^--fraction="):
        plan_sweep(["norm=layernorm,rmsnorm", "ffn=gelu,swiglu,relu", "placement=pre,post"], fraction=fraction)
