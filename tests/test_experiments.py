"""Every experiment file asks a question in its first line, composes, and runs briefly."""

from pathlib import Path

import pytest

from gptlab.cells import plan_sweep, read_experiment
from gptlab.compose import load_config
from gptlab.run import train

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "experiments").glob("*/*.yaml"))
BRIEF = [
    "size=tiny",
    "match.tolerance=0.5",
    "data.window=16",
    "budget.steps=2",
    "eval.tokens=64",
    "eval.every=2",
    "wandb.mode=disabled",
]


@pytest.mark.parametrize("path", FILES, ids=[p.stem for p in FILES])
def test_experiment(path, tmp_path):
    experiment = read_experiment(path)
    assert experiment.question and experiment.question.endswith("?")
    assert path.stem == path.parent.name
    planned = plan_sweep([str(path), *BRIEF, f"runs_dir={tmp_path}"])
    assert len(planned.arms) == len(experiment.variants) or experiment.ladder
    assert len(planned.cells) == len(planned.arms) * len(experiment.seeds)
    for cell in planned.cells[: len(planned.arms)]:
        assert train(load_config(cell), quiet=True)["state"] == "finished"
