"""Gradients, of inputs and of every parameter, are those of the function: against differences, in float64.

Inputs and weights are such that nothing stands within a difference of where ReLU or a clip has a kink.
"""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

from gptlab.config import registry
from tiny import ATTENTIONS, OTHER_KNOBS, POSITIONS, WIRINGS, component, noise, telling_model

SMALL = "size.dim=4 size.n_head=2 data.window=5 model.vocab_size=5 ffn.expansion=2"
FOUR_HEADS = "size.dim=8 size.n_head=4 data.window=5 model.vocab_size=5"
EXCEPT_1 = torch.tensor([[0, 2, 4, 2, 3]])  # tokens


class Call(nn.Module):
    """f(module, *inputs) as a module, of which functional_call can exchange the parameters."""

    def __init__(self, module, f):
        super().__init__()
        self.module, self.f = module, f

    def forward(self, *inputs):
        return self.f(self.module, *inputs)


def assert_gradients(module, *inputs, f=lambda m, *inputs: m(*inputs), fast=False):
    """`fast`: along one random direction, instead of every entry of the Jacobian."""
    call = Call(module, f)
    names = [name for name, _ in call.named_parameters()]
    leaves = [t.detach().clone().requires_grad_() for t in (*inputs, *call.parameters())]

    def function(*tensors):
        given, parameters = tensors[: len(inputs)], tensors[len(inputs) :]
        return functional_call(call, dict(zip(names, parameters, strict=True)), given)

    assert any(t.numel() for t in leaves)
    assert gradcheck(function, leaves, fast_mode=fast)


def drawn(slot, name, **given):
    """A component in float64 with weights that are large enough to show."""
    module = component(slot, name, **{"dim": 4, "vocab_size": 5, "max_len": 5} | given).double()
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(noise(3 + i, *p.shape)[-1] + 0.5)
    return module


def a_norm(dim=4):
    return drawn("norm", "rmsnorm", dim=dim)


def of(kind, *knobs):
    """Every registered component of a kind as it is, then gptlab's own with knobs."""
    return [(name, {}) for name in registry.names(kind)] + list(knobs)


KNOBS = [
    *[("norm", name, {"zero_centered": True}) for name in ("layernorm", "rmsnorm")],
    *[("norm", name, {"learnable": False}) for name in ("layernorm", "rmsnorm")],
    *[("norm", name, {"bias": False}) for name in ("layernorm", "dyt")],
    *[("ffn", name, {"bias": False}) for name in ("gelu", "swiglu")],
]


@pytest.mark.parametrize(("slot", "name", "knobs"), KNOBS)
def test_gradients_of_norm_and_ffn_settings(slot, name, knobs):
    """test_components.py checks every norm and FFN with its default settings."""
    assert_gradients(drawn(slot, name, **knobs), noise(2, 3, 4))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_gradients_of_attention(attention):
    model = telling_model(FOUR_HEADS, "position=none", attention)
    assert_gradients(model.blocks[1].attention, noise(2, 5, 8), f=lambda m, x: m(x, model.position), fast=True)


@pytest.mark.parametrize("position", POSITIONS)
def test_gradients_of_attention_with_positions(position):
    model = telling_model(SMALL, "attention.head_dim=4", position)
    assert_gradients(model.blocks[1].attention, noise(2, 5, 4), f=lambda m, x: m(x, model.position), fast=True)


@pytest.mark.parametrize("position", POSITIONS)
def test_gradients_of_positions_in_the_stream(position):
    model = telling_model(SMALL, "attention.head_dim=4", position)
    assert_gradients(model.position, noise(2, 3, 4), f=lambda m, x: m.embed(x, 1))


EMBEDDINGS = of(
    "embedding",
    ("table", {"scale": 3.0, "scale_by_width": True}),
    ("table", {"normed": True}),
    ("table", {"width": 3, "normed": True}),
    ("table", {"padding_idx": 1}),
)


@pytest.mark.parametrize(("name", "knobs"), EMBEDDINGS)
def test_gradients_of_the_embedding(name, knobs):
    assert_gradients(drawn("embedding", name, norm=a_norm, **knobs), f=lambda m: m(EXCEPT_1))


HEADS = of(
    "head",
    ("linear", {"tied": False, "bias": True, "scale": 0.3, "softcap": 2.0}),
    ("linear", {"width": 3}),
    ("linear", {"tied": False, "width": 3}),
)


@pytest.mark.parametrize(("name", "knobs"), HEADS)
def test_gradients_of_the_head(name, knobs):
    assert_gradients(drawn("head", name, **knobs), noise(2, 3, 4), noise(5, knobs.get("width", 4)))


@pytest.mark.parametrize("name", registry.names("placement"))
def test_gradients_of_placements(name):
    f = drawn("ffn", "gelu", expansion=2.0)
    placement = component("placement", name, norm=a_norm).double()
    both = nn.ModuleList([placement, f])
    assert_gradients(both, noise(2, 3, 4), f=lambda m, x: m[0](x, m[1]))


@pytest.mark.parametrize("wiring", [*WIRINGS, "block.branch_scale=0.3", "block=parallel block.branch_scale=0.3"])
def test_gradients_of_blocks(wiring):
    model = telling_model(SMALL, "position=rope norm=rmsnorm", wiring)
    assert_gradients(model.blocks[1], noise(2, 5, 4), f=lambda m, x: m(x, model.position), fast=True)


@pytest.mark.parametrize("choice", ["", *(k for k in OTHER_KNOBS if "width" not in k)])
def test_gradients_of_the_loss_of_a_model(choice):
    targets = EXCEPT_1.roll(-1, 1).flatten()
    model = telling_model(SMALL, "size.n_layer=1", choice)
    assert_gradients(model, f=lambda m: nn.functional.cross_entropy(m(EXCEPT_1).flatten(0, 1), targets), fast=True)
