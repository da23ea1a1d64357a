"""The baseline of a sweep is its first arm as written, or the one that its file names.

It is the same for the plan, sweep.yaml, match= and compare.
"""

import json
from pathlib import Path

import pytest

from gptlab.compare import build_comparison
from gptlab.config import plain
from gptlab.config.compose import load_config
from gptlab.files import write_json
from gptlab.sweeps.cell import check_sweep
from gptlab.sweeps.grid import plan_sweep
from gptlab.sweeps.manifest import write_manifest
from gptlab.sweeps.plan import plan_document
from gptlab.training.train import train

TINY = ["size=tiny", "data=text", "data.path=text.txt", "data.window=16", "tokenizer=byte", "wandb.mode=disabled"]
SHORT = [*TINY, "device=cpu", "precision=float32", "budget.steps=1", "train.batch_size=2", "eval.tokens=48"]
SHORT += ["diagnostics=none"]
VARIANTS = """base: []
variants: {geglu: [ffn=geglu], gelu: [], relu: [ffn=relu]}
"""
GRID = ["norm=rmsnorm,layernorm", "ffn=swiglu,gelu", "placement=post,pre", "size.n_layer=2,1"]

# what is written -> the options of the plan, and the baseline's name
WRITTEN = {
    "values": (["ffn=swiglu,geglu"], {}, "ffn=swiglu"),
    "values, the default last": (["norm=rmsnorm,layernorm"], {}, "norm=rmsnorm"),
    "a grid": (["ffn=swiglu,gelu", "norm=rmsnorm,layernorm"], {}, "ffn=swiglu norm=rmsnorm"),
    "a fraction": (GRID, {"fraction": 0.5}, "ffn=swiglu norm=rmsnorm placement=post size.n_layer=2"),
    "a ladder": (["preset=llama", "preset=gpt2"], {"ladder": True}, "preset=llama"),
    "a knock-out": (["preset=gpt2", "preset=llama"], {"knock_out": True}, "preset=llama"),
    "variants": (["file.yaml"], {}, "geglu"),
    "variants, one of them named": (["named.yaml"], {}, "relu"),
    "named variants in a grid": (["named.yaml", "norm=rmsnorm,layernorm"], {}, "relu"),
    "named variants, matched": (["named.yaml", "match=params", "match.tolerance=0.05"], {}, "relu"),
    "variants in a grid": (["file.yaml", "norm=rmsnorm,layernorm"], {}, "geglu"),
    "tuned": (["ffn=swiglu,geglu"], {"tune": ["optimizer.lr=1e-3,3e-3"]}, "ffn=swiglu"),
    "tuned variants": (["file.yaml"], {"tune": ["optimizer.lr=1e-3,3e-3"]}, "geglu"),
    "matched": (["ffn=swiglu,gelu", "match=params", "match.tolerance=0.05"], {}, "ffn=swiglu"),
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Plan a sweep of WRITTEN in an empty folder, and return its arguments, options and the name of its baseline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "file.yaml").write_text(VARIANTS)
    (tmp_path / "named.yaml").write_text(f"{VARIANTS}baseline: relu\n")
    (tmp_path / "text.txt").write_text("to be, or not to be: that is the question. " * 40)

    def plan(kind):
        words, options, name = WRITTEN[kind]
        return [*words, *SHORT, "name=s", "seed=0,1"], options, name

    return plan


def run_backwards(checked):
    """Train the cells in the reverse of their order, as a launcher may."""
    for second, cell in enumerate(checked.cells[::-1]):
        train(load_config(cell.spec.overrides), quiet=True)
        status = cell.folder / "status.json"
        write_json(status, json.loads(status.read_text()) | {"started": f"2026-01-01T00:{second:02}"})


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_plan_and_the_file_name_the_first_arm(written, kind):
    arguments, options, name = written(kind)
    assert sorted(plan_document(arguments, **options)["baseline"].split()) == name.split()
    plan = plan_sweep(arguments, **options)
    checked = check_sweep(plan)
    chosen = {arm: grid.combinations[0] for arm, grid in plan.grids.items()}
    write_manifest(checked, chosen=chosen if plan.tune else None)
    sweep = json.loads(Path("runs/s/sweep.yaml").read_text())
    assert sweep["baseline"] == plan.arms[0].name and len(sweep["arms"]) == len(plan.arms)
    by_folder = {entry["folder"]: entry["label"] for entry in sweep["cells"]}
    labels = [by_folder[folder] for folder in sweep["arms"][0]]
    cells = plan.cells_with(chosen) if plan.tune else plan.cells
    assert labels == [cell.label for cell in cells if cell.arm is plan.arms[0]]


def test_an_arm_that_is_yet_to_be_tuned_has_no_runs(written):
    arguments, options, _ = written("tuned")
    write_manifest(check_sweep(plan_sweep(arguments, **options)))
    assert json.loads(Path("runs/s/sweep.yaml").read_text())["arms"] == [[], []]


COMPARED = ["values", "values, the default last", "a grid", "variants", "variants, one of them named", "matched"]


@pytest.mark.parametrize("kind", [*COMPARED, "named variants, matched"])
def test_compare_takes_the_same_one_whichever_started_first(written, kind):
    arguments, options, name = written(kind)
    checked = check_sweep(plan_sweep(arguments, **options))
    write_manifest(checked)
    run_backwards(checked)
    for defaults in (None, plain(load_config())):
        results = build_comparison(["runs/s"], defaults=defaults).results
        assert set(name.split()) <= set(results[0].name.split())
        folders = {run.folder.name for run in results[0].arm.runs}
        assert folders == {cell.folder.name for cell in checked.cells if cell.spec.arm is checked.plan.arms[0]}
    if "matched" in kind:
        assert checked.cells[0].match.width == checked.cells[0].match.width_before  # the others are fitted to it


def test_the_command_that_was_given_last_names_the_baseline(written):
    for arms, name in (("swiglu,geglu", "ffn=swiglu"), ("geglu,swiglu", "ffn=geglu")):
        checked = check_sweep(plan_sweep([f"ffn={arms}", *SHORT, "seed=0,1", "name=s"]))
        write_manifest(checked)
        run_backwards(checked)
        assert build_comparison(["runs/s"]).results[0].name == name
