"""Every experiment asks a question and runs, and every result is made again from the kept numbers."""

import importlib.util
import json
from pathlib import Path

import pytest

from gptlab.compare import build_comparison
from gptlab.compare.analysis.comparison import Published, PublishedLine
from gptlab.config.compose import load_config
from gptlab.sweeps.experiment import read_experiment
from gptlab.sweeps.grid import plan_sweep
from gptlab.training.train import train
from paths import ROOT
from tiny import TINY_RUN

FILES = sorted((ROOT / "experiments").glob("*/*.yaml"))
RESULTS = ROOT / "experiments" / "results.py"
BRIEF = [*TINY_RUN, "eval.every=2"]


@pytest.mark.parametrize("path", FILES, ids=[p.stem for p in FILES])
def test_experiment(path, tmp_path):
    experiment = read_experiment(path)
    assert experiment.question and experiment.question.endswith("?")
    assert path.stem == path.parent.name
    tolerance = ["match.tolerance=0.5"] if "match=params" in experiment.base else []  # few widths at this size
    planned = plan_sweep([str(path), *BRIEF, *tolerance, f"runs_dir={tmp_path}"])
    made = experiment.ladder or experiment.knock_out or experiment.grid  # of other values than those of variants
    assert made or len(planned.arms) == len(experiment.variants)
    assert len(planned.cells) == len(planned.arms) * len(experiment.seeds.seeds)
    for cell in planned.cells[: len(planned.arms)]:
        # The warm-up would be longer than the run, and a variant may have a budget of its own.
        brief = [o for o in cell.overrides if not o.startswith(("schedule.warmup=", "budget."))]
        assert train(load_config([*brief, "budget.steps=2", "schedule.warmup=null"]), quiet=True)["state"] == "finished"


def script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_coordinate_check_of_mup_measures_every_part_at_every_step(monkeypatch, tmp_path):
    check = script(ROOT / "experiments" / "mup" / "coordinates.py")
    for name, value in {"WIDTHS": (16, 32), "SEEDS": 1, "KEPT": tmp_path / "kept.json"}.items():
        monkeypatch.setattr(check, name, value)
    check.measure()
    rms, _, _ = check.kept()
    assert len(rms) == len(check.INITS) * 2 * check.STEPS * len(check.PARTS) and (rms > 0).all()
    assert set(check.main()) == {"RESULTS.md", "results.png"}


def test_the_replay_of_looks_says_what_compare_says_of_the_same_runs(tmp_path):
    folder = ROOT / "experiments" / "same_arm"
    archive, seeds, last = json.loads((folder / "kept.json").read_text()), range(7, 19), 12
    archive["sweep"]["planned"] = {"seeds": list(seeds), "arms": 4, "metric": None, "margin": None, "first_look": 3}
    archive["runs"] = [run for run in archive["runs"] if run["config"]["seed"] in seeds]
    (tmp_path / "kept.json").write_text(json.dumps(archive))
    comparison = build_comparison([tmp_path / "kept.json"])
    replay = script(folder / "replay.py")
    rates = [result.arm.runs[0].config["optimizer"]["lr"] for result in comparison.results]
    runs = [[(rate, seed) for seed in seeds] for rate in rates]
    effects = replay.Kept(folder / "kept.json").effects(runs, comparison.margin, last)
    for effect, result in zip(effects, comparison.results[1:], strict=True):
        seen = result.effect
        looked, found = effect.progress, seen.progress
        assert (effect.word, looked.seeds, looked.state) == (seen.word, found.seeds, found.state)
        assert (effect.low, effect.high, effect.p_holm) == pytest.approx((seen.low, seen.high, seen.p_holm))
        assert found.seeds < last  # the looks have mattered


def test_results_are_made_again_from_the_kept_numbers(tmp_path):
    """Check every table and the page of verdicts to the letter; pictures depend on the installed fonts."""
    results = script(RESULTS)
    results.draw = results.draw_rungs = lambda comparison, file_format: b""
    results.main(tmp_path)
    made = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*.*"))
    assert Path("README.md") in made and len(made) > 10
    for path in made:
        kept = RESULTS.parent / path
        assert kept.is_file(), f"{path}: run `make results`"
        if path.suffix == ".md":
            assert kept.read_text() == (tmp_path / path).read_text(), f"{path}: run `make results`"


def test_the_page_has_a_row_for_each_question_and_one_line_for_those_that_are_planned():
    page = script(RESULTS.parent / "page.py")
    row = page.ROW | {
        "question": "Does it help?",
        "baseline": "a",
        "verdicts": "**better**: b",
        "sizes": [35712, 8.3e5],
    }
    published = Published([PublishedLine("b", "-0.1", "better", "better", "agrees")], None)
    rows = {
        "old": row | {"short": True},
        "new": row | {"runs": 7, "seconds": 120, "published": {"dim-32": published, "dim-64": published}},
        "rate_of_all": row,
    }
    text = page.page(rows, ["later", "soon"], "## Prose", "## Older")
    asked, checked = text.split("## How the lab was checked")
    assert "| [Does it help?](new/RESULTS.md) | a | **better**: b |  | 0.036M, 0.83M | 7 runs, 2 min |" in asked
    assert asked.index("(new/RESULTS.md)") < asked.index("(old/RESULTS.md) †") < asked.index("## Prose")
    assert "Planned, not yet run: later, soon." in asked and "(rate_of_all/RESULTS.md)" in checked
    assert "- [new](new/RESULTS.md) at dim-64: of 1 finding 1 agree, 0 disagree, 0 not shown." in asked
    assert text.endswith("## Older\n")


def test_the_kept_numbers_and_pictures_are_small():
    kept = [*RESULTS.parent.rglob("kept.json"), *RESULTS.parent.rglob("*.png")]
    assert sum(p.stat().st_size for p in kept) < 2e7  # bytes
