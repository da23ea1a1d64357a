"""The set-up of the runs as the report and Markdown describe it, with the machines and commits that differ."""

import json

import pytest

from gptlab.compare import build_comparison
from gptlab.compare.read.anonymise import shown_file
from gptlab.compare.read.runs import MOST_LETTERS
from gptlab.compare.views.markdown import render_markdown
from gptlab.compare.views.report import render_report
from run_folders import ENV, RMS, shown, write_run, write_sweep

TRAINED = {
    "size": {"n_layer": 2, "n_head": 2, "dim": 64},
    "data": {"name": "pystdlib", "window": 64, "val_fraction": 0.1},
    "train": {"batch_size": 12, "grad_clip": 1.0},
    "schedule": {"name": "cosine", "warmup": None},
}
FILE = "# Which norm?\nbase: [data.path=/home/jane/corpus.txt, norm=layernorm]  # ~20 minutes / arm, https://x.org/a\n"


def write(top, *, envs=({}, {}), sample="", **more):
    """Write two arms with two seeds; `envs` are what differs in the env.json of each seed."""
    for arm, norm in {"plain": {}, "rms": RMS}.items():
        for seed, env in enumerate(envs):
            optimizer = {"name": "adamw", "lr": 0.001 if arm == "plain" else 0.01, "beta1": 0.9}
            settings = TRAINED | {"optimizer": optimizer, **more} | norm
            folder = write_run(
                top / f"{arm}-{seed}", 2.0 + seed / 9, seed=seed, variant=arm, summary={"step": 400}, **settings
            )
            (folder / "env.json").write_text(json.dumps(ENV | {"data_hash": "3fa1c2d4" * 8} | env))
            if sample:
                (folder / "sample.txt").write_text(f"{arm} {seed} {sample}")
    write_sweep(top, experiment_file=FILE, variants={"plain": [], "rms": []})
    return top


def facts(path):
    return {fact.name: (fact.text, fact.differs) for fact in build_comparison([path]).setup}


def test_it_says_what_all_runs_share_and_what_differs_between_arms(tmp_path):
    found = facts(write(tmp_path))
    assert found["data"] == ("pystdlib (val_fraction 0.1), sha256 3fa1c2d43fa1c2d4", False)
    assert found["batch"] == ("12 windows, 768 tokens a step", False)
    assert found["schedule"] == ("cosine, warm-up of 150 steps", False)
    assert found["optimizer"] == ("adamw (beta1 0.9; lr 0.001 or 0.01), gradients clipped at 1", True)
    assert found["model"] == ("2 blocks, 2 heads, width 64; 810K parameters, 800K without embeddings", False)
    assert found["length of a run"][0].startswith("400 steps, 76.8K tokens, ")
    assert found["seeds"] == ("0, 1", False) and found["precision"] == ("float32 on the CPU", False)
    assert found["threads"] == ("2 threads", False) and "git commit" not in found  # not recorded


def test_it_says_that_runs_are_of_two_machines_and_two_commits(tmp_path):
    commits = [{"commit": c * 40, "dirty": dirty} for c, dirty in (("a", False), ("b", True))]
    write(tmp_path, envs=[{"git": commits[0]}, {"git": commits[1], "cpu": "Other CPU"}])
    found = facts(tmp_path)
    assert found["machine"] == ("Some CPU (2 runs); Other CPU (2 runs)", True)
    changed = "bbbbbbbbbb, with changes that are not committed (2 runs)"
    assert found["git commit"] == (f"aaaaaaaaaa (2 runs); {changed}", True)
    page, text = (render(build_comparison([tmp_path])) for render in (render_report, render_markdown))
    assert changed in page and page.count("the runs differ in this") == 3
    assert f"- **git commit**: aaaaaaaaaa (2 runs); {changed}" in text
    assert text.index("## What was trained") < text.index("## How to reproduce")


@pytest.mark.parametrize(
    ("warmup", "budget", "said"),
    [(0.1, {}, "40 steps"), (50, {}, "50 steps"), (None, {"seconds": 60}, "0.05 of the run")],
)
def test_the_warm_up_is_in_steps_where_these_do_not_depend_on_the_machine(tmp_path, warmup, budget, said):
    write(tmp_path, schedule={"name": "cosine", "warmup": warmup}, budget=budget)
    assert facts(tmp_path)["schedule"][0] == f"cosine, warm-up of {said}"


def test_the_page_has_the_file_of_the_experiment_without_the_paths_of_the_machine(tmp_path):
    page = render_report(build_comparison([write(tmp_path)]))
    assert "data.path=corpus.txt, norm=layernorm]  # ~20 minutes / arm, https://x.org/a" in page and "jane" not in page
    assert shown_file(shown_file(FILE)) == shown_file(FILE)


def test_a_kept_file_has_the_experiments_file_and_one_sample_of_each_arm_and_gives_the_same_page(tmp_path):
    write(tmp_path / "runs", sample="<b>wrote</b> \x1b[0m\x00" + 9 * "\nx" + "y" * 9000)
    kept = tmp_path / "kept.json"
    shown([tmp_path / "runs"], keep=kept)
    runs, again = (build_comparison([path]) for path in (tmp_path / "runs", kept))
    assert again.samples == runs.samples and again.setup == runs.setup and again.experiment_file == runs.experiment_file
    assert list(runs.samples) == ["plain", "rms"] and runs.samples["rms"].startswith("rms 0 <b>wrote</b> �[0m�\nx")
    assert max(map(len, runs.samples.values())) <= MOST_LETTERS
    assert kept.read_text().count('"sample"') == 2 and "jane" not in kept.read_text()
    page = render_report(again)
    assert "rms 0 &lt;b&gt;wrote" in page and "<b>wrote" not in page and '<details class="sample">' in page


def test_runs_without_samples_and_without_a_file_have_no_such_parts(tmp_path):
    write_run(tmp_path / "a", 2.0)
    page = render_report(build_comparison([tmp_path]))
    assert "What the models wrote" not in page and "The experiment’s file" not in page
