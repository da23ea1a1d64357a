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


def gptlab(installed: Path, cwd: Path, *commands: str) -> str:
    """Run commands in one process, with the wheel's package instead of the checkout's; return what they print."""
    code = """
import sys
from gptlab.cli.main import main
for command in sys.argv[1:]:
    try:
        main(command.split())
    except SystemExit as e:
        assert e.code == 0, (command, e.code)
"""
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *commands]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_lists_writes_checks_and_trains_in_another_folder(installed, tmp_path):
    train = " ".join(["train", *TINY_RUN, "budget.steps=5 wandb.mode=offline use=my_norms.py"])
    out = gptlab(installed, tmp_path, "list preset", "new norm my_norms.py", "check use=my_norms.py", train)
    assert "karpathy-10m" in out and "val/loss" in out and (tmp_path / "my_norms.py").is_file()
    assert list(tmp_path.glob("runs/default/*/summary.json"))


def test_the_wheel_holds_the_package_and_its_conf_and_no_more(installed):
    top = {p.name for p in installed.iterdir()}
    assert top == {"gptlab", next(n for n in top if n.endswith(".dist-info"))}
    files = {str(p.relative_to(ROOT)) for p in (ROOT / "conf").rglob("*.yaml")}
    assert files == {str(p.relative_to(installed / "gptlab")) for p in (installed / "gptlab/conf").rglob("*.yaml")}
