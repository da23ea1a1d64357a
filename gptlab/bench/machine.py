"""What the figures were made on, as the JSON holds it: nothing in it says whose machine it is."""

from typing import Any

import torch

from gptlab.environment import environment
from gptlab.plan import Machine

OWNERS = ("host", "command")  # of environment.py's entries


def describe_machine(machine: Machine, data_hash: str) -> dict[str, Any]:
    seen = {k: v for k, v in environment(data_hash).items() if k not in OWNERS}
    gpu = torch.cuda.get_device_name(machine.device) if machine.device.type == "cuda" else None
    return seen | {
        "device": machine.device.type,
        "gpu": gpu,
        "precision": machine.precision,
        "compiled": machine.compile,
    }
