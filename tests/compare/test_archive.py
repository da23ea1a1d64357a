"""`--keep` writes one file that makes every table again and that may be published."""

import json
import shutil

import pytest

from gptlab.compare import build_comparison
from gptlab.compare.archive import MOST_POINTS, PRIVATE_KEYS, read_archive
from gptlab.compare.read.anonymise import shown_address, shown_command
from gptlab.compare.read.runs import load_runs
from gptlab.compare.views.markdown import render_markdown
from gptlab.config import ConfigError
from run_folders import FLOPS, learning, shown, write_run, write_sweep

SECRETS = ("jane", "secret-host", "/home", "/work", "entity-of-jane")


def write(top, *, arms=3, seeds=2, steps=4000, every=20):
    """Write runs of 200 evaluations from somebody's machine: one diverged, an arm is tuned, one is matched."""
    top = top / "runs" / "norms"
    for arm in range(arms):
        for seed in range(seeds):
            label, place = f"arm {arm}", f"/home/jane/{'ab'[arm % 2]}/text.txt"
            about = {"steps": steps, "every": every, "speed": 1e4 * (1 + arm), "flops": FLOPS + arm, "seed": seed}
            write_run(
                top / f"arm-{arm}-{seed}",
                loss := 2 + arm / 30 + seed / 7,
                seed=seed,
                state="diverged" if arm == seed == 1 else "finished",
                times=(f"{seed}{arm:02}", f"{seed}{arm:02}"),
                where=f"`wandb sync ../../home/jane/runs/wandb/offline-run-{arm}-{seed}`",
                variant=label,
                size={"dim": arm},
                optimizer={"lr": 0.1},
                data={"name": "text", "path": place},
                runs_dir="/home/jane/runs",
                use=["/home/jane/parts.py"],
                wandb={"mode": "online", "project": "p", "entity": "entity-of-jane"},
                **learning(loss, **about),
            )
    for lr in (0.1, 0.2):
        text = {"name": "text", "path": "/home/jane/a/text.txt"}
        write_run(top / f"t{lr}", 2 + lr, seed=9, phase="tune", variant="arm 0", optimizer={"lr": lr}, data=text)
    shutil.copytree(top / "arm-0-0", top / "again")
    write_sweep(
        top,
        question="Which?",
        literature="None.",
        command="gptlab sweep /home/jane/x.yaml data.path=/home/jane/a/text.txt seed=0,1",
        variants={f"arm {arm}": ["data.path=/home/jane/x"] for arm in range(arms)},
        against="previous",
        tune={"grid": {"optimizer.lr": ["0.1", "0.2"]}},
        matched=[{"arm": "arm 1", "to": "params", "changed": {}, "reference": 1.0, "before": 1.0, "reached": 1.0}],
        cells=[{"overrides": ["data.path=/home/jane/x"]}],
    )
    return top


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of runs and the archive made from it."""
    monkeypatch.chdir(tmp_path)
    top = write(tmp_path)
    shown([top], keep="kept.json")
    return top, tmp_path / "kept.json"


@pytest.mark.parametrize(
    "options", [{}, {"metric": "val/bpb"}, {"baseline": "arm 2", "against": "baseline", "margin": 1}]
)
def test_an_archive_gives_the_same_tables_text_and_verdicts_at_equal_budgets(kept, options):
    folder, file = kept
    assert shown([file], **options)[1] == shown([folder], **options)[1]
    before, after = (build_comparison([path], **options) for path in (folder, file))
    assert render_markdown(after) == render_markdown(before)
    assert repr(after.equal_budgets) == repr(before.equal_budgets) and all(
        r.readings for r in after.equal_budgets
    )  # has NaN in it
    assert after.hardware == before.hardware and after.matched == before.matched
    assert after.runs.equals(before.runs)
    for a, b in zip(after.tuning, before.tuning, strict=True):
        assert a.points.equals(b.points)


def test_curves_in_an_archive_are_thinned_and_keep_their_ends_and_the_points_at_equal_budgets(kept):
    folder, file = kept
    before, after = (build_comparison([path]) for path in (folder, file))
    for arm, curve in after.curves.items():
        whole = before.curves[arm]
        assert curve.groupby("seed").size().max() <= MOST_POINTS < whole.groupby("seed").size().max()
        for seed, own in curve.groupby("seed"):
            old = whole[whole["seed"] == seed].set_index("step")["val/loss"]
            assert own["step"].iloc[0] == old.index[0] and own["step"].iloc[-1] == old.index[-1]
            assert list(own["val/loss"]) == pytest.approx(list(old[own["step"]]), rel=1e-5)
        assert list(curve.columns) == list(whole.columns)


def test_an_archive_made_from_an_archive_is_the_same(kept, tmp_path):
    file = kept[1]
    shown([file], keep=tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == file.read_text()


def test_nothing_in_an_archive_tells_whose_machine_it_was(kept, tmp_path):
    folder, file = kept
    shown([folder], markdown="text.md", csv="table.csv")
    for text in (file.read_text(), (tmp_path / "text.md").read_text(), (tmp_path / "table.csv").read_text()):
        assert not [secret for secret in (*SECRETS, str(tmp_path)) if secret in text]
    tree = json.loads(file.read_text())
    assert {line["where"] for line in tree["runs"]} >= {"wandb sync wandb/offline-run-0-0"}
    assert tree["runs"][0]["folder"] == "runs/norms/arm-0-0"
    assert {line["config"].get("data.path") for line in tree["runs"]} == {"text.txt", "text.txt (2)"}
    assert tree["sweep"]["command"] == "gptlab sweep x.yaml data.path=text.txt seed=0,1"


def test_the_settings_of_an_arm_keep_their_order(tmp_path):
    write_run(tmp_path / "a", 2.0, norm={"name": "layernorm"}, ffn={"name": "gelu"}, position={"name": "learned"})
    write_run(tmp_path / "b", 2.1, norm={"name": "layernorm"}, ffn={"name": "gelu"}, position={"name": "rope"})
    write_run(tmp_path / "c", 2.2, norm={"name": "rmsnorm"}, ffn={"name": "gelu"}, position={"name": "learned"})
    shown([tmp_path], keep=tmp_path / "kept.json")
    [order] = {tuple(key for key in run.config if key not in PRIVATE_KEYS) for run in load_runs([tmp_path])}
    assert {tuple(run.config) for run in read_archive(tmp_path / "kept.json").runs} == {order}


def test_an_archive_of_fifty_runs_is_small_and_has_a_line_for_each_run(tmp_path):
    top = write(tmp_path, arms=10, seeds=5)
    shown([top], keep=tmp_path / "kept.json")
    text = (tmp_path / "kept.json").read_text()
    assert len(text) < 200_000
    lines = [line for line in text.splitlines() if line.startswith('  {"folder"')]
    assert len(lines) == 52
    assert text.count('"norm.eps": ') == 1  # what all have in common stands once
    shutil.copytree(top / "arm-3-1", top / "new")
    config = (top / "new" / "config.yaml").read_text()
    (top / "new" / "config.yaml").write_text(config.replace("seed: 1", "seed: 8"))
    shown([top], keep=tmp_path / "kept.json")
    (new,) = set((tmp_path / "kept.json").read_text().splitlines()) - set(text.splitlines())
    assert '"seed": 8' in new


def test_an_archive_and_folders_can_be_compared_together(kept, tmp_path):
    write_run(tmp_path / "other", 2.0, seed=0, size={"dim": 99}, optimizer={"lr": 0.1})
    frame, _ = shown([kept[1], tmp_path / "other"], baseline="arm 0")
    assert set(frame["arm"]) == {"arm 0", "arm 1", "arm 2", "size.dim=99 data=null use=null"}


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not readable as JSON"), ("[]", "is not a file that --keep wrote"), ('{"format": 1}', "--keep wrote; name")],
)
def test_another_json_file_is_refused(tmp_path, text, said):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"^compare .*x.json: .*{said}"):
        shown([tmp_path / "x.json"])
    with pytest.raises(ConfigError, match="no runs here"):
        shown([tmp_path / "missing.json"])


@pytest.mark.parametrize(
    ("said", "shown_as"),
    [
        ("https://wandb.ai/lab/p/runs/x", "https://wandb.ai/lab/p/runs/x"),
        ("`wandb sync runs/wandb/offline-run-1`", "wandb sync runs/wandb/offline-run-1"),
        ("`wandb sync --include-online /home/jane/wandb/run-1`", "wandb sync --include-online wandb/run-1"),
        ("wandb sync wandb/run-1", "wandb sync wandb/run-1"),
        ("W&B stopped (OSError: /home/jane/x); metrics.jsonl holds the whole run", ""),
        (None, ""),
    ],
)
def test_where_a_run_is_in_wandb(said, shown_as):
    assert shown_address(said) == shown_as
    assert shown_address(shown_as) == shown_as


def test_a_command_names_files_without_their_folders():
    said = "gptlab sweep ~/x/a.yaml 'use=[/home/jane/b.py,c/d.py]' norm=rmsnorm data.path=../e/f.txt n=1/2"
    assert shown_command(said) == "gptlab sweep a.yaml 'use=[b.py,c/d.py]' norm=rmsnorm data.path=f.txt n=1/2"


def test_an_archive_of_runs_with_a_single_evaluation_gives_the_same_text(tmp_path):
    for dim in (1, 2):
        for seed in range(3):
            about = learning(loss := 2 + dim / 30 + seed / 7, steps=100, every=100, seed=seed)
            start, end = {"step": 1, "train/loss": 5.5}, about["curve"]
            about["curve"] = [start, *end]
            write_run(tmp_path / f"{dim}-{seed}", loss, seed=seed, size={"dim": dim}, **about)
    text = shown([tmp_path], keep=tmp_path / "kept.json")[1]
    assert "All runs end at equal steps" in text
    assert shown([tmp_path / "kept.json"])[1] == shown([tmp_path])[1]
