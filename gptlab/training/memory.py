"""The memory that a run cannot do without, against that of the machine. Activations are not counted."""

import torch

from gptlab.config import ConfigError, Settings
from gptlab.config.environment import machine_memory
from gptlab.distributed import ProcessGroup
from gptlab.model.cost import architecture

BYTES_PER_WEIGHT = 4  # of a model as it is built, in float32 and on the CPU
BYTES_PER_TOKEN = 24  # of a batch: int64 indices, inputs and targets
IN_EACH_BLOCK = ("size.dim", "size.n_layer")
# part of the model -> the settings that can make it large
SIZES = {
    "embedding": ("size.dim", "model.vocab_size"),
    "head": ("size.dim", "model.vocab_size"),
    "position": ("size.dim", "data.window"),
    "attention": (*IN_EACH_BLOCK, "attention.head_dim"),
    "ffn": (*IN_EACH_BLOCK, "ffn.hidden"),
}


def refuse_without_memory(cfg: Settings, state_bytes: float, device: torch.device, processes: ProcessGroup) -> None:
    """Refuse a run whose weights, gradients and optimizer state, or whose batch, can never fit in the memory.

    Args:
        cfg: a config whose vocabulary size is known.
        state_bytes: bytes of weights, gradients and optimizer state together.
        device: the device of this process.
        processes: those that train the run; with fsdp each holds its share of the state.

    Raises:
        ConfigError: one of them is larger than all memory there is.
    """
    share = processes.world if processes.kind == "fsdp" else 1
    weights = BYTES_PER_WEIGHT * architecture(cfg).parameters
    ram = machine_memory()
    memory, where = ram, "this machine"
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        memory, where = gpu.total_memory, gpu.name
    mend = "set a smaller model"
    if memory is not None and state_bytes / share > memory:
        needs = f"training takes {_gib(state_bytes / share)} for weights, gradients and optimizer state"
        raise ConfigError(f"{_place(cfg)}: {needs}, and {where} has {_gib(memory)}; {mend}")
    if ram is None:
        return
    if weights > ram:
        raise ConfigError(f"{_place(cfg)}: the weights take {_gib(weights)}, and this machine has {_gib(ram)}; {mend}")
    batch = BYTES_PER_TOKEN * cfg.train.batch_size * cfg.data.window
    if batch > ram:
        name = "train.batch_size" if cfg.train.batch_size > cfg.data.window else "data.window"
        value = cfg.train.batch_size if name == "train.batch_size" else cfg.data.window
        raise ConfigError(f"{name}={value}: a batch takes {_gib(batch)}, and this machine has {_gib(ram)}; set less")


def _place(cfg: Settings) -> str:
    """Return the largest of the settings that size the model's largest part: `size.dim=200000`."""
    parts = architecture(cfg).parameters_by_part
    largest = max(parts, key=lambda part: parts[part])
    sizes = {}
    for key in SIZES.get(largest, IN_EACH_BLOCK):
        section, _, name = key.partition(".")
        if value := cfg[section].get(name):
            sizes[key] = value
    key = max(sizes, key=lambda name: sizes[name])
    return f"{key}={sizes[key]}"


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:,.1f} GiB"
