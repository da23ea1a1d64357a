"""How long a run is and at which learning rates. Worked out before anything is written."""

import math
from dataclasses import dataclass
from typing import Any

from gptlab.config import ConfigError, registry
from gptlab.model.cost import cost


@dataclass(frozen=True)
class Plan:
    steps: int | None  # optimizer steps; None where the budget is in seconds
    seconds: float | None
    tokens_per_step: int
    cost: dict[str, float]  # measure.cost
    warmup: float  # steps, or where below 1 a fraction of the run
    peak_lr: float
    schedule: Any

    def done(self, step: int, seconds: float) -> bool:
        return self.progress(step, seconds) >= 1

    def progress(self, step: int, seconds: float) -> float:
        """The share of the budget that is spent."""
        return step / self.steps if self.steps else seconds / self.seconds if self.seconds else 0.0

    def lr(self, step: int, seconds: float) -> float:
        """The learning rate of the step after `step` done ones."""
        if self.steps:
            warmup = self.warmup if self.warmup >= 1 else self.warmup * self.steps
            if step < warmup:
                return self.peak_lr * (step + 1) / (warmup + 1)
            t = (step - warmup) / max(1.0, self.steps - warmup)
        else:
            p = self.progress(step, seconds)
            if p < self.warmup:
                return self.peak_lr * max(p, 1e-3) / self.warmup
            t = (p - self.warmup) / (1 - self.warmup)
        return self.peak_lr * self.schedule.factor(min(t, 1.0), self.peak_lr)

    def describe(self) -> str:
        """The budget in every unit."""
        if self.steps is None:
            return f"{self.seconds:g} seconds; steps and tokens as the machine allows"
        tokens = self.steps * self.tokens_per_step
        return (
            f"{self.steps:,} steps = {tokens:,} tokens = {tokens * self.cost['flops_per_token']:.3g} FLOPs"
            f" = {tokens / self.cost['parameters']:.3g} tokens per parameter"
        )


def make_plan(cfg: Any) -> Plan:
    """Raises ConfigError for whatever only shows when the parts are put together."""
    costs = cost(cfg)
    tokens_per_step = cfg.train.batch_size * cfg.data.window
    optimizer = registry.build("optimizer", cfg.optimizer)
    schedule = registry.build("schedule", cfg.schedule)
    try:
        schedule.factor(1.0, optimizer.lr)
    except ValueError as e:
        raise ConfigError(f"schedule.{e}") from e
    if cfg.budget.seconds is not None and cfg.schedule.warmup >= 1:
        raise ConfigError(
            f"schedule.warmup={cfg.schedule.warmup:g}: steps are not known with budget.seconds; give a fraction below 1"
        )
    return Plan(
        steps=_steps(cfg.budget, costs, tokens_per_step),
        seconds=cfg.budget.seconds,
        tokens_per_step=tokens_per_step,
        cost=costs,
        warmup=cfg.schedule.warmup,
        peak_lr=optimizer.lr,
        schedule=schedule,
    )


def _steps(budget: Any, costs: dict[str, float], tokens_per_step: int) -> int | None:
    """Optimizer steps, rounded up to the first that spends the budget."""
    if budget.seconds is not None:
        return None
    if budget.steps is not None:
        return budget.steps
    if budget.tokens is not None:
        tokens = budget.tokens
    elif budget.flops is not None:
        if not costs["flops_per_token"]:
            raise ConfigError(f"budget.flops={budget.flops:g}: the model multiplies no matrices; set another budget")
        tokens = budget.flops / costs["flops_per_token"]
    else:
        tokens = budget.tokens_per_param * costs["parameters"]
    return max(1, math.ceil(tokens / tokens_per_step))
