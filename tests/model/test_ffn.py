import math

import pytest
import torch
from scipy.special import erf

from gptlab.model.ffn import gain_of
from tiny import component, noise


def gelu(x):
    return 0.5 * x * (1 + torch.from_numpy(erf((x / math.sqrt(2)).numpy())))


def gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


PLAIN = {
    "relu": lambda x: x.clamp(min=0),
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": lambda x: x * sigmoid(x),
    "relu2": lambda x: x.clamp(min=0) ** 2,
}
GATED = {
    "glu": sigmoid,
    "reglu": PLAIN["relu"],
    "geglu": gelu,
    "geglu_tanh": gelu_tanh,
    "swiglu": PLAIN["silu"],
    "bilinear": lambda x: x,
}


def drawn(name, **given):
    ffn = component("ffn", name, **given).double().requires_grad_(False)
    for p in ffn.parameters():
        p.copy_(noise(*p.shape))
    return ffn


@pytest.mark.parametrize("name", PLAIN)
def test_plain_is_the_equation(name):
    ffn, x = drawn(name), noise(2, 5, 16)
    h = PLAIN[name](x @ ffn.up.weight.T + ffn.up.bias)
    torch.testing.assert_close(ffn(x), h @ ffn.down.weight.T + ffn.down.bias)


@pytest.mark.parametrize("name", GATED)
def test_gated_is_the_equation(name):
    ffn, x = drawn(name), noise(2, 5, 16)
    h = GATED[name](x @ ffn.gate.weight.T + ffn.gate.bias) * (x @ ffn.up.weight.T + ffn.up.bias)
    torch.testing.assert_close(ffn(x), h @ ffn.down.weight.T + ffn.down.bias)


@pytest.mark.parametrize(
    ("knobs", "width"),
    [
        ({}, 64),
        ({"expansion": 3.0}, 48),
        ({"expansion": 2.6, "multiple_of": 1}, 42),  # 41.6
        ({"multiple_of": 48}, 48),  # 64 is nearer to it than to 96
        ({"multiple_of": 256}, 256),  # never none
        ({"hidden": 5}, 5),
    ],
)
def test_the_width_of_a_plain_ffn(knobs, width):
    assert component("ffn", "gelu", **knobs).up.out_features == width


def test_a_gated_ffn_has_the_width_of_llama():
    assert component("ffn", "swiglu", dim=4096, multiple_of=256).up.out_features == 11008
    assert component("ffn", "swiglu", dim=768).up.out_features == 2048


@pytest.mark.parametrize(("knob", "value"), [("hidden", 0), ("expansion", 0.0), ("multiple_of", 0)])
def test_a_width_of_nothing_is_refused(knob, value):
    with pytest.raises(ValueError, match=rf"^ffn\.{knob}={value}: must be"):
        component("ffn", "gelu", **{knob: value})


@pytest.mark.parametrize("name", [*PLAIN, *GATED])
def test_the_gain_keeps_the_second_moment(name):
    activation = (PLAIN | GATED)[name]
    z = noise(1_000_000)
    moment = activation(z).square().mean().item()
    assert gain_of(component("ffn", name).activation) == pytest.approx(moment**-0.5, rel=0.02)


def test_the_gain_of_relu_is_the_root_of_two():
    assert gain_of(torch.relu) == pytest.approx(math.sqrt(2), rel=1e-6)
