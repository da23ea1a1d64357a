"""The GPU check of benchmarks/gpu: its imports from gptlab exist, though most tests have no GPU to run it on."""

import ast
from importlib import import_module

import pytest

from paths import ROOT

FILES = sorted((ROOT / "benchmarks/gpu").rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_everything_that_the_check_imports_from_gptlab_exists(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("gptlab"):
            module = import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name) or import_module(f"{node.module}.{name.name}")


def test_the_check_trains_and_evaluates(tmp_path, monkeypatch):
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks/gpu"))
    common = import_module("common")
    (tmp_path / "text.txt").write_text("to be, or not to be: that is the question. " * 40)
    overrides = (
        f"data=text data.path={tmp_path / 'text.txt'} size=tiny data.window=16 train.batch_size=4 budget.steps=4"
    )
    trainer = common.make_trainer(f"{overrides} eval.tokens=64 device=cpu precision=float32".split())
    losses = common.losses_of(trainer, 2)
    assert len(losses) == 2 and losses[0] > 4 and common.val_loss(trainer) > 4
