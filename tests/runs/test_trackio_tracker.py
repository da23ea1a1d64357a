"""Runs in Trackio: read back from its store, resumed, with errors, and shown in its dashboard."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import forked
from gptlab.cli.main import main
from gptlab.runs import trackio_tracker
from gptlab.runs.record import read_metrics, read_status

CHROMIUM = Path("/usr/bin/chromium")
RUN = """
import os, signal, sys, time
from pathlib import Path
from gptlab.runs.record import Recorder
from gptlab.runs.trackio_tracker import TrackioSettings
from gptlab.runs.trackers import RunInfo

root = Path("runs")

def recorder(arm="rmsnorm", resume_step=None):
    info = RunInfo(f"{arm} seed=1", "demo")
    config = {"arm": arm, "norm": {"name": arm, "eps": 1e-5}, "seed": 1, "use": None}
    return Recorder(
        root / "demo" / arm, config=config, settings=TrackioSettings(root, "lab"), info=info, resume_step=resume_step
    )

def log(record, steps, loss=3.0):
    for step in steps:
        record.log({"step": step, "tokens": 768 * step, "cost/flops": 1e9 * step, "train/loss": loss / step})
        if step % 2 == 0:
            record.log({"step": step, "tokens": 768 * step, "cost/flops": 1e9 * step, "val/loss": loss / step})
"""
TWO_ARMS = """
for arm, loss in (("layernorm", 3.0), ("rmsnorm", 2.0)):
    with recorder(arm) as record:
        log(record, range(1, 21), loss)
        summary = {"val/loss": loss / 20, "parameters": 11_000, "cost/flops": 2e10, "device": "cpu", "val/bpb": None}
        record.finish("finished", summary)
        print(record.tracker_hint())
"""
STORED = """
import json, trackio
from trackio.sqlite_storage import SQLiteStorage
from trackio.fragments import import_inbox_dir
import_inbox_dir()  # as the dashboard does
runs = trackio.Api().runs("lab")
print(json.dumps([[r.id, r.name, r.config, SQLiteStorage.get_logs("lab", r.name, run_id=r.id)] for r in runs]))
"""


def run(folder: Path, script: str, **env: str) -> subprocess.CompletedProcess:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("TRACKIO_", "HF_"))}
    return forked.run(script, env=clean | {"HOME": str(folder)} | env, cwd=folder)


def stored(folder: Path, at: str = "runs/trackio") -> list[tuple[str, str, dict[str, Any], list[dict[str, Any]]]]:
    """Id, name, config and lines of every run, as Trackio reads them from its store."""
    done = run(folder, STORED, TRACKIO_DIR=str(folder / at))
    assert done.returncode == 0, done.stderr
    return [tuple(entry) for entry in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def two_arms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trackio")
    return folder, run(folder, RUN + TWO_ARMS)


def test_two_runs_are_in_the_store_as_they_were_logged(two_arms):
    folder, done = two_arms
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["Trackio: `TRACKIO_DIR=runs/trackio trackio show --project lab`"] * 2
    found = {name: (run_id, config, lines) for run_id, name, config, lines in stored(folder)}
    assert set(found) == {"layernorm seed=1", "rmsnorm seed=1"}
    run_id, config, lines = found["rmsnorm seed=1"]
    assert config.pop("_Group") == "demo"
    ours = {key: value for key, value in config.items() if key[0] != "_"}
    assert ours == {"arm": "rmsnorm", "norm": {"name": "rmsnorm", "eps": 1e-5}, "seed": 1, "use": None}
    status = read_status(folder / "runs/demo/rmsnorm")
    assert run_id == status["wandb_id"]
    assert status["trackio"] == "`TRACKIO_DIR=runs/trackio trackio show --project lab`" and "wandb" not in status
    *measured, last = [{k: v for k, v in line.items() if k != "timestamp"} for line in lines]
    assert measured == read_metrics(folder / "runs/demo/rmsnorm")
    assert last == {"step": 20, "final/val/loss": 0.1, "parameters": 11_000}  # which its dashboard draws as bars


def test_a_snapshot_is_stored_as_curves_by_layer(tmp_path):
    look = {"step": 1, "tokens": 768, "stream_rms": [0.5, 1.5], "parameters": {"w": [1.0, 2.0, 3.0]}}
    look["histogram/stream"] = [{"low": -1.0, "high": 1.0, "counts": [3, 5]}]
    script = f"""
with recorder() as record:
    log(record, [1, 2])
    record.log_diagnostics({look!r})
    record.finish("finished", {{}})
"""
    done = run(tmp_path, RUN + script)
    assert (done.returncode, done.stderr) == (0, "")
    [(_, _, _, lines)] = stored(tmp_path)
    [line] = [x for x in lines if "stream_rms/00" in x]
    histogram = line["histogram/stream/00"]
    assert (line["step"], line["stream_rms/00"], line["stream_rms/01"]) == (1, 0.5, 1.5)
    assert (histogram["values"], histogram["bins"]) == ([3, 5], [-1, 0, 1]) and "parameters" not in line


@pytest.mark.parametrize("mode", [pytest.param("sqlite", marks=pytest.mark.slow), "jsonl"])
def test_a_killed_and_resumed_run_has_every_step_once(tmp_path, mode):
    killed = """
with recorder() as record:
    log(record, range(1, 5))
    time.sleep(1)  # Trackio writes twice a second
    os.kill(os.getpid(), signal.SIGKILL)
"""
    resumed = """
with recorder(resume_step=2) as record:
    log(record, range(3, 7))
    record.finish("finished", {})
assert record.tracker_hint().startswith("Trackio: `TRACKIO_DIR="), record.tracker_hint()
"""
    env = {"TRACKIO_STORAGE_MODE": mode, "TRACKIO_DIR": "elsewhere"}
    assert run(tmp_path, RUN + killed, **env).returncode == -signal.SIGKILL
    [(before, _, _, lines)] = stored(tmp_path, "elsewhere")
    assert [line["step"] for line in lines] == [1, 2, 2, 3, 4, 4]
    done = run(tmp_path, RUN + resumed, **env)
    assert (done.returncode, done.stderr) == (0, "")
    [(after, _, config, lines)] = stored(tmp_path, "elsewhere")
    assert [line["step"] for line in lines] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert before == after
    assert config["arm"] == "rmsnorm"
    assert not (tmp_path / "runs/trackio").exists()


def test_a_lost_store_does_not_stop_the_run_and_is_reported(tmp_path):
    script = """
import shutil
with recorder() as record:
    log(record, range(1, 5))
    shutil.rmtree("runs/trackio", ignore_errors=True)
    Path("runs/trackio").write_text("in the way")
    log(record, range(5, 9))
    record.finish("finished", {})
print(record.tracker_hint())
"""
    done = run(tmp_path, RUN + script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Trackio: the store has 0 of 12 lines; metrics.jsonl holds the whole run\n"
    assert read_status(tmp_path / "runs/demo/rmsnorm")["state"] == "finished"
    assert len(read_metrics(tmp_path / "runs/demo/rmsnorm")) == 12


def test_an_impossible_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(tmp_path, RUN + "recorder().__enter__()", TRACKIO_DIR="file")
    line = done.stderr.splitlines()[-1]
    assert line == "gptlab.files.FileError: TRACKIO_DIR=file: {} is a file, not a folder; give another name".format(
        tmp_path / "file"
    )


def test_a_notebooks_own_run_is_left_alone_and_the_network_is_not_asked_for_the_user(tmp_path):
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: Any) -> None:
            pass

    script = """
with recorder() as record:
    record.finish("finished", {})
import trackio
from trackio import context_vars
own = object()
context_vars.current_run.set(own)
with recorder("layernorm") as record:
    log(record, [1])
    record.finish("finished", {})
assert context_vars.current_run.get() is own
"""
    with HTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        env = {"HF_TOKEN": "hf_" + "x" * 30, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"}
        done = run(tmp_path, RUN + script, **env)
        hub.shutdown()
    assert done.returncode == 0, done.stderr
    assert asked == []


def test_without_the_extra_it_says_what_to_install_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trackio_tracker.importlib.util, "find_spec", lambda name: None)
    for verb in ("train", "sweep"):
        with pytest.raises(SystemExit) as caught:
            main([verb, "record=trackio", "size=tiny", "device=cpu"])
        assert caught.value.code == 2
        line = "gptlab: record=trackio: needs Trackio; pip install 'gptlab[trackio]', or use record=wandb\n"
        assert capsys.readouterr().err == line
    assert list(tmp_path.iterdir()) == []


def test_training_records_the_arm_in_trackio(train_tiny, monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr("gptlab.training.train.Recorder", lambda *args, **options: given.append(options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_tiny("record=trackio", "norm=rmsnorm", "seed=3", "variant=rms")
    [options] = given
    assert options["settings"] == trackio_tracker.TrackioSettings(tmp_path / "runs", "gptlab")
    assert options["config"]["arm"] == "rms" and options["config"]["norm"]["name"] == "rmsnorm"
    assert (options["info"].name, options["info"].group) == ("rms s3", "default")


@pytest.mark.slow
def test_the_dashboard_shows_both_runs_and_their_curves(two_arms, tmp_path):
    api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}")
    folder, done = two_arms
    env = os.environ | {"TRACKIO_DIR": str(folder / "runs/trackio"), "BROWSER": "true", "PYTHONUNBUFFERED": "1"}
    command = [str(Path(sys.executable).parent / "trackio"), "show", "--project", "lab"]
    server = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    flags = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
    try:
        assert server.stdout
        [address] = re.findall(r"http://[\w.:/?=]+", server.stdout.readline())
        with api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*flags.split(), "--disable-sync"])
            page = browser.new_page(viewport={"width": 1400, "height": 1100})
            page.goto(address)
            page.get_by_text("Show run comparer").click()
            page.get_by_text("Diff only").click()
            page.get_by_placeholder("e.g., loss").fill("^(train|val)/loss$")
            page.get_by_text("val (1)").wait_for()
            for menu, choice in (("X-axis", "tokens"), ("Group by", "arm")):
                page.get_by_label(menu, exact=True).click()
                page.get_by_role("option", name=choice, exact=True).click()
            page.wait_for_timeout(2000)  # milliseconds, for the animation
            page.screenshot(path=tmp_path / "dashboard.png", full_page=True)
            text = page.inner_text("body")
            colours = page.evaluate(COLOURS)
            browser.close()
    finally:
        server.terminate()
        server.wait(timeout=10)
    assert {"layernorm seed=1", "rmsnorm seed=1", "train (1)", "val (1)"} <= set(text.splitlines())
    comparer = text[text.index("CONFIG") : text.index("METADATA")]
    assert "norm.name" in comparer and "norm.eps" not in comparer
    assert colours and max(colours) > 2  # in one plot: a background and two lines at least


# Of each plot's canvas, how many colours cover more than a few points.
COLOURS = """
[...document.querySelectorAll("canvas")].map((canvas) => {
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height), count = {};
    for (let i = 0; i < data.length; i += 4)
        if (data[i + 3] == 255) count[data.slice(i, i + 3)] = (count[data.slice(i, i + 3)] || 0) + 1;
    return Object.values(count).filter((n) => n > 50).length;
})
"""
