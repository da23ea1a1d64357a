"""What a sweep's workers get of a machine, and that a cell that a cluster stops goes on where it was."""

import json
import os
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
from gptlab.sweeps.gpu_slots import gpus_for, place_on_gpu
from gptlab.sweeps.grid import plan_sweep
from gptlab.sweeps.launcher import prepare_launcher, share_cells, share_machine
from gptlab.sweeps.run_sweep import run_cells, sweep

TINY = ["size=tiny", "data.window=16", "train.batch_size=2", "eval.tokens=64", "wandb.mode=disabled", "device=cpu"]

# Learning rates that stop their run in its seventh step of twelve, the first time: one as submitit's signal does, the
# other as SLURM when it gives the machine to another, which says so and kills the job a few steps later.
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
    """The time is up halfway."""

    def factor(self, t, lr):
        if t == 6 / 12:
            once(signal.SIGUSR2)
        return 1.0


@register("schedule", "preempted")
class Preempted:
    """Told halfway and killed at three quarters."""

    def factor(self, t, lr):
        if t in (6 / 12, 9 / 12):
            once(signal.SIGTERM if t == 6 / 12 else signal.SIGKILL)
        return 1.0
'''


@pytest.fixture
def machine(monkeypatch):
    """One with so many cores and so many GPUs; the latter are never touched."""

    def has(cores=1, n_gpus=0):
        monkeypatch.setattr(launcher, "cpu_count", lambda: cores)
        monkeypatch.setattr(launcher, "effective_n_jobs", lambda n: cores if n < 0 else n)
        monkeypatch.setattr(launcher.torch, "get_num_threads", lambda: cores)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=f"gpu-{i}"))
        for name in ("reset_peak_memory_stats", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, lambda: None)
        monkeypatch.setattr(torch.cuda, "set_device", current.append)

    current: list[int] = []
    has.current = current
    monkeypatch.setattr(gpus, "_last", None)
    return has


@pytest.mark.parametrize(
    ("cores", "n_jobs", "n_cells", "places", "shares"),
    [
        (8, -1, 20, 0, (8, 1)),
        (8, -1, 3, 0, (3, 2)),
        (8, -1, 1, 0, (1, None)),  # in the sweep's own process, with all that it has
        (8, 2, 20, 0, (2, 4)),
        (2, 4, 20, 0, (4, 1)),
        (2, -1, 20, 6, (6, 1)),  # cells on GPUs do not need a core each
        (8, -1, 3, 6, (3, 2)),
        (8, 2, 20, 6, (2, 4)),
    ],
)
def test_cells_share_the_cores_and_are_as_many_as_there_are_places(cores, n_jobs, n_cells, places, shares, machine):
    machine(cores)
    assert share_machine(n_jobs, n_cells, places) == shares


def test_no_worker_has_more_threads_than_the_sweep_may_have(machine, monkeypatch):
    machine(cores=16)
    monkeypatch.setattr(launcher.torch, "get_num_threads", lambda: 3)
    assert share_machine(-1, 2, 0) == (2, 3)


@pytest.mark.parametrize(("n_cells", "policy"), [(2, "passive"), (8, None)])
def test_threads_of_workers_do_not_wait_spinning(n_cells, policy, machine, tmp_path, monkeypatch):
    machine(cores=8)
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # as it was, after the test
    monkeypatch.delenv("OMP_WAIT_POLICY")
    prepare_launcher([], tmp_path, print, n_cells=n_cells)
    assert os.environ.get("OMP_WAIT_POLICY") == policy


@pytest.mark.parametrize(
    ("n_cells", "workers", "jobs", "largest"),
    [(10_000, None, 10_000, 1), (60, 2, 60, 1), (200, 2, 67, 3), (10_000, 2, 625, 16), (10_000, 64, 2500, 4)],
)
def test_many_cells_go_several_to_a_job_but_to_each_worker_many_jobs(n_cells, workers, jobs, largest):
    cells = [[f"seed={i}"] for i in range(n_cells)]
    shared = share_cells(cells, workers)
    assert (len(shared), max(map(len, shared))) == (jobs, largest)
    assert [cell for job in shared for cell in job] == cells


def test_a_cell_that_cannot_begin_does_not_keep_the_others_of_its_job(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = [["seed=0"], ["seed=1", "norm=gone"], ["seed=2"]]
    words = [[*TINY, *text, "budget.steps=1", *cell] for cell in cells]
    errors = run_cells(SimpleNamespace(cells=json.dumps(words), threads=None))
    assert errors[::2] == ["", ""] and errors[1].startswith("ConfigError: norm=gone: no such option")
    states = {
        p.parent.name.split("_")[-1][:6]: json.loads(p.read_text())["state"] for p in tmp_path.rglob("status.json")
    }
    assert states == {"seed-0": "finished", "seed-2": "finished"}


def test_more_jobs_than_places_on_the_gpus_are_refused(machine):
    machine(cores=8)
    with pytest.raises(ConfigError, match="n_jobs=4: the GPUs take 2 at once; sweep.per_gpu changes that"):
        share_machine(4, 20, 2)


def test_cells_spread_over_the_gpus_before_two_share_one(machine, tmp_path):
    machine(n_gpus=2)
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(place_on_gpu("cuda", 2, tmp_path))
            gpus._last = None  # as in another process
    assert machine.current == [0, 1, 0, 1]


def test_a_process_comes_back_to_its_gpu(machine, tmp_path):
    machine(n_gpus=3)
    with place_on_gpu("cuda", 1, tmp_path), FileLock(tmp_path / "gpu-1-0.lock"):
        gpus._last = None
        with place_on_gpu("cuda", 1, tmp_path):
            pass
    with place_on_gpu("cuda", 1, tmp_path):
        pass
    assert machine.current == [0, 2, 2]


def test_a_cell_waits_for_a_place_that_another_process_has(machine, tmp_path, monkeypatch):
    machine(n_gpus=1)
    monkeypatch.setattr(gpus, "SECONDS_BETWEEN_LOOKS", 0.01)
    hold = "import sys; from filelock import FileLock\nwith FileLock(sys.argv[1]): print(flush=True); input()"
    place = str(tmp_path / "gpu-0-0.lock")
    other = subprocess.Popen([sys.executable, "-c", hold, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    got = threading.Event()

    def cell():
        with place_on_gpu("cuda", 1, tmp_path):
            got.set()

    waiting = threading.Thread(target=cell)
    waiting.start()
    assert not got.wait(0.2)
    other.kill()  # a lock goes with its process
    other.wait()
    waiting.join(timeout=10)
    assert got.is_set()


def test_a_device_that_is_named_is_the_one_that_is_taken_and_a_cpu_needs_no_place(machine, tmp_path):
    machine(n_gpus=4)
    assert gpus_for("cuda:2") == {"gpu-2": 2} and len(gpus_for("cuda")) == 4
    with place_on_gpu("cuda:2", 1, tmp_path):
        pass
    assert machine.current == [2]
    with place_on_gpu("cpu", 1, tmp_path / "unused"), place_on_gpu("cuda", None, tmp_path / "unused"):
        pass
    assert machine.current == [2] and not (tmp_path / "unused").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sweep.per_gpu=0"], "sweep.per_gpu=0: must be an int of at least 1"),
        (["sweep.per_gpu=two"], "sweep.per_gpu=two: must be an int"),
        (["sweep.pergpu=2"], r"sweep.pergpu=2: no such setting \(did you mean sweep.per_gpu\?\)"),
        (["sweep.per_gpu=2", "hydra/launcher=submitit_slurm"], "sweep.per_gpu=2: SLURM deals out its GPUs"),
        (["hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs=0: must not be 0"),
    ],
)
def test_a_bad_word_of_the_sweep_is_refused(words, line, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=line):
        sweep(["seed=0,1", *TINY, *text, *words])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("word", ["sweep.per_gpu=2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"])
def test_a_word_of_the_sweep_is_none_of_a_run(word):
    with pytest.raises(ConfigError, match=f"^{word}: is an option of `gptlab sweep`"):
        load_config([word])


@pytest.mark.parametrize(("device", "per_gpu", "places"), [("auto", 1, 3), ("cuda", 2, 6), ("cuda:1", 2, 2)])
def test_a_sweep_has_so_many_places_on_each_gpu_and_its_cells_are_the_same(
    device, per_gpu, places, machine, text, tmp_path, monkeypatch
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
    words = ["seed=range(9)", *TINY, *text, f"device={device}"]
    assert sweep([*words, f"sweep.per_gpu={per_gpu}"]) == {"failed": 9}
    assert (launched["places"], launched["n_cells"]) == (places, 9)
    assert launched["folder"].name == plan_sweep(words).name


def test_submitit_takes_the_cells(text, tmp_path, monkeypatch):
    """Its debug executor runs them here, one after the other."""
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    Plugins.instance()
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import LocalLauncher

    monkeypatch.setattr(LocalLauncher, "_EXECUTOR", "debug")
    words = ["seed=0,1", "budget.steps=2", "hydra/launcher=submitit_local", *TINY, *text]
    assert sweep(words) == {"finished": 2}
    assert len(list(tmp_path.glob("runs/*/.submitit/DEBUG_*"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_a_cell_that_is_stopped_goes_on_from_where_it_was(cluster, text, tmp_path):
    pytest.importorskip("submitit")
    (tmp_path / "stopped.py").write_text(STOPPED)
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | slurm_standin.install(tmp_path / "bin")
    words = ["sweep", "use=stopped.py", "schedule=timeup,preempted", "schedule.warmup=0", "name=s", "budget.steps=12"]
    words += ["train.log_every=1", *TINY, *text, f"hydra/launcher=submitit_{cluster}"]
    if cluster == "slurm":
        of_launcher = "partition=gpu", "array_parallelism=1", "timeout_min=99"
        words += [f"hydra.launcher.{w}" for w in of_launcher] + ["+hydra.launcher.additional_parameters.mail-type=END"]
    command = [sys.executable, "-m", "gptlab", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0 and "2 cells: 2 finished" in done.stdout, done.stdout + done.stderr
    for schedule in ("timeup", "preempted"):
        (run,) = tmp_path.glob(f"runs/s/*{schedule}*/")
        assert [line["step"] for line in read_metrics(run) if "train/loss" in line] == list(range(1, 13))
        assert (run / "log.txt").read_text().count("resumed  after step 7") == 1
    if cluster == "slurm":
        (script,) = tmp_path.glob("runs/s/.submitit/*/*submission.sh")
        asked = script.read_text()
        for option in ("array=0-1%1", "partition=gpu", "time=99", "signal=USR2@120", "requeue", "mail-type=END"):
            assert f"#SBATCH --{option}" in asked


@pytest.mark.slow
def test_joblibs_workers_have_their_share_of_the_threads(text, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "2", "LOKY_MAX_CPU_COUNT": "2"}
    words = ["sweep", "seed=0,1", "budget.steps=2", *TINY, *text]
    subprocess.run([sys.executable, "-m", "gptlab", *words], cwd=tmp_path, env=environment, check=True, timeout=200)
    assert [json.loads(p.read_text())["torch_threads"] for p in tmp_path.glob("runs/*/*/env.json")] == [1, 1]
