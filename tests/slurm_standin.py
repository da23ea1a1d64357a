"""sbatch, srun, scontrol and sacct on this machine, as far as submitit uses them.

An array's jobs run so many at a time as it asks for. One that `scontrol requeue` names starts again when it has ended,
and one that is killed, as SLURM does when it wants the machine for another and requeues the job itself.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ARRAY = 77  # its job id
KILLED = 128 + signal.SIGKILL


def install(folder: Path) -> dict[str, str]:
    """Puts the commands into `folder`; returns the environment in which they are found."""
    folder.mkdir()
    for command in ("sbatch", "srun", "scontrol", "sacct"):
        path = folder / command
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {command} "$@"\n')
        path.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "SLURM_STANDIN": str(folder)}


def sbatch(script: str) -> None:
    last, at_once = map(int, re.findall(r"--array=0-(\d+)%(\d+)", Path(script).read_text())[0])
    for first in range(at_once):
        tasks = map(str, range(first, last + 1, at_once))
        log = (folder() / f"{first}.log").open("w")
        command = [sys.executable, __file__, "run_jobs", script, *tasks]
        subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)
    print(f"Submitted batch job {ARRAY}")


def run_jobs(script: str, *tasks: str) -> None:
    for task in tasks:
        ids = {"JOB_ID": f"{ARRAY + 1 + int(task)}", "ARRAY_JOB_ID": f"{ARRAY}", "ARRAY_TASK_ID": task}
        env = os.environ | {f"SLURM_{name}": value for name, value in ids.items()}
        requeued = folder() / f"{ARRAY}_{task}"
        while subprocess.run(["bash", script], env=env).returncode == KILLED or requeued.exists():
            requeued.unlink(missing_ok=True)


def srun(*words: str) -> None:
    *options, python, u, m, module, path = words
    task = os.environ["SLURM_ARRAY_TASK_ID"]
    for name, fd in (("--output", 1), ("--error", 2)):
        log = options[options.index(name) + 1].replace("%A", str(ARRAY)).replace("%a", task).replace("%t", "0")
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), fd)
    os.execv(python, [python, u, m, module, path])


def scontrol(verb: str, job: str) -> None:
    assert verb == "requeue"
    (folder() / job).touch()
    os.kill(os.getppid(), signal.SIGTERM)  # what still runs is told to end


def sacct(*_: str) -> None:
    print("JobID|State|NodeList")  # submitit then waits for the job's result


def folder() -> Path:
    return Path(os.environ["SLURM_STANDIN"])


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
