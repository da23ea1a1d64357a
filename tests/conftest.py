import pytest
import torch

from gptlab import load_config, registry, train


def pytest_addoption(parser):
    parser.addoption("--use", action="append", metavar="FILE", help="a component file of your own, tested like gptlab's")


def pytest_configure(config):
    registry.load(config.getoption("--use"))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """What the tests compute is so small that a second thread only costs."""
    torch.set_num_threads(1)


@pytest.fixture
def train_tiny(tmp_path, monkeypatch):
    """Trains a tiny model for six steps on a short text, under tmp_path/runs, and returns the summary."""
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} green bottles, hanging on the wall.\n" for n in range(40)))
    size = ["size.dim=16", "size.n_layer=2", "size.n_head=2", "data.window=16", "train.batch_size=4", "budget.steps=6"]
    place = ["data=text", f"data.path={text}", f"runs_dir={tmp_path / 'runs'}", "wandb.mode=disabled"]
    logs = ["train.log_every=1", "device=cpu"]

    def run(*overrides):
        return train(load_config([*size, *place, *logs, *overrides]), quiet=True)

    return run
