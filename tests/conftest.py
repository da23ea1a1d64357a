import sys

import pytest
import torch

from gptlab import load_config, train
from gptlab.config import registry, user_files


def pytest_addoption(parser):
    parser.addoption("--use", action="append", metavar="FILE", help="your own component file, tested as gptlab's are")


def pytest_configure(config):
    registry.load(config.getoption("--use"))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Use one thread: for computations this small, a second one only costs time."""
    torch.set_num_threads(1)


@pytest.fixture
def own_registry(monkeypatch):
    """Forget after each test what it registered or imported."""
    monkeypatch.setattr(registry, "_entries", registry._entries.copy())
    monkeypatch.setattr(user_files, "contents", {})
    monkeypatch.setattr(user_files, "imports", {})
    monkeypatch.setattr(user_files, "components", user_files.components.copy())
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield
    for stem in user_files.contents:
        sys.modules.pop(stem, None)


@pytest.fixture
def text(tmp_path):
    """Words that say to train on a short text."""
    path = tmp_path / "text.txt"
    path.write_text("to be, or not to be: that is the question. " * 40)
    return ["data=text", f"data.path={path}"]


@pytest.fixture
def train_tiny(tmp_path, monkeypatch):
    """Trains a tiny model for six steps on a short text, under tmp_path/runs, and returns the summary."""
    from tiny import configure  # lists the registry, which must be complete by then

    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} green bottles, hanging on the wall.\n" for n in range(40)))
    place = f"data=text data.path={text} runs_dir={tmp_path / 'runs'} wandb.mode=disabled device=cpu"
    place += " precision=float32"  # whatever this machine is fastest at
    size = "size.dim=16 size.n_layer=2 size.n_head=2 data.window=16 model.vocab_size=null"
    steps = "train.batch_size=4 budget.steps=6 train.log_every=1 eval.sample_tokens=0"

    def run(*overrides):
        return train(configure(load_config(), place, size, steps, *overrides), quiet=True)

    return run
