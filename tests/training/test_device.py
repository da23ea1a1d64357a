import platform
import subprocess
import sys

import pytest

CHILD = """
import resource, torch
from gptlab.training.device import keep_freed_memory
keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.zeros(2**24)  # 64 MiB: glibc maps anew what is so large
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
[faults() for _ in range(8)]  # until the heap has grown
print(faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to")
def test_memory_that_was_freed_is_used_again_without_the_kernel():
    told = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 100
    untold = CHILD.replace("keep_freed_memory()\n", "")
    left = subprocess.run([sys.executable, "-c", untold], capture_output=True, text=True, check=True)
    assert int(left.stdout) > 100  # else the call above is not needed
