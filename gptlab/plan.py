"""What a run comes to: how long it is, at which rates, and on what it runs. Worked out before anything is written."""

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptlab import registry
from gptlab.config import ConfigError
from gptlab.measure import cost
from gptlab.parallel import world_size


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
        tokens = budget.flops / costs["flops_per_token"]
    else:
        tokens = budget.tokens_per_param * costs["parameters"]
    return max(1, math.ceil(tokens / tokens_per_step))


PRECISIONS = {"float32": "float32", "bf16": "bf16 autocast", "bf16_weights": "bf16 weights"}  # as they are recorded


@dataclass(frozen=True)
class Machine:
    """Device, precision and compiling, decided."""

    device: torch.device
    precision: str  # float32, bf16 autocast or bf16 weights
    compile: bool

    def autocast(self) -> AbstractContextManager:
        on = self.precision == "bf16 autocast"
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if on else nullcontext()

    def describe(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        return f"{name}, {self.precision}{', compiled' if self.compile else ''}{threads}"


def choose_machine(cfg: Any) -> Machine:
    device = _device(cfg.device)
    precision = _fastest_precision(device) if cfg.precision == "auto" else cfg.precision
    return Machine(device, PRECISIONS[precision], device.type == "cuda" if cfg.compile is None else cfg.compile)


def _fastest_precision(device: torch.device) -> str:
    """Not autocast on a CPU: its casts cost a small model what bfloat16 gains it."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return "bf16"
    if device.type == "cpu" and "amx_bf16" in cpu_flags() and world_size() == 1:
        return "bf16_weights"
    return "float32"


@functools.cache
def cpu_flags() -> frozenset[str]:
    """What the CPU says that it can do; empty where it does not say."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return frozenset(next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split())


def _device(name: str) -> torch.device:
    there: dict[str, Callable[[], bool]] = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if name == "auto":
        name = next((d for d, available in there.items() if available()), "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device={name}: no device; choose from auto, cpu, cuda, cuda:N, mps") from None
    if device.type in there and not there[device.type]():
        raise ConfigError(f"device={name}: this machine has none; device=auto takes what there is")
    if device.type not in ("cpu", *there):
        raise ConfigError(f"device={name}: choose from auto, cpu, cuda, cuda:N, mps")
    return device
