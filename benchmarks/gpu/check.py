"""Check gptlab on a GPU in eight minutes: `make gpu-check`, or `python benchmarks/gpu/check.py`.

Sections that compare run first, beside each other; then those that time run alone. Results are JSON lines in
$OUT/results.jsonl. With the name of a section, and its arguments, only that section runs. The environment variables are
described in common.py; GPU_CHECK_DEVICE=cpu GPU_CHECK_TINY=1 tries the script on a CPU, as `make gpu-check-cpu` does.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version

import correctness
import timings
from common import DEVICE, OUT, SECONDS, STARTED, record, write_text

SECTIONS = {
    f.__name__: f
    for f in (
        *(correctness.options, correctness.flex, correctness.compiled, correctness.arms, correctness.gpu_tests),
        *(timings.warm, timings.launch, timings.gpt2, timings.karpathy, timings.sweeps),
    )
}
SIDE_BY_SIDE = [
    *(["options", str(i), "3"] for i in range(3)),
    *(["flex"], ["compiled", "a"], ["compiled", "b"], ["arms"], ["warm"], ["gpu_tests"]),
]
ALONE = {"launch": 0.13, "gpt2": 0.28, "karpathy": 0.38, "sweeps": 0.32}  # shares of the seconds, at most
PACKAGES = ("torch", "triton", "numpy", "transformers", "hydra-core", "wandb", "pytest")
CACHES = OUT / "inductor"
TOLERANCE = 1e-3  # of a loss in float32 against the CPU, in nats per token


def main() -> int:
    """Run all sections, and return 1 if anything failed."""
    write_text()
    shutil.rmtree(CACHES, ignore_errors=True)
    for name in ("results.jsonl", "log.txt"):
        (OUT / name).write_text("")
    describe_machine()
    running = [(words, start(words, 0.36 * SECONDS, threads=1)) for words in SIDE_BY_SIDE if applies(words)]
    for words, process in running:
        record("end", of=words, code=process.wait())
    for name, share in ALONE.items():
        left = SECONDS - (time.time() - STARTED)
        if left < 20:
            record("end", of=[name], code="no time left")
        else:
            record("end", of=[name], code=start([name], min(share * SECONDS, left)).wait())
    return summarise()


def applies(words: list[str]) -> bool:
    return words != ["gpu_tests"] or DEVICE == "cuda"


def start(words: list[str], seconds: float, threads: int | None = None) -> subprocess.Popen:
    """Start a section in its own process; after `seconds` it ends with code 124.

    Each section compiles into its own cache, except that the timed ones find what `warm` compiled.
    """
    log = (OUT / "log.txt").open("a")
    cache = CACHES / ("warm" if words[0] in ALONE else "-".join(words))
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache)}
    environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    command = ["timeout", "-k", "5", str(seconds), sys.executable, __file__, *words]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def describe_machine() -> None:
    """Record the GPU, the cores and the versions."""
    import torch

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "missing"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    record("machine", gpu=gpu, cuda=torch.version.cuda, cpu_count=os.cpu_count(), python=sys.version, packages=versions)


def summarise() -> int:
    """Print what failed and what is off; return the exit code."""
    facts = [json.loads(line) for line in (OUT / "results.jsonl").read_text().splitlines()]
    failed = [f for f in facts if "error" in f or any(isinstance(v, dict) and "error" in v for v in f.values())]
    failed += [f for f in facts if f["section"] in ("end", "karpathy", "sweep", "gpu_tests") and f["code"] != 0]
    off = [f for f in facts if f.get("largest_difference", 0) > TOLERANCE]
    took = time.time() - STARTED
    print(
        f"{len(facts)} facts in {took:.0f} s, {len(failed)} failed, {len(off)} off the CPU by more than {TOLERANCE:g}"
    )
    for fact in failed + off:
        print(json.dumps(fact)[:600])
    print(f"results: {OUT / 'results.jsonl'}")
    return 1 if failed or off else 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write_text()
        SECTIONS[sys.argv[1]](*sys.argv[2:])
    else:
        sys.exit(main())
