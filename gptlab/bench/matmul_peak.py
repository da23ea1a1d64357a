"""The speed of matrix products, measured on this machine and taken from the datasheets of GPUs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gptlab.bench.timing import Timed, steps_per_block, warm_up
from gptlab.training.device import Device
from gptlab.training.trainer import Trainer

SECONDS_PER_BLOCK = 0.3
SQUARE = {"cpu": 2048, "mps": 4096, "cuda": 8192}  # large enough for the best rate, small enough for the memory

# Dense FLOP/s of the tensor cores with float32 accumulation: bf16, or fp16 on GPUs without bf16. From NVIDIA's
# datasheets (half of the figures "with sparsity") and, for GeForce, appendix A of the Ampere GA102, Ada and RTX
# Blackwell whitepapers. The first entry that fits a name counts: PCIe cards are slower than SXM modules of that name.
DATASHEET = {
    "B200": 2250e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A30": 165e12,
    "A40": 149.7e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 5090": 209.5e12,
    "RTX 4090": 165.2e12,
    "RTX 4080": 97.5e12,
    "RTX 3090 Ti": 80e12,
    "RTX 3090": 71e12,
    "V100S": 130e12,
    "V100 PCIE": 112e12,
    "V100": 125e12,
    "T4": 65e12,
}


def datasheet_flops(gpu: str) -> float | None:
    """Return the peak FLOP/s of a GPU by its name in CUDA; None if it is not in the table."""
    name_parts = set(gpu.upper().replace("-", " ").split())
    return next((peak for name, peak in DATASHEET.items() if set(name.upper().split()) <= name_parts), None)


@dataclass(frozen=True)
class Gemm:
    """A matrix product (rows x inner) @ (inner x columns)."""

    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inner * self.columns

    @property
    def name(self) -> str:
        return f"({self.rows:,} x {self.inner:,}) @ ({self.inner:,} x {self.columns:,})"


def gemms(trainer: Trainer) -> list[Gemm]:
    """Return two products: all tokens of a forward pass times the largest matrix of a block, and a large square."""
    block = next(iter(trainer.model.blocks), trainer.model)  # the simplest models have no blocks
    matrices = [p.shape for p in block.parameters() if p.ndim == 2]
    tokens, side = trainer.micro * trainer.cfg.data.window, SQUARE[trainer.device.device.type]
    largest = sorted(max(matrices, key=math.prod, default=(1, 1)))
    return [Gemm(tokens, *largest), Gemm(side, side, side)]


def timed_gemms(shapes: Sequence[Gemm], machine: Device) -> list[Timed]:
    """Return the products, warm, in the precision of the run, with weights stored as a linear layer stores them."""
    dtype = torch.bfloat16 if machine.precision.startswith("bf16") else torch.float32
    return [_timed(shape, machine.device, dtype) for shape in shapes]


def _timed(shape: Gemm, device: torch.device, dtype: torch.dtype) -> Timed:
    x = torch.randn(shape.rows, shape.inner, device=device).to(dtype)
    weight = torch.randn(shape.columns, shape.inner, device=device).to(dtype)
    out = torch.empty(shape.rows, shape.columns, device=device, dtype=dtype)

    def step() -> None:
        torch.matmul(x, weight.t(), out=out)

    warm_up(step, device)
    return Timed(shape.name, step, steps_per_block(step, device, SECONDS_PER_BLOCK))
