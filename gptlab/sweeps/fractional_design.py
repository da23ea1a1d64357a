"""A fraction of a grid's arms, chosen so that the effects of its factors can still be told apart.

The choice is Bayesian D-optimal (DuMouchel and Jones 1994): main effects must be estimable, pairwise interactions as
far as the number of arms allows. It is found by exchanging arms as long as that helps (Fedorov 1972), and the same
grid always gives the same arms.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from gptlab.config import ConfigError

INTERACTION_PRECISION = 1.0  # precision of the prior that an interaction is small; it weighs as much as a run
MAIN_PRECISION = 1e-6  # precision of the prior of a main effect, which says next to nothing


def balanced(levels: Sequence[Mapping[str, str]], fraction: float, place: str = "--fraction") -> list[int]:
    """Return the indices of the arms to keep, in order; the first arm is always kept.

    Args:
        levels: for each arm, its level of every factor.
        fraction: the share of the arms to keep, rounded up to a whole arm.
        place: where it was given, for messages.

    Raises:
        ConfigError: so few arms cannot tell the main effects apart.
    """
    factors = {k: list(dict.fromkeys(arm.get(k, "") for arm in levels)) for arm in levels for k in arm}
    factors = {k: values for k, values in factors.items() if len(values) > 1}
    n = math.ceil(fraction * len(levels))
    main, pairs = _contrasts(levels, factors)
    if n < main.shape[1]:
        raise ConfigError(
            f"{place}={fraction:g}: keeps {n} of {len(levels)} arms; the main effects alone need {main.shape[1]};"
            " raise it or leave it out"
        )
    return _exchange(np.hstack([main, pairs]), main.shape[1], n)


def _contrasts(levels: Sequence[Mapping[str, str]], factors: Mapping[str, list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the contrasts of the mean and the main effects, and of the pairwise interactions: (arms, contrasts) each.

    They are orthonormal over the whole grid.
    """
    columns = {
        k: _orthonormal(len(values))[[values.index(arm.get(k, "")) for arm in levels]] for k, values in factors.items()
    }
    main = np.hstack([np.ones((len(levels), 1)), *columns.values()])
    products = [
        (a[:, :, None] * b[:, None, :]).reshape(len(levels), -1) for a, b in itertools.combinations(columns.values(), 2)
    ]
    return main, np.hstack(products) if products else np.empty((len(levels), 0))


def _orthonormal(n: int) -> np.ndarray:
    """Return contrasts of n levels with mean 0 and mean square 1: (n, n - 1)."""
    basis, _ = np.linalg.qr(np.hstack([np.ones((n, 1)), np.eye(n)[:, 1:]]))
    return basis[:, 1:] * math.sqrt(n)


def _exchange(x: np.ndarray, n_main: int, n: int) -> list[int]:
    """Return the n rows of `x` that maximise log det(X'X + prior); the first row is one of them."""
    prior = np.diag([MAIN_PRECISION] * n_main + [INTERACTION_PRECISION] * (x.shape[1] - n_main))

    def gains(chosen: list[int]) -> np.ndarray:
        """Return each row's variance given the chosen rows; the larger, the more it would add. -1 for chosen rows."""
        inverse = np.linalg.inv(x[chosen].T @ x[chosen] + prior)
        gain: np.ndarray = np.einsum("ij,jk,ik->i", x, inverse, x).round(9)
        gain[chosen] = -1
        return gain

    chosen = [0]
    while len(chosen) < n:
        chosen.append(int(gains(chosen).argmax()))
    improved = True
    while improved:
        improved = False
        for i in range(1, n):
            gain = gains(chosen[:i] + chosen[i + 1 :])
            if gain.max() > gain[chosen[i]]:
                chosen[i], improved = int(gain.argmax()), True
    return sorted(chosen)
