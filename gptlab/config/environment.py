"""Environment variables that must be numbers."""

import os

from gptlab.config.schema import ConfigError


def number_in_environment(name: str, default: int) -> int:
    """Return an environment variable as a whole number; `default` if it is unset or empty.

    Raises:
        ConfigError: it is something else.
    """
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ConfigError(f"{name}={text}: must be a whole number, as torchrun sets it; unset it to use one process")
    return int(text)
