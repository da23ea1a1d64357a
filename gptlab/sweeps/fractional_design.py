"""Some of a grid's arms, chosen so that the effects of its factors can still be told apart.

Bayesian D-optimality (DuMouchel and Jones 1994): main effects must be estimable, pairwise interactions as far as the
number of arms allows. Found by exchanging arms while that helps (Fedorov 1972); the same arms every time.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from gptlab.config import ConfigError

PRIOR = 1.0  # precision of an interaction: one run's worth of belief that it is small


def balanced(levels: Sequence[Mapping[str, str]], fraction: float) -> list[int]:
    """Places of the kept arms, in order, the first arm always among them. `levels`: of each arm, factor -> level."""
    factors = {k: list(dict.fromkeys(arm.get(k, "") for arm in levels)) for arm in levels for k in arm}
    factors = {k: values for k, values in factors.items() if len(values) > 1}
    n = math.ceil(fraction * len(levels))
    main, pairs = _contrasts(levels, factors)
    if n < main.shape[1]:
        raise ConfigError(
            f"--fraction={fraction:g}: keeps {n} of {len(levels)} arms; the main effects alone need {main.shape[1]}"
        )
    return _exchange(np.hstack([main, pairs]), main.shape[1], n)


def _contrasts(levels: Sequence[Mapping[str, str]], factors: Mapping[str, list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """A row for each arm: the mean and main effects; the pairwise interactions. Orthonormal over the whole grid."""
    columns = {
        k: _orthonormal(len(values))[[values.index(arm.get(k, "")) for arm in levels]] for k, values in factors.items()
    }
    main = np.hstack([np.ones((len(levels), 1)), *columns.values()])
    products = [
        (a[:, :, None] * b[:, None, :]).reshape(len(levels), -1) for a, b in itertools.combinations(columns.values(), 2)
    ]
    return main, np.hstack(products) if products else np.empty((len(levels), 0))


def _orthonormal(n: int) -> np.ndarray:
    """n levels as n - 1 contrasts with mean 0 and mean square 1: (n, n - 1)."""
    basis, _ = np.linalg.qr(np.hstack([np.ones((n, 1)), np.eye(n)[:, 1:]]))
    return basis[:, 1:] * math.sqrt(n)


def _exchange(x: np.ndarray, n_main: int, n: int) -> list[int]:
    """Rows of `x` that maximise log det(X'X + prior)."""
    prior = np.diag([1e-6] * n_main + [PRIOR] * (x.shape[1] - n_main))
    chosen: list[int] = [0]
    while len(chosen) < n:  # greedily to begin with
        inverse = np.linalg.inv(x[chosen].T @ x[chosen] + prior)
        gain = np.einsum("ij,jk,ik->i", x, inverse, x)
        gain[chosen] = -1
        chosen.append(int(gain.round(9).argmax()))
    better = True
    while better:
        better = False
        for place in range(1, n):
            others = [c for i, c in enumerate(chosen) if i != place]
            inverse = np.linalg.inv(x[others].T @ x[others] + prior)
            gain = np.einsum("ij,jk,ik->i", x, inverse, x).round(9)
            gain[others] = -1
            if gain.max() > gain[chosen[place]]:
                chosen[place], better = int(gain.argmax()), True
    return sorted(chosen)
