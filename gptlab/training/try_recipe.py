"""A trial of the user's optimizer and schedule, before a run is planned with them."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from gptlab.config import ConfigError, Settings, registry
from gptlab.config.user_files import blaming, source_hash
from gptlab.model.cost import architecture

MOST_NUMBERS = 5e7  # in the parameters that an optimizer is tried on
NEEDED = ("param_groups", "step", "zero_grad", "state_dict", "load_state_dict")


def try_recipe(cfg: Settings) -> None:
    """Try the optimizer and the schedule of a config if they are the user's.

    Raises:
        ConfigError: one of them fails, or returns something else than its kind does.
    """
    with blaming():
        if source_hash(registry.entry("optimizer", cfg.optimizer.name).cls):
            option = registry.build("optimizer", cfg.optimizer)
            _try_optimizer(f"optimizer={cfg.optimizer.name}", option, (p for p, _ in architecture(cfg).kinds))
        if source_hash(registry.entry("schedule", cfg.schedule.name).cls):
            schedule = registry.build("schedule", cfg.schedule)
            for t in (0.0, 0.5, 1.0):
                factor = schedule.factor(t, cfg.optimizer.lr)
                if not isinstance(factor, int | float) or not math.isfinite(factor):
                    place = f"schedule={cfg.schedule.name}"
                    raise ConfigError(f"{place}: factor({t:g}, peak) returned {factor!r}; return a share of the peak")


def _try_optimizer(place: str, option: Any, parameters: Iterable[nn.Parameter]) -> None:
    """Let the optimizer do a step with gradients of 0, on one parameter of each shape and role, or on small ones."""
    kinds = list(parameters)
    is_small = sum(p.numel() for p in kinds) < MOST_NUMBERS
    small = []
    for p in kinds:
        small.append(nn.Parameter(torch.zeros(p.shape if is_small else [min(n, 2) for n in p.shape])))
        small[-1].__dict__.update(p.__dict__)  # role, gain, lr_scale
    for p in small:
        if not isinstance(n_slots := option.slots(p), int | float):
            raise ConfigError(f"{place}: slots(p) returned {n_slots!r}; return a number of state per number of p")
    optimizers = option.build(list(small))
    if not isinstance(optimizers, list | tuple) or not optimizers:
        got = type(optimizers).__name__ if not isinstance(optimizers, list | tuple) else "an empty list"
        raise ConfigError(f"{place}: build() returned {got}; return a list of torch.optim.Optimizer")
    for one in optimizers:
        if missing := next((name for name in NEEDED if not hasattr(one, name)), None):
            raise ConfigError(
                f"{place}: build() returned {type(one).__name__}, which has no {missing}; derive it from "
                f"torch.optim.Optimizer"
            )
    counts = [id(p) for one in optimizers for group in one.param_groups for p in group["params"]]
    if sorted(counts) != sorted(map(id, small)):
        raise ConfigError(f"{place}: build() must put each parameter that it is given into exactly one group")
    for p in small:
        p.grad = torch.zeros_like(p)
    for one in optimizers:
        one.step()
