"""How a sweep's workers share a machine, and that a cell that a cluster stops continues from its checkpoint."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from hydra.core.plugins import Plugins

import slurm_standin
from gptlab.config import ConfigError
from gptlab.config.compose import load_config
from gptlab.runs.record import read_metrics
from gptlab.sweeps import gpu_slots as gpus
from gptlab.sweeps import launcher
from gptlab.sweeps.gpu_slots import gpu_slot, gpus_for
from gptlab.sweeps.grid import plan_sweep
from gptlab.sweeps.job import run_cells
from gptlab.sweeps.launcher import encode, prepare_launcher, share_cells, share_machine
from gptlab.sweeps.run_sweep import sweep
from tiny import TINY_RUN

# Schedules that stop their run in its sixth step of twelve, once: one with the signal that submitit sends, the other as
# SLURM preempts a job, with a warning first and a kill a few steps later. (A check calls them at 0, 1/2 and 1.)
STOPPED = '''
import os
import signal
from pathlib import Path
from gptlab import register


def once(number, sent=Path(__file__).with_name("sent")):
    sent.mkdir(exist_ok=True)
    if not (sent / str(number)).exists():
        (sent / str(number)).touch()
        os.kill(os.getpid(), number)


@register("schedule", "timeup")
class TimeUp:
    """The time limit is reached in the sixth step."""

    def factor(self, t, lr):
        if t == 5 / 12:
            once(signal.SIGUSR2)
        return 1.0


@register("schedule", "preempted")
class Preempted:
    """Warned in the sixth step and killed at three quarters."""

    def factor(self, t, lr):
        if t in (5 / 12, 9 / 12):
            once(signal.SIGTERM if t == 5 / 12 else signal.SIGKILL)
        return 1.0
'''


def gpu(index):
    return SimpleNamespace(uuid=f"gpu-{index}", name="GPU", total_memory=80 << 30)


@pytest.fixture
def machine(monkeypatch):
    """A machine with a given number of cores and of GPUs; no GPU is used."""

    def has(cores=1, n_gpus=0):
        monkeypatch.setattr(launcher, "cpu_count", lambda: cores)
        monkeypatch.setattr(launcher, "effective_n_jobs", lambda n: cores if n < 0 else n)
        monkeypatch.setattr(launcher.torch, "get_num_threads", lambda: cores)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
        monkeypatch.setattr(torch.cuda, "get_device_properties", gpu)
        for name in ("reset_peak_memory_stats", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, lambda: None)
        monkeypatch.setattr(torch.cuda, "set_device", current.append)

    current: list[int] = []
    has.current = current
    monkeypatch.setattr(gpus, "last_slot", None)
    return has


@pytest.mark.parametrize(
    ("cores", "n_jobs", "n_cells", "n_slots", "shares"),
    [
        (8, -1, 20, 0, (8, 1)),
        (8, -1, 3, 0, (3, 2)),
        (8, -1, 1, 0, (1, None)),  # in the sweep's own process, with all of its threads
        (8, 2, 20, 0, (2, 4)),
        (2, 4, 20, 0, (4, 1)),
        (2, -1, 20, 6, (6, 1)),  # a cell on a GPU does not need a core of its own
        (8, -1, 3, 6, (3, 2)),
        (8, 2, 20, 6, (2, 4)),
    ],
)
def test_cells_share_the_cores_and_fill_the_slots_on_gpus(cores, n_jobs, n_cells, n_slots, shares, machine):
    machine(cores)
    assert share_machine(n_jobs, n_cells, n_slots) == shares


def test_no_worker_has_more_threads_than_the_sweep_may_use(machine, monkeypatch):
    machine(cores=16)
    monkeypatch.setattr(launcher.torch, "get_num_threads", lambda: 3)
    assert share_machine(-1, 2, 0) == (2, 3)


@pytest.mark.parametrize(("n_cells", "policy"), [(2, "passive"), (8, None)])
def test_threads_of_workers_do_not_spin_while_they_wait(n_cells, policy, machine, tmp_path, monkeypatch):
    machine(cores=8)
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # restored after the test
    monkeypatch.delenv("OMP_WAIT_POLICY")
    prepare_launcher([], tmp_path, print, n_cells=n_cells)
    assert os.environ.get("OMP_WAIT_POLICY") == policy


@pytest.mark.parametrize(
    ("n_cells", "workers", "jobs", "largest"),
    [
        (10_000, None, 10_000, 1),
        (40, 1, 3, 16),
        (60, 2, 60, 1),
        (200, 2, 67, 3),
        (10_000, 2, 625, 16),
        (10_000, 64, 2500, 4),
    ],
)
def test_jobs_have_several_cells_if_every_worker_still_gets_many_jobs(n_cells, workers, jobs, largest):
    cells = [[f"seed={i}"] for i in range(n_cells)]
    shared = share_cells(cells, workers)
    assert (len(shared), max(map(len, shared))) == (jobs, largest)
    assert [cell for job in shared for cell in job] == cells


def test_a_cell_that_cannot_start_does_not_stop_the_others_of_its_job(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = [["seed=0"], ["seed=1", "norm=gone"], ["seed=2"]]
    words = [
        {"overrides": [*TINY_RUN, *text, "budget.steps=1", *cell], "label": {"arm": "a", "name": "a"}} for cell in cells
    ]
    errors = run_cells(SimpleNamespace(cells=encode(words), threads=None))
    assert errors[::2] == ["", ""] and errors[1].startswith("ConfigError: norm=gone: no such option")
    states = {
        p.parent.name.split("_")[-1][:6]: json.loads(p.read_text())["state"] for p in tmp_path.rglob("status.json")
    }
    assert states == {"seed-0": "finished", "seed-2": "finished"}


def test_more_jobs_than_slots_on_the_gpus_are_refused(machine):
    machine(cores=8)
    with pytest.raises(ConfigError, match="n_jobs=4: the GPUs run 2 cells at once; sweep.per_gpu changes that"):
        share_machine(4, 20, 2)


def test_cells_spread_over_the_gpus_before_two_share_one(machine, tmp_path):
    machine(n_gpus=2)
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(gpu_slot("cuda", 2, tmp_path))
            gpus.last_slot = None  # as in another process
    assert machine.current == [0, 1, 0, 1]


def test_a_process_returns_to_its_gpu(machine, tmp_path):
    machine(n_gpus=3)
    with gpu_slot("cuda", 1, tmp_path), FileLock(tmp_path / "gpu-1-0.lock"):
        gpus.last_slot = None
        with gpu_slot("cuda", 1, tmp_path):
            pass
    with gpu_slot("cuda", 1, tmp_path):
        pass
    assert machine.current == [0, 2, 2]


def test_a_cell_waits_for_a_slot_that_another_process_holds(machine, tmp_path, monkeypatch):
    machine(n_gpus=1)
    monkeypatch.setattr(gpus, "SECONDS_BETWEEN_TRIES", 0.01)
    hold = "import sys; from filelock import FileLock\nwith FileLock(sys.argv[1]): print(flush=True); input()"
    place = str(tmp_path / "gpu-0-0.lock")
    other = subprocess.Popen([sys.executable, "-c", hold, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    got = threading.Event()

    def cell():
        with gpu_slot("cuda", 1, tmp_path):
            got.set()

    waiting = threading.Thread(target=cell)
    waiting.start()
    assert not got.wait(0.2)
    other.kill()  # a lock goes with its process
    other.wait()
    waiting.join(timeout=10)
    assert got.is_set()


def test_a_device_with_an_index_is_used_and_a_cpu_needs_no_slot(machine, tmp_path):
    machine(n_gpus=4)
    assert gpus_for("cuda:2") == {"gpu-2": 2} and len(gpus_for("cuda")) == 4
    with gpu_slot("cuda:2", 1, tmp_path):
        pass
    assert machine.current == [2]
    with gpu_slot("cpu", 1, tmp_path / "unused"), gpu_slot("cuda", None, tmp_path / "unused"):
        pass
    assert machine.current == [2] and not (tmp_path / "unused").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sweep.per_gpu=0"], "sweep.per_gpu=0: must be an int of at least 1"),
        (["sweep.per_gpu=two"], "sweep.per_gpu=two: must be an int"),
        (["sweep.pergpu=2"], r"sweep.pergpu=2: no such setting \(did you mean sweep.per_gpu\?\)"),
        (["sweep.per_gpu=2", "hydra/launcher=submitit_slurm"], "sweep.per_gpu=2: SLURM assigns its GPUs"),
        (["hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs=0: must not be 0"),
    ],
)
def test_a_bad_setting_of_the_sweep_is_refused(words, line, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=line):
        sweep(["seed=0,1", *TINY_RUN, *text, *words])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("word", ["sweep.per_gpu=2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"])
def test_a_setting_of_the_sweep_is_refused_in_a_run(word):
    with pytest.raises(ConfigError, match=f"^{word}: is an option of `gptlab sweep`"):
        load_config([word])


@pytest.mark.parametrize(("device", "per_gpu", "n_slots"), [("auto", 1, 3), ("cuda", 2, 6), ("cuda:1", 2, 2)])
def test_a_sweep_has_per_gpu_slots_on_each_gpu_and_the_same_cells(
    device, per_gpu, n_slots, machine, text, tmp_path, monkeypatch
):
    machine(n_gpus=3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    launched = {}

    def prepare(words, folder, job, **given):
        launched.update(given, folder=folder)
        return lambda cells: ["no such GPU"] * len(cells)

    monkeypatch.setattr("gptlab.sweeps.run_sweep.prepare_launcher", prepare)
    words = ["seed=range(9)", *TINY_RUN, *text, f"device={device}"]
    assert sweep([*words, f"sweep.per_gpu={per_gpu}"]) == {"failed": 9}
    assert (launched["n_slots"], launched["n_cells"]) == (n_slots, 9)
    assert launched["folder"].name == plan_sweep(words).name


def test_submitit_runs_the_cells(text, tmp_path, monkeypatch):
    """Its debug executor runs them in this process, one after the other."""
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    Plugins.instance()
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import LocalLauncher

    monkeypatch.setattr(LocalLauncher, "_EXECUTOR", "debug")
    words = ["seed=0,1", "budget.steps=2", "hydra/launcher=submitit_local", *TINY_RUN, *text]
    assert sweep(words) == {"finished": 2}
    assert len(list(tmp_path.glob("runs/*/.submitit/DEBUG_*"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_a_stopped_cell_continues_from_its_checkpoint(cluster, text, tmp_path):
    pytest.importorskip("submitit")
    (tmp_path / "stopped.py").write_text(STOPPED)
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | slurm_standin.install(tmp_path / "bin")
    words = ["sweep", "use=stopped.py", "schedule=timeup,preempted", "schedule.warmup=0", "name=s", "budget.steps=12"]
    words += ["train.log_every=1", *TINY_RUN, *text, f"hydra/launcher=submitit_{cluster}"]
    if cluster == "slurm":
        of_launcher = "partition=gpu", "array_parallelism=1", "timeout_min=99"
        words += [f"hydra.launcher.{w}" for w in of_launcher] + ["+hydra.launcher.additional_parameters.mail-type=END"]
    command = [sys.executable, "-m", "gptlab", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0 and "2 cells: 2 finished" in done.stdout, done.stdout + done.stderr
    for schedule in ("timeup", "preempted"):
        (run,) = tmp_path.glob(f"runs/s/*{schedule}*/")
        assert [line["step"] for line in read_metrics(run) if "train/loss" in line] == list(range(1, 13))
        assert (run / "log.txt").read_text().count("resumed  after step 6") == 1
    if cluster == "slurm":
        (script,) = tmp_path.glob("runs/s/.submitit/*/*submission.sh")
        asked = script.read_text()
        for option in ("array=0-1%1", "partition=gpu", "time=99", "signal=USR2@120", "requeue", "mail-type=END"):
            assert f"#SBATCH --{option}" in asked


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_a_sequential_sweep_looks_when_the_jobs_of_a_round_have_ended(cluster, text, tmp_path):
    """The arm is open after three seeds and settled after four, so that the fifth and sixth are not run."""
    pytest.importorskip("submitit")
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | slurm_standin.install(tmp_path / "bin")
    words = ["sweep", "optimizer.lr=1e-5,1e-1", "--seeds", "3..6", "name=s", "budget.steps=2", "schedule.warmup=0"]
    words += [*TINY_RUN, *text, f"hydra/launcher=submitit_{cluster}"]
    words += ["hydra.launcher.array_parallelism=2"] if cluster == "slurm" else []

    def run():
        command = [sys.executable, "-m", "gptlab", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return [line for line in done.stdout.splitlines() if line.startswith(("[", "look", "8 cells"))]

    *first, look, fourth, other_fourth, last, end = run()
    assert [line[:5] for line in first] == [f"[{i}/6]" for i in range(1, 7)]
    assert (fourth[:5], other_fourth[:5]) == ("[1/2]", "[2/2]")
    assert look.startswith("look: optimizer.lr=1e-1 open")
    assert last == "look: optimizer.lr=1e-1 better at 4 seeds" and end == "8 cells: 8 finished"
    (lost,) = tmp_path.glob("runs/s/*lr-0.1*seed-3-*/")
    shutil.rmtree(lost)
    assert run()[-2:] == [last, end] and (lost / "summary.json").exists()  # a round of one job, which is no array
    if cluster == "slurm":
        scripts = [path.read_text() for path in tmp_path.glob("runs/s/.submitit/*/*submission.sh")]
        arrays = sorted(found[1] for script in scripts if (found := re.search("--array=(.*)", script)))
        assert arrays == ["0-1%2", "0-5%2"] and len(scripts) == 3


@pytest.mark.slow
def test_joblib_s_workers_divide_the_threads(text, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "2", "LOKY_MAX_CPU_COUNT": "2"}
    words = ["sweep", "seed=0,1", "budget.steps=2", *TINY_RUN, *text]
    subprocess.run([sys.executable, "-m", "gptlab", *words], cwd=tmp_path, env=environment, check=True, timeout=200)
    assert [json.loads(p.read_text())["torch_threads"] for p in tmp_path.glob("runs/*/*/env.json")] == [1, 1]
