"""`gptlab dashboard`: what it saves in W&B, read back from a stand-in for the server, and every error."""

import json
import os
import pty
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import forked
from forked import GPTLAB
from gptlab.cli.main import main
from gptlab.runs import wandb_dashboard as dashboard
from wandb_standin import standin

KEY = "local" + "0" * 40
GROUPED = [{"section": "config", "name": "arm.value"}]


def environment(home: Path) -> dict[str, str]:
    """An environment where no key of the user's is found."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return clean | {"HOME": str(home), "NETRC": str(home / "none"), "TERM": "xterm"}


def run(home: Path, env: dict[str, str], *words: str) -> subprocess.CompletedProcess:
    """gptlab dashboard, in a process of its own."""
    return forked.run(GPTLAB, "dashboard", *words, env=environment(home) | env, cwd=home)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The output and the saved pages for one sweep, and for all."""
    home = tmp_path_factory.mktemp("home")
    with standin(projects=["other", "lab"]) as server:
        printed = [run(home, server.env, "--project", "lab", *w.split()) for w in ("--name demo", "")]
        return server.env["WANDB_BASE_URL"], [done.stdout for done in printed], server.views, printed


def test_workspace_and_report_are_saved_and_their_addresses_printed(saved):
    host, (stdout, _), views, done = saved
    assert [(d.returncode, d.stderr) for d in done] == [(0, ""), (0, "")]
    workspace, report = views[:2]
    assert (workspace.type, report.type) == ("project-view", "runs")
    for view in (workspace, report):
        assert view.fields["entityName"] == "me" and view.fields["projectName"] == "lab"
        assert view.fields["displayName"] == "gptlab demo"
    assert views[2].fields["displayName"] == "gptlab"
    key = workspace.fields["name"].removeprefix("nw-").removesuffix("-v")
    assert stdout == f"workspace  {host}/me/lab?nw={key}\nreport     {host}/me/lab/reports/gptlab-demo--view2\n"


def panels_of(workspace):
    sections = workspace.spec["section"]["panelBankConfig"]["sections"]
    assert all(section["isOpen"] for section in sections)
    return {section["name"]: section["panels"] for section in sections}


def panel_grids_of(report):
    grids = [block["metadata"] for block in report.spec["blocks"] if block["type"] == "panel-grid"]
    return [(grid["runSets"], grid["panelBankSectionConfig"]["panels"]) for grid in grids]


def check_curves(panels):
    """val/loss and val/bpb against tokens, FLOPs and seconds, mean and band of each arm."""
    assert {panel["viewType"] for panel in panels} == {"Run History Line Plot"}
    drawn = [(panel["config"]["metrics"], panel["config"]["xAxis"]) for panel in panels]
    axes = ("tokens", "cost/flops", "seconds")
    assert drawn == [([metric], axis) for metric in ("val/loss", "val/bpb") for axis in axes]
    for panel in panels:
        assert (panel["config"]["groupAgg"], panel["config"]["groupArea"]) == ("mean", "stddev")
        assert "groupBy" not in panel["config"] and "aggregate" not in panel["config"]  # the runs' own grouping holds


def check_bars(panels):
    assert [panel["config"]["metrics"] for panel in panels] == [["final/val/loss"], ["final/val/bpb"]]
    assert {panel["viewType"] for panel in panels} == {"Bar Chart"}
    assert {(p["config"]["groupAgg"], p["config"]["groupArea"]) for p in panels} == {("mean", "stddev")}


def check_differences(panels):
    [panel] = panels
    assert (panel["viewType"], panel["config"]["diffOnly"]) == ("Run Comparer", True)


def check_others(training, speed, diagnostics, texts):
    drawn = [(panel["config"]["metrics"], panel["config"]["xAxis"]) for panel in (*training, *speed)]
    metrics = ("train/loss", "train/grad_norm", "train/lr", "speed/tokens_per_s")
    assert drawn == [([metric], "tokens") for metric in metrics]
    patterns = [panel["config"]["metricRegex"] for panel in diagnostics]
    logged = ("stream_rms/00", "grad_norm/01", "weight_norm/11", "update_ratio/02")
    assert all(re.search(pattern, name) for pattern, name in zip(patterns, logged, strict=True))
    assert not any(re.search(pattern, "train/grad_norm") for pattern in patterns)
    [table] = texts
    assert table["viewType"] == "Weave" and '"samples"' in json.dumps(table["config"])


ORDER = ["Validation", "At the end", "Training", "Speed", "Diagnostics", "Samples of text"]


def filters_of(runset):
    return [(f["key"]["name"], f["op"], f["value"]) for f in runset["filters"]["filters"]]


def test_the_workspace_groups_by_arm_and_draws_the_bands(saved):
    workspace = saved[2][0]
    panels = panels_of(workspace)
    assert list(panels) == [*ORDER, "Differences between the configs"]
    check_curves(panels["Validation"])
    check_others(*(panels[title] for title in ORDER[2:]))
    check_bars(panels["At the end"])
    check_differences(panels["Differences between the configs"])
    section = workspace.spec["section"]
    [runset] = section["runSets"]
    assert runset["grouping"] == GROUPED
    assert filters_of(runset) == [("group", "=", "demo"), ("jobType", "IN", ["train", "sweep"])]
    assert runset["runFeed"]["columnOrder"][:3] == ["run:displayName", "config:arm.value", "summary:final/val/loss"]
    assert section["settings"]["useRunsTableGroupingInPanels"]
    assert (section["settings"]["xAxis"], section["settings"]["maxRuns"]) == ("tokens", 100)


def test_the_report_has_the_same_charts_and_compares_single_runs(saved):
    report = saved[2][1]
    (arms, curves), (same_arms, bars), *others, (runs, differences) = panel_grids_of(report)
    check_others(*(panels for _, panels in others))
    check_curves(curves)
    check_bars(bars)
    check_differences(differences)
    corners = [(panel["layout"]["x"], panel["layout"]["y"]) for panel in curves]
    assert corners == [(x, y) for y in (0, 8) for x in (0, 8, 16)]
    for [runset], grouping in ((arms, GROUPED), (same_arms, GROUPED), (runs, [])):
        assert runset["grouping"] == grouping
        assert runset["project"] == {"name": "lab", "entityName": "me", "id": "42"}
        assert filters_of(runset)[0] == ("group", "=", "demo")


def test_across_all_sweeps_arms_are_grouped_within_their_sweep(saved):
    workspace, report = saved[2][2:]
    [runset] = workspace.spec["section"]["runSets"]
    grouping = [{"section": "run", "name": "group"}, *GROUPED]
    assert runset["grouping"] == grouping
    assert filters_of(runset) == [("jobType", "IN", ["train", "sweep"])]
    assert panel_grids_of(report)[0][0][0]["grouping"] == grouping


def test_without_a_key_it_asks_nothing_at_a_terminal(tmp_path):
    terminal, side = pty.openpty()
    command, streams = [sys.executable, "-m", "gptlab", "dashboard"], {"stdin": side, "stdout": side, "stderr": side}
    done = subprocess.run(command, env=environment(tmp_path), cwd=tmp_path, timeout=60, **streams)
    shown = os.read(terminal, 10_000).decode()
    os.close(side)
    os.close(terminal)
    assert done.returncode == 2
    assert shown == "gptlab: dashboard: no API key is configured; run `wandb login`\r\n"


def test_a_server_that_does_not_answer_is_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"http://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        done = run(tmp_path, {"WANDB_BASE_URL": host, "WANDB_API_KEY": KEY, "WANDB_HTTP_TIMEOUT": "1"})
    assert time.monotonic() - start < 15
    check_refusal(done, f"gptlab: dashboard: {host} does not answer (timed out); check the network")


def test_a_missing_server_is_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        host = f"http://127.0.0.1:{gone.getsockname()[1]}"
    done = run(tmp_path, {"WANDB_BASE_URL": host, "WANDB_API_KEY": KEY})
    check_refusal(done, f"gptlab: dashboard: {host} does not answer ([Errno ")


def test_a_missing_project_and_an_invalid_key_are_one_line(tmp_path):
    with standin(projects=["other"]) as server:
        check_refusal(run(tmp_path, server.env, "--project", "lab"), "gptlab: --project=lab: me has no such project; ")
        no_key = server.env | {"WANDB_API_KEY": "short"}
        check_refusal(run(tmp_path, no_key), "gptlab: dashboard: WANDB_API_KEY invalid: ")
        assert server.views == []


def check_refusal(done: subprocess.CompletedProcess, begins: str):
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith(begins)


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(dashboard.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        main(["dashboard"])
    assert caught.value.code == 2
    line = "gptlab: dashboard: needs wandb-workspaces; pip install 'gptlab[dashboard]'\n"
    assert capsys.readouterr() == ("", line)
