"""`wandb sweep conf/wandb_sweep.yaml` and `wandb agent` with a stand-in server: gptlab joins the agent's runs."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gptlab import load_config
from gptlab.config import CONF
from gptlab.runs.record import read_metrics, read_status, read_summary
from gptlab.runs.wandb_tracker import agents_run_id
from processes import MARK, wait_until_none_is_left
from wandb_standin import standin

FILE = CONF / "wandb_sweep.yaml"
SWEEP = yaml.safe_load(FILE.read_text())
SMALL = "size.dim=16"
BRIEF = "data=text data.path=text.txt budget.steps=4 train.log_every=2"
# The command line's agent, made to ask for work more often than every five seconds.
AGENT = """
from wandb import wandb_agent
from wandb.cli.cli import cli
wandb_agent.Agent.POLL_INTERVAL = 0.2
cli(["agent", "me/gptlab/s1"])
"""


def run(folder: Path, env: dict[str, str], *words: str) -> subprocess.CompletedProcess:
    """Run a command in `folder` with this environment's programs and without the user's API key."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    home = {"HOME": str(folder), "NETRC": str(folder / "none"), "PATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, env=clean | home | env, cwd=folder, capture_output=True, text=True, timeout=600)


def test_wandb_sweep_creates_the_sweep_of_the_file(tmp_path):
    with standin() as server:
        done = run(tmp_path, server.env, "wandb", "sweep", str(FILE))
        assert done.returncode == 0, done.stderr
        assert "wandb agent me/gptlab/s1" in done.stderr
        sent = server.sweeps["s1"]
    assert sent["projectName"] == "gptlab"
    assert yaml.safe_load(sent["config"]) == SWEEP
    assert SWEEP["command"][:3] == ["gptlab", "train", "name=lr-by-norm"]
    assert SWEEP["command"][-1] == "${args_no_hyphens}"


def test_every_point_of_the_sweep_is_a_config():
    values = {key: parameter["values"] for key, parameter in SWEEP["parameters"].items()}
    points = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    assert len(points) == 16
    for point in points:
        cfg = load_config([*SWEEP["command"][2:-1], *(f"{key}={value}" for key, value in point.items())])
        assert (cfg.optimizer.lr, cfg.norm.name, cfg.seed) == tuple(point[k] for k in ("optimizer.lr", "norm", "seed"))
        assert cfg.budget.steps / cfg.eval.every > 2 * SWEEP["early_terminate"]["min_iter"]  # it can stop runs


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """An agent that was given the same point twice: its folder, its output and what it sent."""
    folder = tmp_path_factory.mktemp("agent")
    (folder / "text.txt").write_text("".join(f"{n} green bottles, hanging on the wall.\n" for n in range(40)))
    brief = SWEEP | {"command": [*SWEEP["command"][:-1], *SMALL.split(), *BRIEF.split(), SWEEP["command"][-1]]}
    point = {"optimizer.lr": {"value": 0.003}, "norm": {"value": "rmsnorm"}, "seed": {"value": 1}}
    orders = [[{"type": "run", "run_id": name, "args": point, "program": None}] for name in ("first", "again")]
    with standin(orders=[*orders, [{"type": "exit"}]]) as server:
        server.sweeps["s1"] = {"config": yaml.safe_dump(brief)}
        done = run(folder, server.env, sys.executable, "-c", AGENT)
        return folder, done, server.runs


def test_an_agent_trains_a_run_of_its_sweep(swept):
    folder, done, runs = swept
    assert done.returncode == 0, done.stderr
    sent, [trained] = runs["first"], folder.glob("runs/lr-by-norm/*/")
    assert (sent.fields["sweep"], sent.fields["project"], sent.fields["groupName"]) == ("s1", "gptlab", "lr-by-norm")
    assert (sent.config["optimizer"]["lr"], sent.config["norm"], sent.config["seed"]) == (0.003, "rmsnorm", 1)
    assert sent.config["arm"] == "optimizer.lr=0.003 norm=rmsnorm"  # what the sweep varies, without the seed
    assert sent.fields["displayName"] == "lr=0.003 norm=rmsnorm s1"
    assert sent.fields["tags"] == ["optimizer.lr=0.003", "norm=rmsnorm"]
    assert "samples" in sent.history[-1]
    lines = [line for line in sent.history[:-1] if "weight_norm/00" not in line]  # the others are looks inside
    assert [line["step"] for line in lines] == [line["step"] for line in read_metrics(trained)] == [1, 2, 4, 4]
    assert sent.summary["final/val/loss"] == read_summary(trained)["val/loss"]
    assert isinstance(sent.summary["val/loss"], float)  # what the sweep minimises, and each evaluation logs
    assert SWEEP["metric"] == {"name": "val/loss", "goal": "minimize"}
    assert (sent.summary["state"], sent.exit_code) == ("finished", 0)
    assert read_status(trained)["wandb_id"] == "first"


def test_a_run_that_has_ended_reports_its_result_to_the_agent(swept):
    _, done, runs = swept
    first, again = runs["first"], runs["again"]
    assert "has ended already" in done.stdout and "/me/gptlab/runs/again" in done.stdout
    measured = [[{k: v for k, v in line.items() if k[0] != "_"} for line in run.history] for run in (first, again)]
    texts = [line.pop("samples") for lines in measured for line in lines if "samples" in line]
    assert len(texts) == 2 and texts[0]["sha256"] == texts[1]["sha256"]
    assert measured[0] == measured[1]
    assert first.config == again.config
    assert (again.fields["sweep"], again.fields["displayName"]) == ("s1", first.fields["displayName"])
    assert again.summary["final/val/loss"] == first.summary["final/val/loss"]
    assert again.summary["val/loss"] == first.summary["val/loss"]
    assert again.exit_code == 0


def test_a_run_that_the_server_stops_saves_and_ends_and_leaves_no_process(tmp_path):
    (tmp_path / "text.txt").write_text("".join(f"{n} green bottles, hanging on the wall.\n" for n in range(40)))
    endless = [*SWEEP["command"][:-1], *SMALL.split(), *BRIEF.split(), "budget.steps=1000000", "eval.every=2"]
    point = {"optimizer.lr": {"value": 0.003}, "norm": {"value": "rmsnorm"}, "seed": {"value": 1}}
    orders = [[{"type": "run", "run_id": "behind", "args": point, "program": None}], [{"type": "exit"}]]
    with standin(orders=orders, stops={"behind": 3}) as server:
        server.sweeps["s1"] = {"config": yaml.safe_dump(SWEEP | {"command": [*endless, SWEEP["command"][-1]]})}
        done = run(tmp_path, server.env | {MARK: str(tmp_path)}, sys.executable, "-c", AGENT)
        assert done.returncode == 0, done.stderr
        sent = server.runs["behind"]
    wait_until_none_is_left(str(tmp_path), 20)
    [stopped] = tmp_path.glob("runs/lr-by-norm/*/")
    status = read_status(stopped)
    assert (status["state"], status["reason"]) == ("interrupted", "SIGTERM")
    assert (stopped / "checkpoint" / "last.safetensors").exists() and not (stopped / "sample.txt").exists()
    assert sum("val/loss" in line for line in sent.history) >= 3
    assert (sent.summary["state"], sent.exit_code) == ("interrupted", 255)


def test_an_id_counts_only_within_a_sweep(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    assert agents_run_id() is None
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    assert agents_run_id() == "mine"
