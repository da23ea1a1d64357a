"""The length of a run. Known before anything is written."""

import math
from dataclasses import dataclass

from gptlab.config import ConfigError, Settings
from gptlab.model.cost import cost


@dataclass(frozen=True)
class Budget:
    """The length of a run, in steps or in seconds, and what it costs."""

    steps: int | None  # optimizer steps; None if the budget is in seconds
    seconds: float | None  # None if it is not
    tokens_per_step: int
    cost: dict[str, float]  # from gptlab.model.cost: parameters, FLOPs per token, ...

    def progress(self, step: int, seconds: float) -> float:
        """Return the share of the budget that is spent, from 0 to 1 or just above."""
        return step / self.steps if self.steps else seconds / self.seconds if self.seconds else 0.0

    def done(self, step: int, seconds: float) -> bool:
        """Return whether the budget is spent."""
        return self.progress(step, seconds) >= 1

    def describe(self) -> str:
        """Return the budget in every unit that is known."""
        if self.steps is None:
            return f"{self.seconds:g} seconds; the machine's speed decides the steps and tokens"
        tokens = self.steps * self.tokens_per_step
        return (
            f"{self.steps:,} steps = {tokens:,} tokens = {tokens * self.cost['flops_per_token']:.3g} FLOPs"
            f" = {tokens / self.cost['parameters']:.3g} tokens per parameter"
        )


def make_budget(cfg: Settings) -> Budget:
    """Return the budget of a config whose vocabulary size is known.

    Raises:
        ConfigError: if the model cannot be built, or its cost does not determine the number of steps.
    """
    costs = cost(cfg)
    tokens_per_step = cfg.train.batch_size * cfg.data.window
    return Budget(_steps(cfg.budget, costs, tokens_per_step), cfg.budget.seconds, tokens_per_step, costs)


def _steps(budget: Settings, costs: dict[str, float], tokens_per_step: int) -> int | None:
    """Return the first number of optimizer steps that spends the budget."""
    if budget.seconds is not None:
        return None
    if budget.steps is not None:
        return int(budget.steps)
    if budget.tokens is not None:
        tokens = budget.tokens
    elif budget.flops is not None:
        if not costs["flops_per_token"]:
            raise ConfigError(f"budget.flops={budget.flops:g}: this model has no matrix products; set another budget")
        tokens = budget.flops / costs["flops_per_token"]
    else:
        tokens = budget.tokens_per_param * costs["parameters"]
    return max(1, math.ceil(tokens / tokens_per_step))
