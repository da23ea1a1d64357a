"""A module imports only what stands left of it, so that data flows one way."""

import ast
from pathlib import Path

import pytest

import gptlab

ROOT = Path(gptlab.__file__).parent
# What stands together on a line is one package or stands side by side.
ORDER = """
config
registry
check sizes allocator signals gpus
data
compose
components differences
parallel
checkpoint listing completion
run_folder
model
measure drawing loss working_copy
match
plan evaluate environment progress
wandb_run
trackio_run
record
diagnostics
lock
sample show
convert
init_from
trainer
run
experiment fraction ladder
cells sweep_display
probe
launcher
cell
tuning sweep_file
sweep status
compare dashboard bench
verbs
cli
__init__ __main__
"""
RANK = {name: rank for rank, line in enumerate(ORDER.strip().splitlines()) for name in line.split()}
MODULES = sorted(ROOT.rglob("*.py"))


def part(path):
    """gptlab/data/bpe.py -> data"""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path):
    """The parts of gptlab that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
        else:
            continue
        for module in modules:
            words = module.split(".")
            if words[0] == "gptlab":
                yield words[1] if len(words) > 1 and words[1] in RANK else "__init__"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_stands_left_of_it(path):
    own = part(path)
    wrong = {name for name in imported(path) if RANK[name] > RANK[own] or (RANK[name] == RANK[own] and name != own)}
    assert not wrong


def test_every_module_has_its_place():
    assert set(RANK) == {part(p) for p in MODULES}
