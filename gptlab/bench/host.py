"""The machine that figures are measured on, and the time that a process takes to start.

`python -m gptlab.bench.host key=value ...` is the process that is timed. This module therefore imports nothing heavy
before it reads the clock.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptlab.training.prepare import PreparedRun

REPEATS = 3
STEPS = 3  # from the second step on, memory holds the optimizer's state too
PRIVATE = ("host", "command")  # entries of `environment` that say whose machine it is


def describe_machine(subject: "PreparedRun") -> dict[str, Any]:
    """Return hardware, versions and precision, without anything that identifies the machine or its owner."""
    import torch

    from gptlab.runs.environment import environment

    machine = subject.device
    gpu = torch.cuda.get_device_name(machine.device) if machine.device.type == "cuda" else None
    return {key: value for key, value in environment(subject.dataset.hash).items() if key not in PRIVATE} | {
        "device": machine.device.type,
        "gpu": gpu,
        "precision": machine.precision,
        "compiled": machine.compile,
    }


def run_process(command: Sequence[str], *, threads: int | None = None, cwd: Path | None = None) -> str:
    """Run a command and return its output.

    Args:
        command: The program and its arguments.
        threads: The number of threads of torch; None for torch's default.
        cwd: The folder to run it in.

    Raises:
        ConfigError: The process failed. The message ends with the last line that it printed.
    """
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    process = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if process.returncode:
        from gptlab.config import ConfigError

        last_line = "".join((process.stderr or process.stdout).strip().splitlines()[-1:])
        raise ConfigError(f"bench: `{' '.join(command)}` ended with code {process.returncode}: {last_line}")
    return process.stdout


def measure_startup(overrides: Sequence[str], threads: int | None) -> dict[str, Any]:
    """Return seconds to import, seconds to the first step, and peak memory in bytes, over `REPEATS` processes."""
    from gptlab.bench.timing import spread

    runs = []
    for _ in range(REPEATS):
        started = time.time()
        output = run_process([sys.executable, "-m", "gptlab.bench.host", *overrides], threads=threads)
        measured = json.loads(output.splitlines()[-1])
        runs.append(measured | {"first_step_s": measured.pop("first_step_at") - started})
    return {key: spread([run[key] for run in runs]) for key in runs[0]}


def main(overrides: Sequence[str]) -> None:
    """Do the first steps of a run, and print as JSON when each stage was reached."""
    started = time.perf_counter()
    import torch

    torch_imported = time.perf_counter()
    from gptlab.bench.subject import prepare
    from gptlab.training.step_timing import step_of, synchronize
    from gptlab.training.trainer import Trainer

    gptlab_imported = time.perf_counter()
    trainer = Trainer(prepare(overrides))
    step, device = step_of(trainer), trainer.device.device
    step()
    synchronize(device)
    first_step_at = time.time()
    for _ in range(STEPS - 1):
        step()
    synchronize(device)
    on_cuda = device.type == "cuda"
    measured = {
        "import_torch_s": torch_imported - started,
        "import_gptlab_s": gptlab_imported - started,
        "first_step_at": first_step_at,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if on_cuda else peak_rss(),
    }
    print(json.dumps(measured))


def peak_rss() -> int:
    """Return the peak resident memory of this process in bytes.

    On Linux getrusage is no use: its peak starts at the peak of the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists() and (match := re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)):
        return 1024 * int(match[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main(sys.argv[1:])
