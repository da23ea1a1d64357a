"""The choice of device, precision and compilation, and the memory allocator of a CPU."""

import ctypes
import functools
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptlab.config import ConfigError, Settings
from gptlab.distributed import world_size

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
LARGEST_INT = 2**31 - 1
PRECISIONS = {"float32": "float32", "bf16": "bf16 autocast", "bf16_weights": "bf16 weights"}  # setting -> recorded name
FAST_BF16 = {"amx_bf16", "avx512_bf16"}  # CPU flags


@dataclass(frozen=True)
class Device:
    """The chosen device, with precision and compilation."""

    device: torch.device
    precision: str  # a value of PRECISIONS
    compile: bool
    why_compile: str = "as set"  # the reason for `compile`

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass."""
        if self.precision != "bf16 autocast":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def describe(self) -> str:
        """Return name, precision, compilation and threads in a line."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        return f"{name}, {self.precision}{', compiled' if self.compile else ''}{threads}"


def choose_device(cfg: Settings) -> Device:
    """Return the device, precision and compilation to use. Raises ConfigError if this machine lacks the device."""
    device = _device(cfg.device)
    precision = _fastest_precision(device) if cfg.precision == "auto" else cfg.precision
    if cfg.compile is None:
        return Device(device, PRECISIONS[precision], device.type == "cuda", f"compile=null, device={device.type}")
    return Device(device, PRECISIONS[precision], cfg.compile, f"compile={str(cfg.compile).lower()}")


def _fastest_precision(device: torch.device) -> str:
    """Return the precision of `precision=auto`.

    On a CPU it is never autocast, whose casts cost a small model what bfloat16 gains. It depends on the CPU's flags,
    not on a timing, so that all cells of a sweep on one kind of machine agree.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return "bf16"
    if device.type == "cpu" and FAST_BF16 & cpu_flags() and world_size() == 1:
        return "bf16_weights"
    return "float32"


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return the feature flags of the CPU; empty where /proc/cpuinfo does not list them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return frozenset(next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split())


def _device(name: str) -> torch.device:
    available: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if name == "auto":
        name = next((kind for kind, is_available in available.items() if is_available()), "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device={name}: no such device; choose from auto, cpu, cuda, cuda:N, mps") from None
    if device.type in available and not available[device.type]():
        raise ConfigError(f"device={name}: not available on this machine; device=auto takes what is")
    if device.type not in ("cpu", *available):
        raise ConfigError(f"device={name}: choose from auto, cpu, cuda, cuda:N, mps")
    return device


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next step instead of returning it to the kernel.

    Do nothing with any other C library.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: LARGEST_INT, M_TOP_PAD: 2**26}.items():
        mallopt(parameter, value)
