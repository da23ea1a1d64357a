"""Slots on this machine's GPUs: how many cells run at once on each, over all sweeps that share a folder of runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

SECONDS_BETWEEN_TRIES = 1.0
last_slot: Path | None = None  # the slot that this process held last


def gpus_for(device: str) -> dict[str, int | None]:
    """Return the GPUs that a run on `device` can use: an id that is the same in every process -> torch's index.

    The index is None for a GPU that is not CUDA's. A CPU has none.
    """
    kind = torch.device(device)
    if kind.type != "cuda":
        return {} if kind.type == "cpu" else {kind.type: None}
    indices = range(torch.cuda.device_count()) if kind.index is None else [kind.index]
    return {str(torch.cuda.get_device_properties(i).uuid): i for i in indices}


@contextmanager
def gpu_slot(device: str, per_gpu: int | None, folder: Path) -> Iterator[None]:
    """Wait for one of the `per_gpu` slots of a GPU and make that GPU torch's current one, until the block ends.

    A slot is a lock in `folder`, which is released when the process ends, however it ends. A process returns to the
    slot that it held last, because it keeps some hundred MiB on every GPU that it has used. If `per_gpu` is
    None, the block runs immediately, on whichever GPU is current.
    """
    global last_slot
    gpus = gpus_for(device) if per_gpu else {}
    slots = {folder / f"{gpu}-{n}.lock": index for n in range(per_gpu or 0) for gpu, index in gpus.items()}
    if not slots:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path, lock = _acquire_any(sorted(slots, key=lambda path: path != last_slot))
    last_slot, index = path, slots[path]
    try:
        if index is not None:
            torch.cuda.set_device(index)
            torch.cuda.reset_peak_memory_stats()  # clear the peak of an earlier cell in this process
        yield
    finally:
        if index is not None:
            torch.cuda.empty_cache()  # for other cells on this GPU, and for the next one in this slot
        lock.release()


def _acquire_any(paths: list[Path]) -> tuple[Path, FileLock]:
    while True:
        for path in paths:
            lock = FileLock(path, timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue
            return path, lock
        time.sleep(SECONDS_BETWEEN_TRIES)
