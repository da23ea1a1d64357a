"""The surroundings of a process: environment variables that must be numbers, and the machine's memory."""

import functools
import os
import re
from pathlib import Path

from gptlab.config.schema import ConfigError

MEMINFO = Path("/proc/meminfo")  # of Linux; in KiB


def number_in_environment(name: str, default: int) -> int:
    """Return an environment variable as a whole number; `default` if it is unset or empty.

    Raises:
        ConfigError: it is something else.
    """
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ConfigError(f"{name}={text}: must be a whole number, as torchrun sets it; unset it to use one process")
    return int(text)


@functools.cache
def machine_memory() -> int | None:
    """Return the bytes of memory and swap of this machine, or None where /proc/meminfo does not list them.

    Other systems, such as macOS, add swap when they need it.
    """
    try:
        kib = dict(re.findall(r"^(\w+): +(\d+) kB$", MEMINFO.read_text(encoding="ascii"), re.MULTILINE))
        return 1024 * (int(kib["MemTotal"]) + int(kib["SwapTotal"]))
    except (OSError, ValueError, KeyError):
        return None
