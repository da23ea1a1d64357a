"""Places on this machine's GPUs: how many cells run at once on each, over all sweeps that share a folder of runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

SECONDS_BETWEEN_LOOKS = 1.0
_last: Path | None = None  # the place that this process had last


def gpus_for(device: str) -> dict[str, int | None]:
    """The GPUs that a run on `device` can have: an id that every process knows -> torch's index. None for a CPU."""
    kind = torch.device(device)
    if kind.type != "cuda":
        return {} if kind.type == "cpu" else {kind.type: None}
    indices = range(torch.cuda.device_count()) if kind.index is None else [kind.index]
    return {str(torch.cuda.get_device_properties(i).uuid): i for i in indices}


@contextmanager
def place_on_gpu(device: str, per_gpu: int | None, folder: Path) -> Iterator[None]:
    """Wait for one of the `per_gpu` places of a GPU, and have that GPU as torch's current one; None: whatever there is.

    The locks in `folder` go with the process, however that ends. A process comes back to the place that it had last:
    on each GPU that it has been to it keeps some hundred MiB.
    """
    global _last
    gpus = gpus_for(device) if per_gpu else {}
    places = {folder / f"{gpu}-{n}.lock": index for n in range(per_gpu or 0) for gpu, index in gpus.items()}
    if not places:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path, lock = _wait_for_one_of(sorted(places, key=lambda path: path != _last))
    _last, index = path, places[path]
    try:
        if index is not None:
            torch.cuda.set_device(index)
            torch.cuda.reset_peak_memory_stats()  # another cell's, in a process that is used again
        yield
    finally:
        if index is not None:
            torch.cuda.empty_cache()  # for the neighbours, and for whoever has the place next
        lock.release()


def _wait_for_one_of(paths: list[Path]) -> tuple[Path, FileLock]:
    while True:
        for path in paths:
            lock = FileLock(path, timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue
            return path, lock
        time.sleep(SECONDS_BETWEEN_LOOKS)
