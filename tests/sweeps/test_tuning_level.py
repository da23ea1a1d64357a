"""How often two arms that respond alike to the learning rate are told apart, through the code that tunes them."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp
from test_tuning import Ended

from gptlab.sweeps.grid import plan_sweep
from gptlab.sweeps.tuning import stages

RATE, OWN = "optimizer.lr", 1e-3  # the setting, and the value that an automatic grid starts from
EXPERIMENTS = 1500
ALLOWED = (0.035, 0.068)  # 5 % +- 1, widened by two standard errors at the upper end


class Simulated:
    """The losses of runs: a parabola in the logarithm of the rate, and normal noise that depends on the run alone.

    `curvature` is the loss one factor of two away from the best rate, in standard deviations of the noise of a run;
    `best` is where the best rate lies between two values of the grid, in factors of two from the arm's own rate.
    """

    def __init__(self, rng, curvature, best):
        self.rng, self.curvature, self.best = rng, curvature, best
        self.runs = {}

    def cells(self, specs):
        return [Ended(spec, self.loss(spec), "finished") for spec in specs]

    def loss(self, spec):
        key = spec.arm.name, spec.seed, spec.tuned[RATE]
        if key not in self.runs:
            away = np.log2(float(spec.tuned[RATE]) / OWN) - self.best
            self.runs[key] = self.curvature * away**2 + self.rng.normal()
        return self.runs[key]


def differences(plan, losses):
    """Tune both arms as a sweep does, and return the difference of their best runs for each seed."""
    for stage in stages(plan):
        stage.cells = losses.cells(stage.specs)
    best = {}
    for cell in stage.cells:
        key = cell.spec.arm.name, cell.spec.seed
        best[key] = min(cell.loss, best.get(key, np.inf))
    a, b = (arm.name for arm in plan.arms)
    return np.array([best[b, seed] - best[a, seed] for seed in plan.seeds])


@pytest.mark.slow
@pytest.mark.parametrize("best", [0.0, 0.5])
@pytest.mark.parametrize("curvature", [0.35, 1.0, 4.0])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_arms_that_respond_alike_are_told_apart_in_one_of_twenty_experiments(seeds, curvature, best):
    rng = np.random.default_rng(0)
    words = ["norm=layernorm,rmsnorm", f"optimizer.lr={OWN}", f"seed={','.join(map(str, range(seeds)))}"]
    plan = plan_sweep(words, tune=[f"{RATE}=auto"])
    found = np.array([differences(plan, Simulated(rng, curvature, best)) for _ in range(EXPERIMENTS)])
    share = (ttest_1samp(found, 0, axis=1).pvalue < 0.05).mean()
    print(f"{seeds} seeds, curvature {curvature}, best {best}: {share:.3f}")
    assert ALLOWED[0] < share < ALLOWED[1]
