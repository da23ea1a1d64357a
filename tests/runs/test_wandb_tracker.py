"""Runs in W&B: online at a stand-in for its server, offline read back from disk, and every error."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import forked
from gptlab.config import ConfigError
from gptlab.runs.record import read_metrics, read_snapshots, read_status
from gptlab.runs.wandb_tracker import WandbSettings, new_id, resolve_mode, resolve_project
from paths import TESTS
from wandb_standin import standin

RUN = """
import sys
from pathlib import Path
from gptlab.runs import wandb_tracker
from gptlab.runs.record import Recorder
from gptlab.runs.trackers import RunInfo
from gptlab.runs.wandb_tracker import WandbSettings, resolve_mode, resolve_project

wandb_tracker.FINISH_TIMEOUT = wandb_tracker.INIT_TIMEOUT = 1
root = Path(sys.argv[1])
info = RunInfo("norm=rmsnorm seed=1", "my-sweep", "train", ["norm=rmsnorm", "ffn=" + "x" * 80])

def recorder(resume_step=None):
    settings = WandbSettings(resolve_mode(None), root, "lab")
    config = {"norm": {"name": "rmsnorm", "eps": 1e-5}, "seed": 1, "use": None}
    return Recorder(root / "lab" / "arm one", config=config, settings=settings, info=info, resume_step=resume_step)

def log(record, steps):
    for step in steps:
        record.log({"step": step, "tokens": 768 * step, "train/loss": 5.0 - step, "val/loss": abs(3.0 - step)})
"""


def environment(root: Path) -> dict[str, str]:
    """An environment without a home, so that no key of the user's is found."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return clean | {"HOME": str(root), "NETRC": str(root / "none"), "TERM": "xterm"}


def run(root: Path, script: str, env: dict[str, str]) -> subprocess.CompletedProcess:
    """The script after RUN, in a process of its own."""
    return forked.run(RUN + script, root, env=environment(root) | env, cwd=root)


def run_alone(root: Path, script: str, env: dict[str, str], **streams: Any) -> subprocess.CompletedProcess:
    """The same in a new interpreter, which has imported nothing, and which may have a terminal."""
    command = [sys.executable, "-c", RUN + script, str(root)]
    return subprocess.run(command, env=environment(root) | env, cwd=root, timeout=60, text=True, **streams)


SNAPSHOT = {
    "step": 1,
    "tokens": 768,
    "logits/max": 1.5,
    "stream_rms": [0.5, 1.5],
    "attention_entropy": [[1.0, 2.0], []],
    "attention_logit_max": [[4.0, 5.0], []],
    "histogram/stream": [{"low": -1.0, "high": 1.0, "counts": [3, 5]}],
    "parameters": {"w": [1.0, 2.0, 3.0]},
}
SEEN = {
    "tokens": 768,
    "logits/max": 1.5,
    "stream_rms/00": 0.5,
    "stream_rms/01": 1.5,
    "attention_entropy/00": 1.5,
    "attention_logit_max/00": 5.0,
}


def offline_records(path: Path) -> Iterator:
    """The records of a .wandb file: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # a record's header never straddles two blocks
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(parts)
            parts = b""


def values(items) -> dict[str, Any]:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


@pytest.fixture
def no_key(tmp_path, monkeypatch):
    for key in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


def test_a_snapshot_arrives_as_curves_by_layer_and_again_after_a_kill(tmp_path):
    """Once from the run that was killed before its checkpoint of step 5, once from the file on disk."""
    with standin() as server:
        script = f"""
try:
    with recorder() as record:
        record.log_diagnostics({SNAPSHOT!r})
        record.log_diagnostics({SNAPSHOT | {"step": 9}!r})
        raise SystemExit(143)
except SystemExit:
    pass
with recorder(resume_step=5) as record:
    record.finish("finished", {{"val/loss": 2.0}})
"""
        done = run(tmp_path, script, server.env)
        assert done.returncode == 0 and done.stderr == ""
        [sent] = server.runs.values()
    for line in sent.history:
        assert {k: v for k, v in line.items() if k in SEEN} == SEEN
        assert not any("parameters" in k or k == "attention_entropy/01" for k in line)
        histogram = {k.removeprefix("histogram/stream/00").strip("."): v for k, v in line.items() if "histogram" in k}
        histogram = histogram.get("", histogram)
        assert (histogram["_type"], histogram["values"], histogram["bins"]) == ("histogram", [3, 5], [-1, 0, 1])
    assert [line["step"] for line in sent.history][:2] == [1, 9]
    assert [snapshot["step"] for snapshot in read_snapshots(tmp_path / "lab" / "arm one")] == [1]


def test_online_run_arrives_whole_and_goes_on_under_its_id(tmp_path):
    with standin() as server:
        done = run(
            tmp_path,
            """
try:
    with recorder() as record:
        log(record, range(1, 4))
        raise SystemExit(143)
except SystemExit:
    pass
with recorder(resume_step=2) as record:
    log(record, range(3, 6))
    record.finish("finished", {"val/loss": 2.0, "cost/flops": 1e9, "val/block_nats": [0.5] * 32})
print(record.tracker_hint())
""",
            server.env,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        [(run_id, sent)] = server.runs.items()
    assert run_id == read_status(tmp_path / "lab" / "arm one")["wandb_id"]
    assert run_id.startswith("arm-one-")
    assert done.stdout.strip() == f"W&B: {server.env['WANDB_BASE_URL']}/me/lab/runs/{run_id}"
    assert sent.fields["groupName"] == "my-sweep"
    assert sent.fields["jobType"] == "train"
    assert sent.fields["displayName"] == "norm=rmsnorm seed=1"
    assert sent.fields["tags"] == ["norm=rmsnorm", "ffn=" + "x" * 60]
    assert sent.config == {"norm": {"name": "rmsnorm", "eps": 1e-5}, "seed": 1, "use": None}
    assert [line["step"] for line in sent.history] == [1, 2, 3, 3, 4, 5]
    assert [line["tokens"] for line in sent.history][:3] == [768, 1536, 2304]
    assert sent.history[0]["train/loss"] == 4.0
    assert sent.summary["val/loss"] == {"min": 0.0, "last": 2.0}
    assert sent.summary["cost/flops"] == 1e9
    assert not any("block" in key for key in sent.summary)
    assert sent.summary["state"] == "finished"
    assert sent.exit_code == 0


def test_without_a_key_a_run_is_offline_asks_nothing_at_a_terminal_and_reads_back_whole(tmp_path):
    script = """
try:
    with recorder() as record:
        log(record, range(1, 4))
        raise SystemExit(143)
except SystemExit:
    pass
with recorder(resume_step=2) as record:
    log(record, range(3, 6))
    record.finish("diverged", {"cost/flops": 1e9})
print(record.tracker_hint())
"""
    terminal, side = pty.openpty()
    done = run_alone(tmp_path, script, {}, stdin=side, stdout=side, stderr=side)
    shown = os.read(terminal, 10_000).decode()
    os.close(side)
    os.close(terminal)
    assert done.returncode == 0, shown
    [folder] = (tmp_path / "wandb").glob("offline-run-*")  # the interrupted one is part of it
    assert shown.strip() == f"W&B: `wandb sync wandb/{folder.name}`"

    records = list(offline_records(next(folder.glob("*.wandb"))))
    started = next(record.run for record in records if record.HasField("run"))
    assert (started.project, started.run_group, started.job_type) == ("lab", "my-sweep", "train")
    assert values(started.config.update)["norm"] == {"name": "rmsnorm", "eps": 1e-5}
    history = [values(record.history.item) for record in records if record.HasField("history")]
    assert [line["step"] for line in history] == [1, 2, 3, 4, 5]
    assert history[4]["tokens"] == 3840
    metrics = [record.metric for record in records if record.HasField("metric")]
    axes = {metric.name or metric.glob_name: metric for metric in metrics}
    assert axes["*"].step_metric == axes["val/bpb"].step_metric == "tokens"
    assert axes["val/loss"].summary.min
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0]


SLOW_KILLS = [("INT", False), ("TERM", False), ("KILL", True), ("INT", True)]
KILLED = """
record = recorder({resume})
record.__enter__()
log(record, range({steps}))
import os, signal, time
time.sleep(1.5)  # wandb has written it by then
os.kill(os.getpid(), signal.SIG{signal})
"""


@pytest.mark.parametrize(
    ("signal", "online"),
    [("KILL", False), *(pytest.param(*given, marks=pytest.mark.slow) for given in SLOW_KILLS)],
)
def test_a_run_that_is_killed_twice_before_its_first_checkpoint_leaves_no_second_run(tmp_path, signal, online):
    """From scratch, killed; from scratch, killed after a checkpoint; resumed to its end."""
    with standin() as server:
        env = server.env if online else {}
        for resume, steps in (("", "1, 4"), ("", "1, 5"), ("resume_step=2", "3, 6")):
            assert run(tmp_path, KILLED.format(resume=resume, steps=steps, signal=signal), env).returncode != 0
        done = run(
            tmp_path,
            """
with recorder(resume_step=2) as record:
    log(record, range(3, 6))
    record.finish("finished", {"val/loss": 2.0})
""",
            env,
        )
        assert done.returncode == 0, done.stderr
        folders = list((tmp_path / "wandb").glob("*run-*"))
        if online:
            [(run_id, sent)] = server.runs.items()
            assert run_id == read_status(tmp_path / "lab" / "arm one")["wandb_id"]
            assert sent.summary["state"] == "finished"
            return
    [folder] = folders
    records = list(offline_records(next(folder.glob("*.wandb"))))
    history = [values(record.history.item) for record in records if record.HasField("history")]
    assert [line["step"] for line in history] == [1, 2, 3, 4, 5]


EXTRAS = """
from dataclasses import replace
folder = root / "lab" / "arm one"
(folder / "components").mkdir(parents=True)
(folder / "components" / "my_norm.py").write_text("# mine")
(folder / "checkpoint").mkdir()
(folder / "checkpoint" / "best.safetensors").write_bytes(b"weights")

def full(job_type="sweep", **send):
    settings = WandbSettings(resolve_mode(None), root, "lab", **send)
    listed = replace(info, folder=folder, job_type=job_type, notes="Better?")
    return Recorder(folder, config={"arm": "norm=rmsnorm", "seed": 1}, settings=settings, info=listed)
"""


def test_sample_code_weights_notes_and_alert_reach_the_server(tmp_path):
    script = """
with full(checkpoint=True) as record:
    log(record, [1, 2])
    record.log_sample(2, "to be \\u00e9\\n")
    record.finish("diverged", {"diverged_step": 3})
print(record.tracker_hint())
"""
    with standin() as server:
        done = run(tmp_path, EXTRAS + script, server.env)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        [(name, sent)] = server.runs.items()
        assert done.stdout.strip() == f"W&B: {server.env['WANDB_BASE_URL']}/me/lab/runs/{name}"
        found = server.artifacts
    assert {artifact.type for artifact in found.values()} == {"run_table", "code", "model"}
    assert all(artifact.committed and artifact.run == name for artifact in found.values())
    assert found[f"components-{name}"].files["my_norm.py"] == b"# mine"
    weights = found[f"weights-{name}"]
    assert (weights.files["best.safetensors"], sorted(weights.aliases)) == (b"weights", ["best", "latest"])
    [path] = [path for path in sent.files if "media/table/samples" in path]
    table = json.loads(sent.files[path])
    assert table["columns"] == ["arm", "seed", "step", "text"]
    assert table["data"] == [["norm=rmsnorm", 1, 2, "to be \u00e9\n"]]
    assert sent.summary["samples"]["path"] == path
    assert sent.fields["notes"] == "Better?"
    assert sent.alerts == [("norm=rmsnorm seed=1 diverged", "my-sweep: the loss was not finite at step 3")]
    assert (sent.summary["state"], sent.exit_code) == ("diverged", 0)


def test_weights_are_sent_and_code_is_not_only_if_asked_for_and_a_search_gives_no_alarm(tmp_path):
    script = """
for job_type, state in (("tune", "diverged"), ("sweep", "finished")):
    with full(job_type, code=False) as record:
        record.finish(state, {"diverged_step": 3})
    (folder / "status.json").unlink()
"""
    with standin() as server:
        done = run(tmp_path, EXTRAS + script, server.env)
        assert done.returncode == 0, done.stderr
        assert [sent.alerts for sent in server.runs.values()] == [[], []]
        assert server.artifacts == {}


def test_offline_the_sample_is_part_of_what_is_synced(tmp_path):
    script = """
with full() as record:
    record.log_sample(2, "to be")
    record.finish("finished", {})
"""
    done = run(tmp_path, EXTRAS + script, {})
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "wandb").glob("offline-run-*")
    [table] = folder.rglob("samples*.table.json")
    assert json.loads(table.read_text())["data"] == [["norm=rmsnorm", 1, 2, "to be"]]


def test_a_server_that_dies_before_the_sample_costs_the_sample_alone(tmp_path):
    script = """
import os, time
sys.path.append(os.environ["TESTS"])
from wandb_standin import standin
with standin() as server:
    os.environ.update(server.env)
    with full(code=False) as record:
        log(record, [1])
        server.die()
        start = time.monotonic()
        record.log_sample(1, "to be")
        record.finish("finished", {})
        assert time.monotonic() - start < 20
print(record._tracker.lacking)
"""
    done = run(tmp_path, EXTRAS + script, {"TESTS": str(TESTS), "WANDB_HTTP_TIMEOUT": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("; without the sample (")
    assert (tmp_path / "lab" / "arm one" / "sample.txt").read_text() == "to be"
    assert read_status(tmp_path / "lab" / "arm one")["state"] == "finished"


def test_disabled_does_not_import_wandb_and_keeps_the_plain_files(tmp_path):
    script = """
with recorder() as record:
    log(record, [1, 2])
    record.finish("finished", {})
assert record.tracker_hint() is None
assert "wandb" not in sys.modules
"""
    done = run_alone(tmp_path, script, {"WANDB_MODE": "disabled"}, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in read_metrics(tmp_path / "lab" / "arm one")] == [1, 2]
    assert not (tmp_path / "wandb").exists()


def test_a_server_that_dies_neither_stops_nor_hangs_the_run(tmp_path):
    script = """
import os, time
sys.path.append(os.environ["TESTS"])
from wandb_standin import standin
with standin() as server:
    os.environ.update(server.env)
    with recorder() as record:
        log(record, [1])
        server.die()
        log(record, [2])
        start = time.monotonic()
        record.finish("finished", {})
        assert time.monotonic() - start < 5
print(record.tracker_hint())
"""
    done = run(tmp_path, script, {"TESTS": str(TESTS)})
    assert done.returncode == 0, done.stderr
    folder = next((tmp_path / "wandb").glob("run-*")).relative_to(tmp_path)
    message = f"not all was uploaded in 1 s; `wandb sync --include-online {folder}` sends it"
    assert done.stdout.strip() == f"W&B: {message}"
    status = read_status(tmp_path / "lab" / "arm one")
    assert (status["state"], status["wandb"]) == ("finished", message)
    assert [line["step"] for line in read_metrics(tmp_path / "lab" / "arm one")] == [1, 2]


def test_a_run_that_a_notebook_has_open_is_left_alone(tmp_path):
    script = """
import wandb
own = wandb.init(mode="offline", dir=root / "own")
with recorder() as record:
    record.finish("finished", {})
assert wandb.run is own
own.log({"still": "open"})
"""
    (tmp_path / "own").mkdir()
    done = run(tmp_path, script, {})
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1


def test_losing_wandbs_own_process_costs_neither_this_run_nor_the_next(tmp_path):
    script = """
import os, signal, subprocess
with recorder() as record:
    log(record, [1])
    service = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "pid=,comm="], capture_output=True, text=True)
    [pid] = [line.split()[0] for line in service.stdout.splitlines() if "wandb-core" in line]
    os.kill(int(pid), signal.SIGKILL)
    log(record, range(2, 2000))
    record.finish("finished", {})
print(record.tracker_hint())
with recorder() as record:
    log(record, [1])
    record.finish("finished", {})
print(record.tracker_hint())
"""
    done = run(tmp_path, script, {})
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("W&B: stopped (ConnectionResetError: ")
    assert second.startswith("W&B: `wandb sync wandb/offline-run-")


def test_an_unreachable_server_is_one_line_and_a_failed_run(tmp_path):
    env = {"WANDB_BASE_URL": "http://127.0.0.1:1", "WANDB_API_KEY": "local" + "0" * 40}
    done = run(tmp_path, "recorder().__enter__()", env)
    line = done.stderr.splitlines()[-1]
    assert line.startswith("gptlab.config.schema.ConfigError: wandb.mode=online: W&B rejected the run (")
    assert line.endswith("); use wandb.mode=offline, then `wandb sync`")
    status = read_status(tmp_path / "lab" / "arm one")
    assert status["state"] == "failed"
    assert status["reason"].startswith("ConfigError: wandb.mode=online: ")


@pytest.mark.parametrize(
    ("mode", "env", "message"),
    [
        ("online", {}, "wandb.mode=online: no API key is configured; run `wandb login` or use wandb.mode=offline"),
        (None, {"WANDB_MODE": "online"}, "WANDB_MODE=online: no API key is configured"),
        (None, {"WANDB_MODE": "dryrun"}, "WANDB_MODE=dryrun: must be one of online, offline, disabled"),
        ("online", {"WANDB_API_KEY": "short"}, "wandb.mode=online: WANDB_API_KEY invalid: "),
    ],
)
def test_refused_modes(no_key, monkeypatch, mode, env, message):
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError) as refused:
        resolve_mode(mode)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_a_given_mode_wins_over_the_environment_and_a_key_means_online(no_key, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode(None) == "disabled"
    assert resolve_mode("offline") == "offline"
    monkeypatch.delenv("WANDB_MODE")
    assert resolve_mode(None) == "offline"
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {'0' * 40}")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert resolve_mode(None) == "online"


@pytest.mark.parametrize("project", ["a/b", "", "x" * 129])
def test_a_project_name_that_the_server_rejects_is_rejected_before(project):
    with pytest.raises(ConfigError, match="^wandb.project="):
        WandbSettings("online", Path("runs"), project)


def test_ids_are_readable_short_and_never_shared():
    one, other = new_id("norm=rmsnorm,pos:é-3f2a"), new_id("norm=rmsnorm,pos:é-3f2a")
    assert re.fullmatch(r"norm-rmsnorm-pos--3f2a-[0-9a-f]{8}", one)
    assert one != other
    assert len(new_id("x" * 200)) == 64


@pytest.mark.parametrize(
    ("variable", "rule"),
    [
        ("WANDB_SILENT=maybe", "W&B rejects it"),
        ("WANDB_BASE_URL=foo", "W&B rejects it"),
        ("WANDB_RUN_ID=a/b", "W&B rejects it"),
        ("WANDB_DIR=/dev/null", "is a file, not a folder"),
    ],
)
def test_a_variable_that_wandb_would_reject_is_one_line_before_the_run(variable, rule, monkeypatch):
    monkeypatch.setenv(*variable.split("="))
    with pytest.raises(ValueError, match=f"^{variable}: .*{rule}"):
        WandbSettings("offline", Path("runs"))
    WandbSettings("disabled", Path("runs"))


def test_empty_variables_are_as_none(monkeypatch):
    for name in ("WANDB_MODE", "WANDB_TAGS", "WANDB_DIR", "WANDB_PROJECT", "WANDB_DISABLED"):
        monkeypatch.setenv(name, "")
    WandbSettings("offline", Path("runs"))
    assert (resolve_mode("offline"), resolve_project(None)) == ("offline", "gptlab")


def test_the_environment_chooses_project_and_mode_unless_the_config_does(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_PROJECT", "lab")
    monkeypatch.setenv("WANDB_DISABLED", "True")
    assert (resolve_project(None), resolve_project("mine")) == ("lab", "mine")
    assert (resolve_mode(None), resolve_mode("offline")) == ("disabled", "offline")
    monkeypatch.setenv("WANDB_DISABLED", "maybe")
    with pytest.raises(ConfigError, match="^WANDB_DISABLED=maybe: must be true or false"):
        resolve_mode(None)
