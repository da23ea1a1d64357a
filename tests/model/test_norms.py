from pathlib import Path

import pytest
import torch

import gptlab.model.norm as norm_module
from gptlab.config import ConfigError
from gptlab.runs.load import open_model
from tiny import VOCAB, component, noise, telling_model, tiny_model, tokens


def with_parameters(module):
    """In float64, with parameters that are neither 1 nor 0."""
    module = module.double()
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(noise(3 + i, *p.shape)[i] + 0.5)
    return module


@pytest.mark.parametrize("scale", [1.0, 1e-3])  # at 1e-3 it shows where eps stands
@pytest.mark.parametrize("eps", [1e-5, 1e-3])
@pytest.mark.parametrize("bias", [True, False])
def test_layernorm_is_torchs(bias, eps, scale):
    ours = with_parameters(component("norm", "layernorm", bias=bias, eps=eps))
    theirs = torch.nn.LayerNorm(16, eps=eps, bias=bias, dtype=torch.float64)
    theirs.load_state_dict({"weight": ours.gain} | ({"bias": ours.bias} if bias else {}))
    x = scale * noise(2, 5, 16) + scale
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("eps", [1e-6, 1e-3])
def test_rmsnorm_is_the_equation(eps, scale):
    norm, x = with_parameters(component("norm", "rmsnorm", eps=eps)), scale * noise(2, 5, 16) + scale
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * norm.gain)


@pytest.mark.parametrize("bias", [True, False])
def test_dyt_is_the_equation(bias):
    norm, x = with_parameters(component("norm", "dyt", bias=bias)), noise(2, 5, 16)
    torch.testing.assert_close(norm(x), torch.tanh(norm.alpha * x) * norm.gain + (norm.bias if bias else 0))


def test_dyt_starts_at_its_alpha():
    assert component("norm", "dyt", alpha=0.8).alpha.item() == pytest.approx(0.8)


@pytest.mark.parametrize("name", ["layernorm", "rmsnorm"])
def test_a_norm_that_learns_nothing_has_no_parameters_and_normalises(name):
    norm, x = component("norm", name, learnable=False), noise(2, 5, 16).float()
    assert not list(norm.parameters())
    torch.testing.assert_close(norm(x).square().mean(-1), torch.ones(2, 5), rtol=0, atol=1e-4)


def test_norm_none_returns_its_input():
    x = noise(2, 5, 16)
    assert component("norm", "none")(x) is x


@pytest.mark.parametrize("name", ["layernorm", "rmsnorm"])
def test_a_zero_centered_gain_is_one_plus_the_parameter(name):
    plain, centered = (with_parameters(component("norm", name, zero_centered=flag)) for flag in (False, True))
    x = noise(2, 5, 16)
    with torch.no_grad():
        centered.gain.sub_(1)
    torch.testing.assert_close(centered(x), plain(x))


def test_a_zero_centered_rmsnorm_is_gemmas():
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm

    ours, theirs = with_parameters(component("norm", "rmsnorm", zero_centered=True, eps=1e-3)), Gemma2RMSNorm(16, 1e-3)
    theirs.double().load_state_dict({"weight": ours.gain})
    x = noise(2, 5, 16)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)  # theirs computes in float32


@pytest.mark.parametrize("slot", ["norm", "qk_norm"])
@pytest.mark.parametrize("name", ["layernorm", "rmsnorm"])
def test_a_zero_centered_gain_starts_at_zero_and_the_model_as_without(name, slot):
    plain, centered = (tiny_model(f"{slot}={name}", f"{slot}.zero_centered={flag}") for flag in ("false", "true"))
    changed = [n for n, p in plain.named_parameters() if not torch.equal(p, centered.get_parameter(n))]
    assert changed and all(n.endswith("gain") and (centered.get_parameter(n) == 0).all() for n in changed)
    torch.testing.assert_close(centered(tokens()), plain(tokens()), rtol=0, atol=0)


@pytest.mark.parametrize("slot", ["norm", "qk_norm"])
@pytest.mark.parametrize("name", ["layernorm", "dyt"])
def test_norm_bias_false_removes_only_the_norms_biases(name, slot):
    """None of the slot's own; every other tensor is there and the same."""
    norms = ["norm=rmsnorm", "qk_norm=rmsnorm", f"{slot}={name}"]
    full, less = (telling_model(*norms, *off) for off in ((), (f"{slot}.bias=false",)))
    gone = {n: p for n, p in full.named_parameters() if n not in dict(less.named_parameters())}
    assert gone.keys() == {n for n in dict(full.named_parameters()) if "norm" in n and n.endswith(".bias")} != set()
    assert (full(tokens()) - less(tokens())).abs().max() > 1e-4
    with torch.no_grad():
        kept = {n: p.clone() for n, p in gone.items()}
        for p in gone.values():
            p.zero_()
        torch.testing.assert_close(full(tokens()), less(tokens()))
        for n, p in gone.items():  # other tests have the same model
            p.copy_(kept[n])


def test_zero_centered_needs_a_gain():
    with pytest.raises(ValueError, match=r"^norm.zero_centered=true: needs a gain to centre; set"):
        component("norm", "rmsnorm", zero_centered=True, learnable=False)


# batchnorm


def the_table_in_the_docs():
    """x, and what layernorm and batchnorm make of it, (4, 3) each: two windows of two positions."""
    lines = [line for line in norm_module.__doc__.splitlines() if "window " in line]
    numbers = torch.tensor([[float(n) for n in line.split("position", 1)[1].split()[1:]] for line in lines])
    return numbers.split(3, 1)


def test_the_table_in_the_docstring_is_right():
    x, layernorm, batchnorm = the_table_in_the_docs()
    for name, expected in (("layernorm", layernorm), ("batchnorm", batchnorm)):
        y = component("norm", name, dim=3, eps=1e-12)(x.view(2, 2, 3))
        torch.testing.assert_close(y.view(4, 3), expected, rtol=0, atol=5e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_batchnorm_is_torchs(momentum, bias):
    """In training, in the averages that it keeps, and in evaluation with these."""
    ours = with_parameters(component("norm", "batchnorm", bias=bias, momentum=momentum, eps=1e-3))
    theirs = torch.nn.BatchNorm1d(16, eps=1e-3, momentum=momentum, dtype=torch.float64)
    theirs.weight.data, theirs.bias.data = ours.gain.data, ours.bias.data if bias else torch.zeros(16).double()
    for _ in range(3):
        x = noise(4, 5, 16) * 3 + 1
        torch.testing.assert_close(ours(x), theirs(x.flatten(0, 1)).view_as(x))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x.flatten(0, 1)).view_as(x))


@pytest.mark.parametrize(
    ("knob", "rule"),
    [
        ("momentum=0.0", "must be above 0 and at most 1"),
        ("momentum=1.5", "must be above 0 and"),
        ("eps=0", "must be above 0"),
    ],
)
def test_batchnorm_refuses_impossible_settings(knob, rule):
    name, value = knob.split("=")
    with pytest.raises(ConfigError, match=f"^norm.{knob}: {rule}"):
        component("norm", "batchnorm", **{name: float(value) if "." in value else int(value)})


@pytest.mark.parametrize("words", ["norm=batchnorm norm.allow_leak=true", "model=mlp norm=batchnorm"])
def test_the_leak_of_batchnorm_is_there_in_training_alone(words):
    """The last token of one window changes the logits of the first token of another, by way of the statistics."""
    model, changed = telling_model(words), tokens()
    changed[1, -1] = (changed[1, -1] + 1) % VOCAB
    try:
        leak = (model.train()(tokens()) - model(changed))[0, 0].abs().max()
    finally:
        model.eval()
    assert leak > 1e-6
    assert torch.equal(model(tokens())[0], model(changed)[0])


@pytest.mark.parametrize("model", ["gpt", "rnn"])
def test_the_leak_is_refused_unless_allowed(model):
    for slot in ("norm", "qk_norm") if model == "gpt" else ("norm",):
        with pytest.raises(ConfigError, match=f"^{slot}=batchnorm: .*; set {slot}.allow_leak=true to use"):
            tiny_model(f"model={model} {slot}=batchnorm")
        tiny_model(f"model={model} {slot}=batchnorm {slot}.allow_leak=true")


@pytest.mark.parametrize("precision", ["float32", "bf16", "bf16_weights"])
def test_the_running_averages_are_learned_and_kept(precision, train_tiny):
    summary = train_tiny("model=mlp", "norm=batchnorm", f"precision={precision}", "budget.steps=30")
    norm = open_model(Path(summary["run_dir"])).norm
    assert norm.running_var.dtype == torch.float32
    assert (norm.running_mean != 0).all()
    assert norm.running_var.max() < 0.9**30 + 0.1  # of the 1 that they begin with; what comes in varies by less
