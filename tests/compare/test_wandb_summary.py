"""`gptlab compare --wandb`: what it writes into the summaries of runs, read back from a stand-in for W&B's server."""

import json
import os

import pytest

import forked
from forked import GPTLAB
from run_folders import RMS, learning, write_run, write_sweep
from wandb_standin import SentRun, standin

KEY = "local" + "0" * 40


def environment(home):
    """An environment where no key of the user's is found."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return clean | {"HOME": str(home), "NETRC": str(home / "none"), "TERM": "xterm"}


def compare(home, env, *words):
    return forked.run(GPTLAB, "compare", "runs", "--wandb", *words, env=environment(home) | env, cwd=home)


def write(top, name, loss, *, place, run_id, **changes):
    """Write a run that W&B has at `place`: an address without its id, or the command that uploads the run."""
    folder = write_run(top / name, loss, where=place, **changes)
    status = json.loads((folder / "status.json").read_text())
    if place and place.startswith("http"):
        status["wandb"] = f"{place}/runs/{run_id}"
    (folder / "status.json").write_text(json.dumps(status | {"wandb_id": run_id}))


@pytest.fixture
def norms(tmp_path):
    """Online runs of a baseline at three budgets, of an arm, and of an arm whose loss lies beyond the budgets."""
    top, places = tmp_path / "runs", {}
    online = "https://wandb.example/wandb/me/lab"
    for seed in (0, 1, 2, 3):
        noise = 0.002 * (seed - 1.5)
        for name, loss, changes in (
            ("a", 2.0, {"variant": "a"}),
            ("b", 1.95, {"variant": "b", **RMS}),
            ("c", 1.5, {"variant": "c", "bias": False}),
        ):
            run_id = f"{name}{seed}"
            end = loss + noise + 0.001 * (seed % 2) * (name != "a")
            write(top, run_id, end, place=online, run_id=run_id, seed=seed, **changes)
        for share, steps, loss in (("0.5", 50, 2.1), ("2", 200, 1.9)):
            name = f"a{seed}-{share}"
            budget = {"phase": "budget", "variant": "a", "budget": {"steps": steps}, "tokens": 768 * steps}
            write(top, name, loss + noise, place=online, run_id=name, seed=seed, **budget)
            places.setdefault(share, []).append(name)
    write_sweep(top, variants={"a": [], "b": [], "c": []}, budgets=places)
    return tmp_path


def sent(*ids):
    return {run_id: SentRun(summary={"state": "finished", "final/val/loss": 2.0}) for run_id in ids}


ALL = [f"{arm}{seed}" for arm in "abc" for seed in range(4)]


def test_every_compared_run_gets_the_verdict_on_its_arm(norms):
    with standin(projects=["lab"]) as server:
        server.runs |= sent(*ALL, "a0-2", "other")
        done = compare(norms, server.env, "--json")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "W&B: 12 runs got their verdict")
    document = json.loads(done.stdout)
    assert document["wandb"] == {"updated": 12, "absent": 0}
    _, b, c = document["arms"]
    for arm, seen in (("b", b), ("c", c)):
        for seed in range(4):
            summary = server.runs[f"{arm}{seed}"].summary
            assert summary.pop("final/val/loss") == 2.0 and summary.pop("state") == "finished"
            multiplier = seen["multiplier"]["tokens"]
            ends = {"multiplier": multiplier["value"], "multiplier_low": multiplier["low"]}
            ends["multiplier_high"] = multiplier["high"]
            assert summary.pop("verdict/multiplier_text") == multiplier["text"]
            assert summary == {
                "verdict/word": "better",
                "verdict/metric": "val/loss",
                "verdict/reference": "a",
                "verdict/difference": seen["effect"]["mean"],
                "verdict/low": seen["effect"]["low"],
                "verdict/high": seen["effect"]["high"],
                **{f"verdict/{key}": value for key, value in ends.items() if value is not None},
            }
    assert 1 < server.runs["b0"].summary["verdict/multiplier"] < 2
    assert server.runs["c0"].summary.keys().isdisjoint({"verdict/multiplier"})  # it is ">2"
    assert server.runs["a0"].summary.keys() - {"state", "final/val/loss"} == {"verdict/word", "verdict/metric"}
    assert server.runs["a0"].summary["verdict/word"] == "baseline"
    assert not any(key.startswith("verdict") for run in ("a0-2", "other") for key in server.runs[run].summary)


def test_a_later_comparison_replaces_the_verdict_and_leaves_no_number_behind(norms):
    with standin(projects=["lab"]) as server:
        server.runs |= sent(*ALL)
        compare(norms, server.env)
        assert compare(norms, server.env, "--baseline", "b", "--metric", "val/bpb").returncode == 0
    assert server.runs["a0"].summary["verdict/word"] == "worse"
    assert server.runs["a0"].summary["verdict/metric"] == "val/bpb"
    assert "verdict/difference" not in server.runs["b0"].summary
    assert server.runs["b0"].summary["final/val/loss"] == 2.0


def test_offline_runs_are_found_once_they_are_synced_and_counted_until_then(tmp_path):
    top, synced = tmp_path / "runs", {"project": "lab", "entity": "team", "mode": None}
    for seed in (0, 1, 2):
        for arm, loss, changes in (("a", 2.0, {}), ("b", 1.9, RMS)):
            place = "`wandb sync runs/wandb/offline-run-1-x`" if seed < 2 else None
            changes = {**changes, **learning(loss + 0.01 * seed, seed=seed), "wandb": synced}
            write(top, f"{arm}{seed}", loss + 0.01 * seed, place=place, run_id=f"{arm}{seed}", seed=seed, **changes)
    with standin(projects=["lab"]) as server:
        server.runs |= sent("a0", "b0", "b1", "b2")
        done = compare(tmp_path, server.env)
        [line] = [line for line in done.stdout.splitlines() if line.startswith("W&B")]
    missing = "3 runs are not there; send offline runs with `wandb sync`, then repeat this"
    assert line == f"W&B: 3 runs got their verdict, {missing}"
    assert "verdict/word" in server.runs["b1"].summary
    assert "verdict/word" not in server.runs["b2"].summary  # it was recorded elsewhere
    with standin(projects=["other"]) as server:
        done = compare(tmp_path, server.env)
    assert done.returncode == 0 and "W&B: 0 runs got their verdict, 6 runs are not there" in done.stdout


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ({}, "no API key is configured; run `wandb login`"),
        ({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9 does not answer ("),
    ],
)
def test_without_a_key_or_a_server_nothing_is_written(norms, env, line):
    done = compare(norms, env, "--csv", "table.csv")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"gptlab: compare --wandb: {line}") and done.stderr.count("\n") == 1
    assert not (norms / "table.csv").exists()


def test_the_report_is_an_artifact_and_a_panel_of_a_run_of_its_own(norms):
    with standin(projects=["lab"]) as server:
        words = ["compare", "runs", "--html", "report.html", "--wandb-report"]
        done = forked.run(GPTLAB, *words, env=environment(norms) | server.env, cwd=norms)
        assert done.returncode == 0, done.stderr
        [(name, run)] = server.runs.items()
        assert f"report: {server.env['WANDB_BASE_URL']}/me/lab/runs/{name}" in done.stdout
        artifact = server.artifacts["report-runs"]
    page = (norms / "report.html").read_bytes()
    assert (artifact.type, artifact.run, artifact.committed) == ("report", name, True)
    assert artifact.files["report.html"] == page
    assert [content for path, content in run.files.items() if path.startswith("media/html/report")] == [page]
    assert (run.fields["groupName"], run.fields["jobType"]) == ("runs", "compare")
    assert not (norms / "wandb").exists() and not (norms / "runs" / "wandb").exists()


def test_a_report_needs_a_page(norms):
    done = forked.run(GPTLAB, "compare", "runs", "--wandb-report", env=environment(norms), cwd=norms)
    assert (done.returncode, done.stderr) == (
        2,
        "gptlab: --wandb-report: sends the page that --html writes; add --html FILE\n",
    )
