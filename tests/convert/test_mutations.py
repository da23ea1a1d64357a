"""The parity tests notice mistakes: each of mutations.py, put into a copy of gptlab, makes them fail."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gptlab
from mutations import MUTATIONS, PARITY
from paths import TESTS

PACKAGE = Path(gptlab.__file__).parent
EACH = [pytest.param(m, family, id=f"{m.name} ({family})") for m in MUTATIONS for family in m.families.split()]


@pytest.fixture
def copy(tmp_path):
    for folder in (PACKAGE, PACKAGE.parent / "conf"):
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(copy, *arguments):
    env = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=copy, env=env, capture_output=True, text=True)


def run_tests(copy, tests, words):
    options = ("-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", words)
    return run(copy, "-m", "pytest", f"{TESTS}/{tests}", *options)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_a_mutation_changes_one_place(mutation):
    assert (PACKAGE / mutation.file).read_text().count(mutation.old) == 1
    assert mutation.new != mutation.old


@pytest.mark.slow
def test_a_copy_is_what_is_tested_and_passes_as_it_is(copy):
    imported = run(copy, "-c", "import gptlab.convert; print(gptlab.__file__)").stdout
    assert Path(imported.strip()).is_relative_to(copy)
    assert run_tests(copy, PARITY, "[gpt2-").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("mutation", "family"), EACH)
def test_a_mutation_is_noticed(mutation, family, copy):
    file = copy / "gptlab" / mutation.file
    file.write_text(file.read_text().replace(mutation.old, mutation.new))
    done = run_tests(copy, mutation.tests, f"[{family}-" if mutation.tests == PARITY else family)
    # By an assertion: an error in what was written would say nothing about the test.
    assert done.returncode == 1 and re.search(r"^\S+\.py:\d+: (Assertion|assert)", done.stdout, re.MULTILINE), (
        done.stdout
    )
