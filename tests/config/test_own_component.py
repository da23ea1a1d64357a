"""A user's new norm in one file of the user's own."""

from pathlib import Path

import pytest

import forked
from gptlab import load_config, train
from gptlab.cli.main import main
from paths import ROOT, TESTS

OWN = '''
import torch
from torch import nn

from gptlab import register


@register("norm", "pnorm_of_mine", source="my notebook")
class PNorm(nn.Module):
    """x / (mean(|x|^p) + eps)^(1/p) * gain"""

    def __init__(self, dim: int, *, p: float = 3.0, eps: float = 1e-5):
        super().__init__()
        self.p, self.eps = p, eps
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x / (x.abs().pow(self.p).mean(-1, keepdim=True) + self.eps).pow(1 / self.p) * self.gain
'''


@pytest.fixture
def own(tmp_path, monkeypatch, own_registry):
    """The file; what importing it leaves behind is undone."""
    file = tmp_path / "my_own_norms.py"
    file.write_text(OWN)
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    return file


def test_it_trains_in_either_slot_of_its_kind(own, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a green bottle hangs on the wall. " * 40)
    size = ["size=tiny", "data.window=16", "train.batch_size=4", "budget.steps=5", "wandb.mode=disabled", "device=cpu"]
    place = [f"use={own}", "data=text", f"data.path={text}", f"runs_dir={tmp_path / 'runs'}"]
    cfg = load_config(["norm=pnorm_of_mine", "norm.p=4", "qk_norm=pnorm_of_mine", *size, *place])
    summary = train(cfg, quiet=True)
    assert summary["state"] == "finished" and summary["val/loss"] < summary["train/loss_initial"]
    folder = Path(summary["run_dir"])
    assert (folder / "components" / own.name).read_text() == OWN
    assert "pnorm_of_mine" in folder.name


def test_it_is_listed_with_its_settings(own, capsys):
    with pytest.raises(SystemExit) as exited:
        main(["list", "norm", f"use={own}"])
    assert exited.value.code == 0
    listed = capsys.readouterr().out
    (line,) = [line for line in listed.splitlines() if "norm=pnorm_of_mine" in line]
    assert "x / (mean(|x|^p) + eps)^(1/p) * gain" in line and "my notebook" in line
    assert "norm.p: float = 3" in listed


def test_it_passes_what_gptlabs_own_norms_are_held_to(own):
    words = ["-rA", "-p", "no:cacheprovider", f"--use={own}", "-k", "pnorm_of_mine"]
    code = "import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
    done = forked.run(code, TESTS / "model/test_components.py", *words, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    for test in ("a_norm_keeps_shape_and_dtype", "gradients_are_those_of_the_function", "bias_false_leaves_no_bias"):
        assert f"test_components.py::test_{test}[" in done.stdout
