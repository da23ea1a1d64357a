"""Checkpoints: one safetensors file each, replaced in one move, so that a kill leaves the old one or the new one.

`last.safetensors` holds the weights under their names, the optimizers' state under `optimizer/N/key/name`, and in its
header what else a resume needs. `best.safetensors` holds the weights alone.
"""

import json
import os
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gptlab.distributed import gather_on_rank0, shard_like

LAST, BEST = "last.safetensors", "best.safetensors"


def save_weights(path: Path, model: nn.Module) -> None:
    _write(path, model.state_dict(), {})


def save_training(path: Path, model: nn.Module, optimizers: list[Any], progress: dict[str, Any]) -> None:
    """Everything a resume needs; `progress` is what JSON can say of it."""
    tensors, numbers = dict(model.state_dict()), {}
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        for p, state in optimizer.state.items():
            for key, value in state.items():
                place = f"optimizer/{i}/{key}/{names[p]}"
                if isinstance(value, Tensor):
                    tensors[place] = value
                else:
                    numbers[place] = value
    _write(path, tensors, {"progress": json.dumps(progress), "numbers": json.dumps(numbers)})


def load_weights(path: Path, model: nn.Module) -> None:
    model.load_state_dict(read_weights(path, model.state_dict()))


def read_weights(path: Path, held: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """All weights in a file, whole, or each as this process holds it in `held`."""
    held = held or {}
    with safe_open(path, "pt") as file:
        names = [k for k in file.keys() if not k.startswith("optimizer/")]  # noqa: SIM118
        return {k: shard_like(file.get_tensor(k), held.get(k)) for k in names}


def load_training(path: Path, model: nn.Module, optimizers: list[Any]) -> dict[str, Any]:
    """Put model and optimizers where they were; returns the progress that was saved."""
    load_weights(path, model)
    params = dict(model.named_parameters())
    with safe_open(path, "pt") as file:
        header = file.metadata()
        tensors = ((k, file.get_tensor(k)) for k in file.keys() if k.startswith("optimizer/"))  # noqa: SIM118
        for place, value in chain(tensors, json.loads(header["numbers"]).items()):
            _, i, key, name = place.split("/", 3)
            p = params[name]
            if isinstance(value, Tensor):
                value = shard_like(value, p).to(p.device)
            optimizers[int(i)].state[p][key] = value
    return json.loads(header["progress"])


def _write(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """By the first process, of what all have."""
    on_host = gather_on_rank0(tensors)
    if on_host is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    save_file(on_host, partial, header)
    partial.chmod(0o644)  # the library makes it readable by its owner alone
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
