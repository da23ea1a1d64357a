"""The wheel: an installation by pip works in any folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from paths import ROOT
from tiny import TINY_RUN


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the content of the wheel, outside of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("gptlab-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def gptlab(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess:
    """Run the console script with the wheel's package instead of the checkout's."""
    code = "import sys, gptlab.cli.main; sys.argv[0] = 'gptlab'; gptlab.cli.main.main()"
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_wheel_lists_and_trains_in_another_folder(installed, tmp_path):
    listed = gptlab(installed, tmp_path, "list", "preset")
    assert listed.returncode == 0 and "karpathy-10m" in listed.stdout, listed.stderr
    trained = gptlab(installed, tmp_path, "train", *TINY_RUN, "budget.steps=5", "wandb.mode=offline")
    assert trained.returncode == 0 and "val/loss" in trained.stdout, trained.stderr
    assert list(tmp_path.glob("runs/default/*/summary.json"))


def test_the_wheel_has_the_templates_of_new_components(installed, tmp_path):
    written = gptlab(installed, tmp_path, "new", "norm", "my_norms.py")
    assert written.returncode == 0 and (tmp_path / "my_norms.py").is_file(), written.stderr
    checked = gptlab(installed, tmp_path, "check", "use=my_norms.py")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_wheel_holds_the_package_and_its_conf_and_no_more(installed):
    top = {p.name for p in installed.iterdir()}
    assert top == {"gptlab", next(n for n in top if n.endswith(".dist-info"))}
    files = {str(p.relative_to(ROOT)) for p in (ROOT / "conf").rglob("*.yaml")}
    assert files == {str(p.relative_to(installed / "gptlab")) for p in (installed / "gptlab/conf").rglob("*.yaml")}
