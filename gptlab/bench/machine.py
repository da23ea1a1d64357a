"""What the figures were made on, as the JSON holds it: nothing in it says whose machine it is."""

from typing import Any

import torch

from gptlab.runs.environment import environment
from gptlab.training.prepare import PreparedRun

OWNERS = ("host", "command")  # of environment.py's entries


def describe_machine(subject: PreparedRun) -> dict[str, Any]:
    machine = subject.device
    seen = {k: v for k, v in environment(subject.dataset.hash).items() if k not in OWNERS}
    gpu = torch.cuda.get_device_name(machine.device) if machine.device.type == "cuda" else None
    return seen | {
        "device": machine.device.type,
        "gpu": gpu,
        "precision": machine.precision,
        "compiled": machine.compile,
    }
