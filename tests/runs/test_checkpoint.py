"""A checkpoint is whole or absent, and holds everything that training needs to go on."""

import copy
import os

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from gptlab import build_model, load_config
from gptlab.config import registry
from gptlab.files import FileError
from gptlab.runs.checkpoint import (
    load_training,
    load_weights,
    read_shapes,
    read_weights,
    save_training,
    save_weights,
)
from gptlab.training.budget import make_budget
from gptlab.training.lr_schedule import make_learning_rate

OPTIMIZERS = registry.names("optimizer")


class Training:
    """A model in training on random tokens; what step n reads depends on n alone."""

    def __init__(self, optimizer):
        cfg = load_config(["size=tiny", "data.window=8", "size.dim=16", f"optimizer={optimizer}", "head.tied=false"])
        self.model = build_model(cfg)
        self.optimizers = registry.build("optimizer", cfg.optimizer).build(self.model.parameters())
        self.learning_rate, self.step = make_learning_rate(cfg, make_budget(cfg).steps), 0

    def train(self, n_steps):
        for _ in range(n_steps):
            tokens = torch.randint(256, (2, 8), generator=torch.Generator().manual_seed(self.step))
            F.cross_entropy(self.model(tokens).flatten(0, 1), tokens.flatten()).backward()
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate.at(self.step, 0)
                optimizer.step()
                optimizer.zero_grad()
            self.step += 1

    def state(self):
        """All tensors and numbers that a next step depends on."""
        names = {p: name for name, p in self.model.named_parameters()}
        of_optimizers = {
            (i, names[p], key): value
            for i, optimizer in enumerate(self.optimizers)
            for p, state in optimizer.state.items()
            for key, value in state.items()
        }
        return copy.deepcopy(dict(self.model.state_dict()) | of_optimizers)


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(b[key])), key


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_six_steps_equal_three_steps_a_restore_and_three_steps(optimizer, tmp_path):
    straight, first, second = (Training(optimizer) for _ in range(3))
    straight.train(6)
    first.train(3)
    progress = {"step": first.step, "best": None, "losses": 0.1 + 0.2}
    save_training(tmp_path / "last.safetensors", first.model, first.optimizers, progress)
    assert load_training(tmp_path / "last.safetensors", second.model, second.optimizers) == progress
    assert_equal(second.state(), first.state())
    second.step = progress["step"]
    second.train(3)
    assert_equal(second.state(), straight.state())


def test_a_checkpoint_before_the_first_step_restores(tmp_path):
    a = Training("adamw")
    save_training(tmp_path / "last.safetensors", a.model, a.optimizers, {"step": 0})
    fresh = Training("adamw")
    assert load_training(tmp_path / "last.safetensors", fresh.model, fresh.optimizers) == {"step": 0}
    assert_equal(fresh.state(), a.state())


@pytest.mark.parametrize("words", ["head.tied=true", "head.tied=false", "position=rope norm=dyt bias=false"])
def test_weights_are_plain_safetensors_under_their_names(words, tmp_path):
    cfg = load_config(["size=tiny", *words.split()])
    model = build_model(cfg)
    save_weights(tmp_path / "best.safetensors", model)
    assert_equal(load_file(tmp_path / "best.safetensors"), dict(model.named_parameters()))
    other = build_model(load_config(["size=tiny", "seed=1", *words.split()]))
    load_weights(tmp_path / "best.safetensors", other)
    assert_equal(dict(other.named_parameters()), dict(model.named_parameters()))


def test_weights_can_be_read_from_a_training_checkpoint(tmp_path):
    training = Training("adamw")
    training.train(1)
    save_training(tmp_path / "last.safetensors", training.model, training.optimizers, {})
    other = Training("adamw")
    load_weights(tmp_path / "last.safetensors", other.model)
    assert_equal(dict(other.model.named_parameters()), dict(training.model.named_parameters()))


def test_weights_of_another_model_are_refused(tmp_path):
    save_weights(tmp_path / "best.safetensors", build_model(load_config(["size=tiny"])))
    with pytest.raises(FileError, match="bias"):
        load_weights(tmp_path / "best.safetensors", build_model(load_config(["size=tiny", "bias=false"])))


@pytest.mark.parametrize("when", ["gptlab.runs.checkpoint.save_file", "os.replace", "os.fsync"])
def test_a_kill_while_writing_leaves_the_old_checkpoint(when, tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    training = Training("adamw")
    training.train(1)
    save_training(path, training.model, training.optimizers, {"step": 1})
    old = path.read_bytes()

    def killed(*args):
        if "save_file" in when:
            args[1].write_bytes(b"half a checkpoint")
        raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(when, killed)
        training.train(1)
        save_training(path, training.model, training.optimizers, {"step": 2})
    assert path.read_bytes() == old
    save_training(path, training.model, training.optimizers, {"step": 2})
    assert load_training(path, training.model, training.optimizers) == {"step": 2}
    assert os.listdir(tmp_path) == ["last.safetensors"]


class Tied(nn.Module):
    """Two layers with the same weight and biases of their own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x))


def test_a_model_with_tied_weights_is_saved_once_and_restored_under_both_names(tmp_path):
    first, second = Tied(), Tied()
    optimizers = [torch.optim.AdamW(model.parameters()) for model in (first, second)]
    first(torch.ones(1, 4)).sum().backward()
    optimizers[0].step()
    path = tmp_path / "last.safetensors"
    save_training(path, first, optimizers[:1], {"step": 1})
    assert {k for k in load_file(path) if not k.startswith("optimizer/")} == {"a.weight", "a.bias", "b.bias"}
    assert read_shapes(path).keys() == first.state_dict().keys() == read_weights(path).keys()
    assert load_training(path, second, optimizers[1:]) == {"step": 1}
    assert second.a.weight is second.b.weight
    assert_equal(dict(second.state_dict()), dict(first.state_dict()))
    state, expected = (o.state[m.a.weight] for o, m in zip(optimizers[::-1], (second, first), strict=True))
    assert torch.equal(state["exp_avg"], expected["exp_avg"])
    save_weights(str(tmp_path / "best.safetensors"), first)
    load_weights(str(tmp_path / "best.safetensors"), third := Tied())
    assert torch.equal(third.b.weight, first.a.weight)


def test_what_a_killed_process_left_behind_is_deleted_by_the_next_save(tmp_path):
    (tmp_path / ".best.safetensors.12345").write_bytes(b"half a checkpoint")
    save_weights(tmp_path / "best.safetensors", Tied())
    assert os.listdir(tmp_path) == ["best.safetensors"]
