"""Memory of activations, on Linux: kept from step to step.

glibc returns large freed blocks to the kernel, which must find and clear them anew in every step.
"""

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> None:
    """From now on the process keeps what it frees; elsewhere than with glibc nothing happens."""
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: LARGEST_INT, M_TOP_PAD: 2**26}.items():
        mallopt(parameter, value)
