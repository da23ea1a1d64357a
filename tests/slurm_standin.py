"""sbatch, srun, scontrol and sacct on this machine, as far as submitit uses them.

At most as many jobs of an array run at once as it asks for. Every submission has an id of its own. A job that
`scontrol requeue` names starts again when it has ended, and so does one that is killed, as SLURM does when it wants the
machine for another and requeues the job itself.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

FIRST = 77  # the id of what is submitted first
ALONE = "alone"  # in place of an index, for a job that is not part of an array
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
    job = FIRST + len(list(folder().glob("*.submitted")))
    (folder() / f"{job}.submitted").touch()
    array = re.search(r"--array=0-(\d+)%(\d+)", Path(script).read_text())
    last, at_once = map(int, array.groups()) if array else (0, 1)
    for first in range(at_once):
        tasks = map(str, range(first, last + 1, at_once)) if array else [ALONE]
        log = (folder() / f"{job}-{first}.log").open("w")
        command = [sys.executable, __file__, "run_jobs", script, str(job), *tasks]
        subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)
    print(f"Submitted batch job {job}")


def run_jobs(script: str, job: str, *tasks: str) -> None:
    for task in tasks:
        ids = {"JOB_ID": job}
        if task != ALONE:
            ids = {"JOB_ID": f"{job}{int(task):03}", "ARRAY_JOB_ID": job, "ARRAY_TASK_ID": task}
        env = os.environ | {f"SLURM_{name}": value for name, value in ids.items()}
        requeued = folder() / (job if task == ALONE else f"{job}_{task}")
        while subprocess.run(["bash", script], env=env).returncode == KILLED or requeued.exists():
            requeued.unlink(missing_ok=True)


def srun(*words: str) -> None:
    *options, python, u, m, module, path = words
    ids = {"%j": "JOB_ID", "%A": "ARRAY_JOB_ID", "%a": "ARRAY_TASK_ID"}
    for name, fd in (("--output", 1), ("--error", 2)):
        log = options[options.index(name) + 1].replace("%t", "0")
        for mark, variable in ids.items():
            log = log.replace(mark, os.environ.get(f"SLURM_{variable}", ""))
        while not Path(log).parent.exists():  # submitit makes it after sbatch; SLURM does not start a job so soon
            time.sleep(0.05)
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
