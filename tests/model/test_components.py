"""Properties of every option of every slot, including the user's own: pytest --use my_norms.py."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.func import functional_call

from gptlab.config import registry
from gptlab.model.cost import meta_model
from gptlab.model.roles import ROLES, role_of
from tiny import (
    CHOICES,
    MODEL_SLOTS,
    MODELS,
    OPTIONS,
    OTHER_KNOBS,
    POSITIONS_WITH_ATTENTIONS,
    VOCAB,
    WINDOW,
    WIRINGS,
    component,
    noise,
    telling_model,
    tiny_config,
    tiny_model,
    tokens,
)

NORMS, FFNS = registry.names("norm"), registry.names("ffn")


@pytest.mark.parametrize("entry", registry.entries(), ids=lambda e: f"{e.kind}={e.name}")
def test_every_component_has_a_summary(entry):
    assert 3 < len(entry.summary) <= 120


@pytest.mark.parametrize("option", CHOICES)
def test_every_option_builds_on_the_meta_device(option):
    model = meta_model(tiny_config(option))
    assert all(p.is_meta for p in model.parameters())
    assert model(tokens().to("meta")).shape == (2, WINDOW, VOCAB)


@pytest.mark.parametrize("option", CHOICES)
def test_every_parameter_has_a_role_and_a_gradient(option):
    model = telling_model(option)
    torch.nn.functional.cross_entropy(model(tokens()).flatten(0, 1), tokens().flatten()).backward()
    for name, p in model.named_parameters():
        assert role_of(p) in ROLES
        assert p.grad is not None and p.grad.isfinite().all(), name
        if not name.endswith(
            ("k.bias", "k_norm.bias", "k_norm.norm.bias")
        ):  # adds the same to all scores of a query: softmax is blind
            assert p.grad.abs().max() > 1e-9, name


@pytest.mark.parametrize("option", [*OPTIONS, *OTHER_KNOBS])
def test_weights_depend_on_the_seed_alone(option):
    torch.manual_seed(1)
    once = tiny_model(option, "seed=3").state_dict()
    torch.manual_seed(2)
    again = tiny_model(option, "seed=3").state_dict()
    other = tiny_model(option, "seed=4")
    assert once.keys() == again.keys()
    assert all(torch.equal(once[name], again[name]) for name in once)
    drawn = [name for name, p in other.named_parameters() if role_of(p) not in ("gain", "bias") and p.any()]
    assert drawn and not any(torch.equal(once[name], other.state_dict()[name]) for name in drawn)


@pytest.mark.parametrize("option", CHOICES)
def test_bias_false_leaves_no_bias(option):
    model = tiny_model(option, "bias=false")
    assert not [name for name, p in model.named_parameters() if "bias" in name or role_of(p) == "bias"]
    assert not [name for name, module in model.named_modules() if getattr(module, "bias", None) is not None]


@pytest.mark.parametrize("slot", [s for s in MODEL_SLOTS if s != "init"])
def test_no_two_options_of_a_slot_are_the_same_thing(slot):
    logits = {o: telling_model(o)(tokens()) for o in OPTIONS if o.startswith(f"{slot}=")}
    for a in logits:
        for b in logits:
            assert a == b or (logits[a] - logits[b]).abs().max() > 1e-6, (a, b)


def assert_causal(model):
    """Changing a token changes no logits before it, and does change those after it."""
    difference, t = causal_difference(model), WINDOW // 2
    assert difference[:t].max() == 0
    assert difference[t:].min() > 0 or difference[t : t + 2].min() > 0  # a window may end before the last token


def causal_difference(model):
    """By how much a change of the token in the middle changes the logits at each position, (T,)."""
    before, changed = tokens(), tokens()
    t = WINDOW // 2
    changed[:, t] = (changed[:, t] + 1) % VOCAB
    return (model(before) - model(changed)).abs().amax((0, 2))


@pytest.mark.parametrize(("position", "attention"), POSITIONS_WITH_ATTENTIONS)
def test_no_token_sees_a_later_one(position, attention):
    assert_causal(telling_model(position, attention))


@pytest.mark.parametrize("wiring", WIRINGS)
def test_no_wiring_lets_a_token_see_a_later_one(wiring):
    assert_causal(telling_model(wiring))


OTHERS = ("norm=", "qk_norm=", "ffn=", "embedding=", "head=")


@pytest.mark.parametrize("option", [*(o for o in OPTIONS if o.startswith(OTHERS)), *OTHER_KNOBS])
def test_no_part_lets_a_token_see_a_later_one(option):
    assert_causal(telling_model(option))


@pytest.mark.parametrize("model", MODELS)
def test_no_model_lets_a_token_see_a_later_one(model):
    difference = causal_difference(telling_model(model))
    assert difference[: WINDOW // 2].max() == 0
    assert difference[WINDOW // 2] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_keeps_shape_and_dtype(name, dtype):
    norm = component("norm", name).to(dtype).eval()
    for shape in [(16,), (5, 16), (2, 5, 16), (2, 4, 5, 16)]:
        y = norm(noise(*shape).to(dtype))
        assert y.shape == shape and y.dtype == dtype


@pytest.mark.filterwarnings("error")  # torch warns where it falls back to slower mathematics
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_under_autocast_differs_only_by_rounding(name):
    norm, x = component("norm", name), noise(2, 5, 16).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(x)
    torch.testing.assert_close(y.float(), norm(x.float()), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_works_on_each_token_alone(name):
    """In evaluation; of those that do not in training, test_norms.py holds what they do there."""
    norm, x = component("norm", name).double().eval(), noise(2, 5, 16)
    torch.testing.assert_close(norm(x)[:, 2], norm(x[:, 2]))


@pytest.mark.parametrize(("slot", "name"), [("norm", n) for n in NORMS] + [("ffn", n) for n in FFNS])
def test_gradients_are_those_of_the_function(slot, name):
    module = component(slot, name, dim=4).double()
    names, parameters = zip(*module.named_parameters(), strict=True) if [*module.parameters()] else ((), ())
    x = noise(2, 3, 4).requires_grad_()
    assert gradcheck(lambda x, *p: functional_call(module, dict(zip(names, p, strict=True)), (x,)), (x, *parameters))
