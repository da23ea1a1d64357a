"""Counts what the host issued to the stand-in for CUDA: kernel launches, copies, synchronisations, matrix products.

before = snapshot(); trainer.training_step(); print(issued_since(before))
"""

import ctypes
import os

import torch

NAMES = (
    *("launch", "h2d", "d2h", "d2d", "sync_stream", "sync_device", "sync_event", "memset", "gemm", "malloc"),
    "event_query",
)
_counts = (ctypes.c_long * 16).in_dll(ctypes.CDLL(os.environ["NULLGPU_LIB"]), "nullgpu_count")
torch.backends.cuda.enable_cudnn_sdp(False)  # the stand-in has no cuDNN
torch.backends.cudnn.enabled = False


def snapshot() -> list[int]:
    """Return the counts so far."""
    return list(_counts)[: len(NAMES)]


def issued_since(before: list[int], steps: int = 1) -> dict[str, float]:
    """Return the counts per step since a snapshot, without those that are zero."""
    changes = {name: now - then for name, then, now in zip(NAMES, before, snapshot(), strict=True)}
    return {name: round(count / steps, 2) for name, count in changes.items() if count}
