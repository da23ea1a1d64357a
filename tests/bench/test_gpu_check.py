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
