"""Other processes: what they print, and in one line why they failed."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from gptlab.config import ConfigError


def run_process(command: Sequence[str], *, threads: int | None = None, cwd: Path | None = None) -> str:
    """What it printed. `threads` of torch; None: torch's default."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise ConfigError(f"bench: `{' '.join(command)}` ended with code {done.returncode}: {''.join(last)}")
    return done.stdout
