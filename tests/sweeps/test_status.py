"""`gptlab status`: the state of each cell, and the time left."""

import io
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from rich.console import Console

from gptlab.config import ConfigError
from gptlab.runs.lock import locked
from gptlab.sweeps import display
from gptlab.sweeps.display import SweepDisplay
from gptlab.sweeps.run_sweep import sweep
from gptlab.sweeps.status import (
    progress_line,
    render,
    seconds_left,
    show_status,
    status_document,
    statuses_in,
)

SHORT = ["size=tiny", "data=text", "data.window=16", "tokenizer=byte", "wandb.mode=disabled", "device=cpu"]
SHORT += ["precision=float32", "budget.steps=2", "train.batch_size=2", "eval.tokens=48", "diagnostics=none"]


def write_cell(top, name, state=None, *, step=0, started=0.0, took=0.0, reason=None, log=None):
    folder, now = top / name, datetime.now(UTC)
    folder.mkdir(parents=True)
    if state:
        times = {"started": now - timedelta(seconds=started), "updated": now - timedelta(seconds=started - took)}
        (folder / "status.json").write_text(
            json.dumps({"state": state, "reason": reason, **{k: t.isoformat() for k, t in times.items()}})
        )
    if step:
        line = {"step": step, "seconds": 1.0, "train/loss": 2.5, "speed/tokens_per_s": 1234.0}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    if log:
        (folder / "log.txt").write_text(log)
    return {"label": f"arm {name}", "folder": name, "phase": None, "steps": 100, "seconds": None, "overrides": []}


@pytest.fixture
def folder(tmp_path):
    top = tmp_path / "s"
    lines = [
        write_cell(top, "done", "finished", step=100, started=300, took=100),
        write_cell(top, "broken", "failed", reason="RuntimeError: out of memory"),
        write_cell(top, "silent", "failed", log="starting\nValueError: too wide\n\n"),
        write_cell(top, "off", "diverged", step=50),
        write_cell(top, "busy", "running", step=50, started=60),
        write_cell(top, "gone", "running", step=50, started=60),
        write_cell(top, "new"),
        {"label": "arm unknown", "folder": None, "phase": None, "steps": 100, "seconds": None, "overrides": []},
    ]
    (top / "sweep.yaml").write_text(json.dumps({"cells": lines}))
    with locked(top / "busy"):
        yield top


def shown(folder):
    out = io.StringIO()
    show_status(folder, Console(file=out, width=200))
    return out.getvalue()


def test_every_state_is_counted_and_a_failure_has_its_reason(folder):
    text = shown(folder)
    assert "8 cells: 1 finished, 1 diverged, 2 failed, 1 running, 1 interrupted, 2 waiting" in text
    assert "failed   arm broken: RuntimeError: out of memory" in text
    assert "failed   arm silent: ValueError: too wide" in text  # the last line of its log
    assert "arm busy" in text and "50%" in text and "1,234 tokens/s" in text
    assert "nothing is running" not in text


def test_the_time_left_follows_the_pace_so_far(folder):
    # One cell runs at a time: 60 s for the second half of the running one, 50 s for the interrupted one's half, and
    # 100 s for each of the two that wait.
    assert seconds_left(statuses_in(folder)) == pytest.approx(60 + 50 + 2 * 100, abs=5)
    assert "5 min left" in shown(folder)


def test_a_sweep_at_rest_says_how_to_continue_it(folder):
    for line in json.loads((folder / "sweep.yaml").read_text())["cells"]:
        if line["folder"] == "busy":
            (folder / "busy/status.json").write_text(json.dumps({"state": "finished"}))
    cells = statuses_in(folder)
    assert seconds_left(cells) is None
    out = io.StringIO()
    Console(file=out, width=200).print(render(folder, cells))
    assert "nothing is running; the same `gptlab sweep` continues it" in out.getvalue()


def test_watching_ends_with_the_sweep(folder, monkeypatch):
    done = {"cells": json.loads((folder / "sweep.yaml").read_text())["cells"][:4]}
    monkeypatch.setattr(
        "gptlab.sweeps.status.time.sleep", lambda _: (folder / "sweep.yaml").write_text(json.dumps(done))
    )
    out = io.StringIO()
    show_status(folder, Console(file=out, width=200), watch=True)
    assert "4 cells: 1 finished, 1 diverged, 2 failed" in out.getvalue()


def test_labels_are_shown_whole_and_as_they_are(folder):
    manifest = json.loads((folder / "sweep.yaml").read_text())
    label = f"use=[/abs/a.py,[bold]/abs/b.py] {'norm=layernorm ' * 8}seed=0"
    next(line for line in manifest["cells"] if line["folder"] == "busy")["label"] = label
    (folder / "sweep.yaml").write_text(json.dumps(manifest))
    out = io.StringIO()
    show_status(folder, Console(file=out, width=80))
    shown_label = "".join(out.getvalue().split())
    assert "use=[/abs/a.py,[bold]/abs/b.py]" in shown_label and "seed=0" in shown_label and "…" not in shown_label


def test_the_line_for_a_log_says_counts_what_runs_and_the_time_left(folder):
    line = progress_line(statuses_in(folder))
    assert line.startswith("8 cells: 1 finished, 1 diverged, 2 failed, 1 running, 1 interrupted, 2 waiting; ")
    assert "; running: arm busy 50%; " in line and line.endswith("5 min left")


@pytest.mark.parametrize(("seconds", "lines"), [(0.0, True), (3600.0, False)])
def test_without_a_terminal_a_running_sweep_says_a_line_now_and_then(seconds, lines, folder, monkeypatch):
    monkeypatch.setattr("gptlab.sweeps.display.SECONDS_BETWEEN_LINES", seconds)
    out = io.StringIO()
    display = SweepDisplay(Console(file=out, width=200), folder, cells_of(folder))
    display._update()
    assert ("running: arm busy 50%" in out.getvalue()) == lines


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a sweep's folder"):
        statuses_in(tmp_path)


def test_the_document_has_the_state_of_every_cell(folder):
    document = json.loads(json.dumps(status_document(folder)))
    assert document["counts"] == {
        "finished": 1,
        "diverged": 1,
        "failed": 2,
        "running": 1,
        "interrupted": 1,
        "waiting": 2,
    }
    assert (document["folder"], document["n_cells"]) == (str(folder), 8)
    assert document["seconds_left"] == pytest.approx(60 + 50 + 2 * 100, abs=5)
    cells = {cell.pop("label"): cell for cell in document["cells"]}
    busy, done, broken, unknown = (cells[f"arm {name}"] for name in ("busy", "done", "broken", "unknown"))
    assert (
        busy["share"] == 0.5 and busy["metrics"]["step"] == 50 and busy["elapsed_seconds"] == pytest.approx(60, abs=5)
    )
    assert (done["state"], done["share"], done["reason"]) == ("finished", 1.0, None)
    assert broken["reason"] == "RuntimeError: out of memory" and unknown["folder"] is None
    assert set(busy) == {"folder", "phase", "state", "share", "elapsed_seconds", "metrics", "reason"}


def cells_of(folder):
    entries = json.loads((folder / "sweep.yaml").read_text())["cells"]
    return [
        SimpleNamespace(
            spec=SimpleNamespace(label=entry["label"], phase=None, overrides=[]),
            folder=folder / entry["folder"],
            budget=SimpleNamespace(steps=100, seconds=None),
            failure="",
        )
        for entry in entries[:7]
    ]


def test_on_a_terminal_a_running_sweep_shows_the_table_of_status_and_a_line_per_ended_cell(folder):
    cells = cells_of(folder)
    out = io.StringIO()
    with SweepDisplay(Console(file=out, width=200, force_terminal=True, color_system=None), folder, cells):
        (folder / "new/status.json").write_text(json.dumps({"state": "finished"}))
        (folder / "new/summary.json").write_text(json.dumps({"val/loss": 2.5}))
    text = out.getvalue()
    assert "4 of 7 cells have ended already" in text and "running  arm busy  50%" in text
    assert "[5/7] finished  val/loss 2.5000  arm new" in text and "nothing is running" not in text


def test_the_lines_of_a_sweep_do_not_go_to_the_log_of_a_cell_in_the_same_process(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(display, "SECONDS_BETWEEN_READS", 0.001)
    monkeypatch.setattr(display, "SHARE_OF_TIME", 1.0)
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("to be, or not to be: that is the question. " * 40)
    fixed = [f"runs_dir={tmp_path}", f"data.path={tmp_path}/text.txt", "hydra.launcher.n_jobs=1", "name=s", *SHORT]
    sweep(["ffn=gelu,relu,swiglu", "seed=0,1", *fixed])
    lines = [line for line in capsys.readouterr().out.splitlines() if "/6] finished" in line]
    assert [line.split()[0] for line in lines] == [f"[{i}/6]" for i in range(1, 7)]
