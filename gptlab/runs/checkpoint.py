"""Checkpoints: one safetensors file each, replaced atomically, so that a kill leaves the old one or the new one.

`last.safetensors` holds the weights under their names, the optimizers' state under `optimizer/N/key/name`, and in its
header everything else that a resume needs. `best.safetensors` holds the weights alone. A weight that a model has under
several names (tied weights) is stored under the first; the header's `tied` maps each other name to it.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gptlab.distributed import gather_on_rank0, shard_like
from gptlab.files import FileError, replacing

LAST, BEST = "last.safetensors", "best.safetensors"


def save_weights(path: str | Path, model: nn.Module) -> None:
    """Save a model's weights. Every rank calls this; rank 0 writes."""
    _write(path, *_named_weights(model))


def save_training(path: str | Path, model: nn.Module, optimizers: list[Any], progress: dict[str, Any]) -> None:
    """Save what a resume needs: weights, optimizer states, and `progress`, which JSON must be able to hold.

    Every rank calls this; rank 0 writes.
    """
    tensors, header = _named_weights(model)
    numbers = {}
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        for p, state in optimizer.state.items():
            for key, value in state.items():
                entry = f"optimizer/{i}/{key}/{names[p]}"
                if isinstance(value, Tensor):
                    tensors[entry] = value
                else:
                    numbers[entry] = value
    _write(path, tensors, header | {"progress": json.dumps(progress), "numbers": json.dumps(numbers)})


@contextmanager
def open_safetensors(path: str | Path) -> Iterator[Any]:
    """Open a safetensors file. Raises FileError, which names it, if it is empty, cut off or something else."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as e:
        raise FileError(f"{path}: is not a whole safetensors file ({' '.join(str(e).split())}); give another") from e


def load_weights(path: str | Path, model: nn.Module) -> None:
    """Load the weights of a checkpoint into a model. Raises FileError if names or shapes differ."""
    try:
        model.load_state_dict(read_weights(path, model.state_dict()))
    except RuntimeError as e:
        raise FileError(f"{path}: does not fit the model of its config ({' '.join(str(e).split())[:200]})") from e


def read_weights(path: str | Path, held: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the weights of a checkpoint by name, tied ones under each of their names.

    They are whole; a weight that this process holds a shard of in `held` is cut to that shard.
    """
    held = held or {}
    with open_safetensors(path) as file:
        weights = {name: file.get_tensor(stored) for name, stored in _stored_names(file).items()}
    return {name: shard_like(weight, held.get(name)) for name, weight in weights.items()}


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight that `read_weights` would return, without reading the weights."""
    with open_safetensors(path) as file:
        return {name: tuple(file.get_slice(stored).get_shape()) for name, stored in _stored_names(file).items()}


def load_training(path: str | Path, model: nn.Module, optimizers: list[Any]) -> dict[str, Any]:
    """Restore model and optimizers from `save_training`'s file and return the progress that was saved."""
    load_weights(path, model)
    params = dict(model.named_parameters())
    with open_safetensors(path) as file:
        header = file.metadata()
        tensors = ((k, file.get_tensor(k)) for k in file.keys() if k.startswith("optimizer/"))  # noqa: SIM118
        for entry, value in chain(tensors, json.loads(header["numbers"]).items()):
            _, i, key, name = entry.split("/", 3)
            p = params[name]
            if isinstance(value, Tensor):
                value = shard_like(value, p).to(p.device)
            optimizers[int(i)].state[p][key] = value
    progress: dict[str, Any] = json.loads(header["progress"])
    return progress


def _named_weights(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return each weight under its first name, and the header that gives its other names."""
    first_names: dict[Tensor, str] = {}
    tied = {}
    for name, weight in model.state_dict(keep_vars=True).items():  # the tensors themselves, so that ties show
        first = first_names.setdefault(weight, name)
        if first != name:
            tied[name] = first
    return {name: weight for weight, name in first_names.items()}, {"tied": json.dumps(tied)} if tied else {}


def _stored_names(file: Any) -> dict[str, str]:
    """Return for each name of a weight the name that it is stored under."""
    names = {k: k for k in file.keys() if not k.startswith("optimizer/")}  # noqa: SIM118
    tied: dict[str, str] = json.loads((file.metadata() or {}).get("tied", "{}"))
    return names | tied


def _write(path: str | Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Gather the tensors from all ranks and write them on rank 0."""
    on_host = gather_on_rank0(tensors)
    if on_host is None:
        return
    path = Path(path)
    for leftover in path.parent.glob(f".{path.name}.*"):  # files of a process that was killed while writing
        leftover.unlink()
    with replacing(path, sync=True) as temporary:
        save_file(on_host, temporary, header)
        temporary.chmod(0o644)  # the library lets only the owner read it
