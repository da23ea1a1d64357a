"""The device, the precision and whether to compile, decided; and the memory of a CPU."""

import ctypes
import functools
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptlab.config import ConfigError
from gptlab.distributed import world_size

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
LARGEST_INT = 2**31 - 1
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


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next step, rather than return it to the kernel and ask for it again.

    Under another C library nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: LARGEST_INT, M_TOP_PAD: 2**26}.items():
        mallopt(parameter, value)
