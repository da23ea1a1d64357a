"""What only a fresh process can tell: seconds to import, seconds to the first step, peak memory.

`python -m gptlab.bench.startup key=value ...` is that process. It imports nothing before it looks at the clock.
"""

import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPEATS = 3
STEPS = 3  # from the second on the optimizer's state is there beside gradients and activations


def measure_startup(overrides: Sequence[str], threads: int | None) -> dict[str, Any]:
    """Spreads over `REPEATS` processes, one after the other, in seconds and bytes."""
    from gptlab.bench.process import run_process
    from gptlab.bench.timing import spread

    runs = []
    for _ in range(REPEATS):
        started = time.time()
        printed = run_process([sys.executable, "-m", "gptlab.bench.startup", *overrides], threads=threads)
        seen = json.loads(printed.splitlines()[-1])
        runs.append(seen | {"first_step_s": seen.pop("first_step_at") - started})
    return {key: spread([run[key] for run in runs]) for key in runs[0]}


def main(overrides: Sequence[str]) -> None:
    started = time.perf_counter()
    import torch

    torch_there = time.perf_counter()
    from gptlab.bench.subject import prepare, step_of
    from gptlab.bench.timing import synchronize
    from gptlab.training.trainer import Trainer

    all_there = time.perf_counter()
    trainer = Trainer(prepare(overrides))
    step, device = step_of(trainer), trainer.device.device
    step()
    synchronize(device)
    first_step_at = time.time()
    for _ in range(STEPS - 1):
        step()
    synchronize(device)
    on_cuda = device.type == "cuda"
    seen = {
        "import_torch_s": torch_there - started,
        "import_gptlab_s": all_there - started,
        "first_step_at": first_step_at,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if on_cuda else peak_rss(),
    }
    print(json.dumps(seen))


def peak_rss() -> int:
    """Bytes of this process. On Linux not getrusage's, which begins at the peak of the process that started it."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)):
        return 1024 * int(found[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main(sys.argv[1:])
