import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from gptlab.config import ConfigError
from gptlab.model import attention
from gptlab.model.attention_kernels import ScoreRule, attend, attend_by_flex, attend_explicitly
from gptlab.model.generate import generate
from tiny import (
    LAYERS,
    OTHER_KNOBS,
    PLAIN_POSITIONS,
    POSITIONS,
    POSITIONS_WITH_ATTENTIONS,
    WINDOW,
    WIRINGS,
    component,
    noise,
    options,
    telling_model,
    tiny_model,
    tokens,
)

ALIBI = component("position", "alibi").double()
RULES = [
    {},
    {"window": 3},
    {"softcap": 1.5},
    {"position": ALIBI},
    {"scale": 0.7},
    {"window": 3, "softcap": 1.5, "position": ALIBI, "scale": 0.7},
]
LENGTHS = [(7, 7), (3, 7), (1, 7), (1, 1)]  # queries, keys: a whole window, then with a cache


def equation(q, k, v, window=None, softcap=None, position=None, scale=None):
    """The definition, one score at a time."""
    y = np.zeros(q.shape)
    (B, H, T_q, D), (_, H_kv, T_k, _) = q.shape, k.shape
    for b, h, i in np.ndindex(B, H, T_q):
        query, kv = i + T_k - T_q, h // (H // H_kv)
        seen = [j for j in range(query + 1) if window is None or query - j < window]
        scores = np.array([np.dot(q[b, h, i], k[b, kv, j]) * (scale or 1 / math.sqrt(D)) for j in seen])
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        if position is not None:
            scores = scores - float(position.slopes[h]) * (query - np.array(seen))
        weights = np.exp(scores) / np.exp(scores).sum()
        y[b, h, i] = sum(w * v[b, kv, j] for w, j in zip(weights, seen, strict=True))
    return torch.from_numpy(y)


def assert_is_the_equation(route, rule, n_kv_head, T_q, T_k):
    q, k, v = 2 * noise(2, 4, T_q, 8), noise(2, n_kv_head, T_k, 8), noise(2, n_kv_head, T_k, 8).flip(-1)
    torch.testing.assert_close(route(q, k, v, ScoreRule(**rule)), equation(q.numpy(), k.numpy(), v.numpy(), **rule))


@pytest.mark.parametrize("route", [attend, attend_explicitly], ids=lambda f: f.__name__)
@pytest.mark.parametrize("rule", RULES, ids=" ".join)
@pytest.mark.parametrize("n_kv_head", [4, 2, 1])
def test_attention_is_the_equation(route, rule, n_kv_head):
    for T_q, T_k in LENGTHS:
        assert_is_the_equation(route, rule, n_kv_head, T_q, T_k)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # as the CPU has it
@pytest.mark.parametrize("rule", RULES, ids=" ".join)
@pytest.mark.parametrize(("n_kv_head", "T_q"), [(4, 7), (2, 3)])
def test_flex_attention_is_the_equation(rule, n_kv_head, T_q):
    assert_is_the_equation(attend_by_flex, rule, n_kv_head, T_q, 7)


@pytest.mark.parametrize("rule", RULES, ids=" ".join)
def test_gradients_of_the_fast_routes_are_those_of_the_equation(rule):
    gradients = []
    for route in (attend, attend_explicitly):
        q, k, v = (noise(2, h, 7, 8).requires_grad_() for h in (4, 2, 2))
        route(q, k, v, ScoreRule(**rule)).square().sum().backward()
        gradients.append((q.grad, k.grad, v.grad))
    torch.testing.assert_close(*gradients)


def drawn(layer):
    """In float64, with large weights and biases."""
    with torch.no_grad():
        for i, p in enumerate(layer.double().parameters()):
            p.copy_(noise(2 + i, *p.shape)[-1])
    return layer


def heads(x, layer):
    """(B, T, H D) -> (B, H, T, D)"""
    return x.unflatten(-1, (-1, layer.head_dim)).transpose(1, 2)


def written_out(layer, x, change=lambda q, k, v: (q, k, v), **rule):
    """The layer's equation; `change` is what happens to q, k and v, each (B, H, T, D)."""
    q, k, v = change(*(heads(f(x), layer) for f in (layer.q, layer.k, layer.v)))
    return layer.out(attend_explicitly(q, k, v, ScoreRule(**rule)).transpose(1, 2).flatten(2))


NO_POSITION = component("position", "none")


@pytest.mark.parametrize("layer_idx", [0, 1, 2])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_scores_are_scaled_as_the_settings_say(layer_idx, scale, inverse, softcap):
    knobs = {"scale": scale, "inverse_layer_scale": inverse, "softcap": softcap}
    layer, x = drawn(component("attention", "softmax", layer_idx=layer_idx, **knobs)), noise(2, WINDOW, 16)
    expected = (scale or 1 / math.sqrt(4)) / (layer_idx + 1 if inverse else 1)
    torch.testing.assert_close(layer(x, NO_POSITION), written_out(layer, x, scale=expected, softcap=softcap))


def test_q_k_and_v_are_clipped_before_they_are_rotated():
    layer, x = drawn(component("attention", "softmax", clip_qkv=0.5)), noise(2, WINDOW, 16)
    rope = component("position", "rope")

    def change(q, k, v):
        q, k, v = (t.clip(-0.5, 0.5) for t in (q, k, v))
        return rope.rotate(q, 0, 0), rope.rotate(k, 0, 0), v

    torch.testing.assert_close(layer(x, rope), written_out(layer, x, change))
    with torch.no_grad():
        large = drawn(component("attention", "softmax", clip_qkv=1e3))(x, rope)
        torch.testing.assert_close(large, drawn(component("attention", "softmax"))(x, rope), rtol=0, atol=0)


@pytest.mark.parametrize("over", ["head", "each_head", "width"])
@pytest.mark.parametrize("name", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("n_kv_head", [4, 2])
def test_queries_and_keys_are_normed_over_what_qk_norm_over_says(name, over, n_kv_head):
    def qk_norm(dim):
        return component("norm", name, dim=dim)

    knobs = {"qk_norm_over": over, "n_kv_head": n_kv_head}
    layer, x = drawn(component("attention", "softmax", qk_norm=qk_norm, **knobs)), noise(2, WINDOW, 16)

    def normed(t, norm):
        gains = [p for n, p in norm.named_parameters() if n.endswith("gain")]
        biases = [p for n, p in norm.named_parameters() if n.endswith("bias")] or [0 * gains[0]] * len(gains)
        if over == "width":  # one mean and variance of all heads together
            t = t.transpose(1, 2).flatten(2)
        centre = t.mean(-1, keepdim=True) if name == "layernorm" else 0
        t = (t - centre) / ((t - centre).square().mean(-1, keepdim=True) + 1e-5).sqrt()
        if over == "each_head":
            assert len(gains) == t.shape[1]
            return t * torch.stack(gains)[:, None] + torch.stack(biases)[:, None]
        return heads(t * gains[0] + biases[0], layer) if over == "width" else t * gains[0] + biases[0]

    def change(q, k, v):
        return normed(q, layer.q_norm), normed(k, layer.k_norm), v

    torch.testing.assert_close(layer(x, NO_POSITION), written_out(layer, x, change))


def test_the_gain_of_a_head_touches_this_head_alone():
    norm = attention.norm_heads(lambda dim: component("norm", "rmsnorm", dim=dim), "each_head", 4, 8).double()
    x = noise(2, 4, WINDOW, 8)
    before = norm(x)
    with torch.no_grad():
        norm.norms[2].gain.mul_(3)
    torch.testing.assert_close(norm(x)[:, 2], 3 * before[:, 2])
    torch.testing.assert_close(norm(x)[:, [0, 1, 3]], before[:, [0, 1, 3]], rtol=0, atol=0)


def test_queries_and_keys_are_normed_over_the_width_as_in_olmo2():
    from transformers import Olmo2Config
    from transformers.models.olmo2.modeling_olmo2 import Olmo2Attention

    sizes = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Olmo2Config(**sizes, rms_norm_eps=1e-5, attn_implementation="eager")
    theirs = drawn(Olmo2Attention(config, 0)).eval()
    knobs = {"qk_norm_over": "width", "n_kv_head": 2, "qkv_bias": False, "out_bias": False}
    norm = partial(component, "norm", "rmsnorm")
    ours = component("attention", "softmax", qk_norm=lambda dim: norm(dim=dim), **knobs).double()
    names = {**{f"{x}.weight": f"{x}_proj.weight" for x in "qkv"}, "out.weight": "o_proj.weight"}
    names |= {f"{x}_norm.norm.gain": f"{x}_norm.weight" for x in "qk"}
    ours.load_state_dict({a: theirs.get_parameter(b) for a, b in names.items()})
    x, later = noise(2, WINDOW, 16), torch.full((WINDOW, WINDOW), -math.inf, dtype=torch.float64).triu(1)
    still = torch.ones(1, WINDOW, 4).double(), torch.zeros(1, WINDOW, 4).double()  # cos and sin of no turn
    expected, _ = theirs(x, still, later[None, None])
    torch.testing.assert_close(ours(x, NO_POSITION), expected, rtol=0, atol=1e-5)  # theirs norms in float32


@pytest.mark.parametrize("knob", ["qkv_bias", "out_bias"])
def test_switching_a_bias_off_removes_its_tensor_and_no_other(knob):
    names = set(component("attention", "softmax").state_dict())
    gone = names - set(component("attention", "softmax", **{knob: False}).state_dict())
    assert gone == ({"q.bias", "k.bias", "v.bias"} if knob == "qkv_bias" else {"out.bias"})


@pytest.mark.parametrize(
    ("knobs", "line"),
    [
        ("attention.softcap=0", r"attention.softcap=0.0: must be above 0; null for none"),
        ("attention.scale=-1", r"attention.scale=-1.0: must be above 0; null for none"),
        ("attention.clip_qkv=0", r"attention.clip_qkv=0.0: must be above 0; null for none"),
        ("attention.qk_norm_over=width", r"attention.qk_norm_over=width: needs a norm; choose a qk_norm"),
        (
            "attention.window=3 attention.pattern=G",
            r"attention.pattern=G: has no L, so no layer would use attention.window=3; add an L",
        ),
    ],
)
def test_contradictory_attention_settings_are_refused(knobs, line):
    with pytest.raises(ConfigError, match=f"^{line}$"):
        tiny_model(knobs)


@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_is_torchs_multihead_attention(bias):
    ours = component("attention", "softmax", qkv_bias=bias, out_bias=bias)
    theirs = torch.nn.MultiheadAttention(16, 4, bias=bias, batch_first=True, dtype=torch.float64)
    drawn(ours)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        if bias:
            theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
            theirs.out_proj.bias.copy_(ours.out.bias)
    x = noise(2, WINDOW, 16)
    later = torch.ones(WINDOW, WINDOW).triu(1).bool()
    expected, _ = theirs(x, x, x, attn_mask=later, need_weights=False)
    torch.testing.assert_close(ours(x, NO_POSITION), expected)


@pytest.mark.parametrize(
    ("qk_norm", "position"),
    [*product(options("qk_norm"), PLAIN_POSITIONS), *product(["qk_norm=rmsnorm"], POSITIONS[len(PLAIN_POSITIONS) :])],
)
def test_queries_keys_and_values_have_one_dtype_under_autocast(monkeypatch, qk_norm, position):
    types = []
    monkeypatch.setattr(attention, "attend", lambda q, k, v, *_, **__: types.append({q.dtype, k.dtype, v.dtype}) or v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tiny_model(qk_norm, position)(tokens())
    assert types == [{torch.bfloat16}] * LAYERS


def test_the_pattern_repeats_over_the_layers():
    layers = [component("attention", "softmax", layer_idx=i, window=3, pattern="LLG") for i in range(7)]
    assert [layer.window for layer in layers] == [3, 3, None, 3, 3, None, 3]


def test_dropout_zeroes_attention_weights_in_training_only():
    layer = component("attention", "softmax", dropout=0.5).double()
    layer.out_dropout.p = 0.0  # leaves that of the weights
    x, none = noise(1, WINDOW, 16), NO_POSITION
    assert not torch.equal(layer(x, none), layer(x, none))
    layer.eval()
    torch.testing.assert_close(layer(x, none), layer(x, none), rtol=0, atol=0)


def assert_cache_changes_nothing(model):
    """One token at a time, and a prompt in two pieces, give the logits of the whole."""
    expected = model(tokens())
    for pieces in ([1] * WINDOW, [5, 4, 1, 1, 1]):
        cache = model.new_cache()
        logits = [model(piece, cache) for piece in tokens().split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(logits, 1), expected)


@pytest.mark.parametrize(("position", "variant"), POSITIONS_WITH_ATTENTIONS)
def test_the_cache_changes_no_logits(position, variant):
    assert_cache_changes_nothing(telling_model(position, variant))


@pytest.mark.parametrize("choice", [*WIRINGS, *OTHER_KNOBS])
def test_the_cache_changes_no_logits_of_any_wiring_or_setting(choice):
    assert_cache_changes_nothing(telling_model(choice))


@pytest.mark.parametrize("position", [*PLAIN_POSITIONS, "position=rope position.pattern=NR"])
@pytest.mark.parametrize("choices", [{"temperature": 0.0}, {"top_k": 4, "seed": 5}])
def test_sampling_is_the_same_with_and_without_the_cache_even_past_the_window(position, choices):
    model = telling_model(position, "attention.n_kv_head=2 attention.window=5")
    for prompt in ([3], list(range(5)), [t % 11 for t in range(2 * WINDOW)]):
        cached = generate(model, prompt, 2 * WINDOW, **choices)
        assert cached == generate(model, prompt, 2 * WINDOW, cached=False, **choices)
        assert cached[: len(prompt)] == prompt and len(cached) == len(prompt) + 2 * WINDOW


def test_sampling_never_draws_a_padding_token():
    model = telling_model()
    assert max(generate(model, [1], 40, temperature=5.0)) == 10
    assert max(generate(model, [1], 40, temperature=5.0, n_tokens_known=7)) <= 6
