import math

import numpy as np
import pytest
import torch
from tiny import ATTENTIONS, LAYERS, POSITIONS, WINDOW, WIRINGS, component, noise, telling_model, tiny_model, tokens

from gptlab import registry
from gptlab.components import attention
from gptlab.components.attention import attend, attend_by_flex, attend_explicitly
from gptlab.sample import generate

ALIBI = component("position", "alibi").double()
RULES = [  # window, softcap, position
    (None, None, None),
    (3, None, None),
    (None, 1.5, None),
    (None, None, ALIBI),
    (3, 1.5, ALIBI),
]
LENGTHS = [(7, 7), (3, 7), (1, 7), (1, 1)]  # queries, keys: a whole window, then with a cache


def equation(q, k, v, window, softcap, position):
    """The definition, one score at a time."""
    y = np.zeros(q.shape)
    (B, H, T_q, D), (_, H_kv, T_k, _) = q.shape, k.shape
    for b, h, i in np.ndindex(B, H, T_q):
        query, kv = i + T_k - T_q, h // (H // H_kv)
        seen = [j for j in range(query + 1) if window is None or query - j < window]
        scores = np.array([np.dot(q[b, h, i], k[b, kv, j]) / math.sqrt(D) for j in seen])
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        if position is not None:
            scores = scores - float(position.slopes[h]) * (query - np.array(seen))
        weights = np.exp(scores) / np.exp(scores).sum()
        y[b, h, i] = sum(w * v[b, kv, j] for w, j in zip(weights, seen, strict=True))
    return torch.from_numpy(y)


def assert_is_the_equation(route, window, softcap, position, n_kv_head, T_q, T_k):
    q, k, v = 2 * noise(2, 4, T_q, 8), noise(2, n_kv_head, T_k, 8), noise(2, n_kv_head, T_k, 8).flip(-1)
    y = route(q, k, v, window=window, softcap=softcap, position=position)
    torch.testing.assert_close(y, equation(q.numpy(), k.numpy(), v.numpy(), window, softcap, position))


@pytest.mark.parametrize("route", [attend, attend_explicitly], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("window", "softcap", "position"), RULES)
@pytest.mark.parametrize("n_kv_head", [4, 2, 1])
def test_attention_is_the_equation(route, window, softcap, position, n_kv_head):
    for T_q, T_k in LENGTHS:
        assert_is_the_equation(route, window, softcap, position, n_kv_head, T_q, T_k)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # as the CPU has it
@pytest.mark.parametrize(("window", "softcap", "position"), RULES)
@pytest.mark.parametrize(("n_kv_head", "T_q"), [(4, 7), (2, 3)])
def test_flex_attention_is_the_equation(window, softcap, position, n_kv_head, T_q):
    assert_is_the_equation(attend_by_flex, window, softcap, position, n_kv_head, T_q, 7)


@pytest.mark.parametrize(("window", "softcap", "position"), RULES)
def test_gradients_of_the_fast_routes_are_those_of_the_equation(window, softcap, position):
    gradients = []
    for route in (attend, attend_explicitly):
        q, k, v = (noise(2, h, 7, 8).requires_grad_() for h in (4, 2, 2))
        route(q, k, v, window=window, softcap=softcap, position=position).square().sum().backward()
        gradients.append((q.grad, k.grad, v.grad))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_is_torchs_multihead_attention(bias):
    ours = component("attention", "softmax", bias=bias).double()
    theirs = torch.nn.MultiheadAttention(16, 4, bias=bias, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for p in ours.parameters():
            p.copy_(noise(*p.shape))
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        if bias:
            theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
            theirs.out_proj.bias.copy_(ours.out.bias)
    x = noise(2, WINDOW, 16)
    later = torch.ones(WINDOW, WINDOW).triu(1).bool()
    expected, _ = theirs(x, x, x, attn_mask=later, need_weights=False)
    torch.testing.assert_close(ours(x, component("position", "none")), expected)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("qk_norm", registry.names("norm"))
def test_queries_keys_and_values_are_of_one_type_under_autocast(monkeypatch, qk_norm, position):
    types = []
    monkeypatch.setattr(attention, "attend", lambda q, k, v, **_: types.append({q.dtype, k.dtype, v.dtype}) or v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tiny_model(f"qk_norm={qk_norm}", position)(tokens())
    assert types == [{torch.bfloat16}] * LAYERS


def test_the_pattern_repeats_over_the_layers():
    layers = [component("attention", "softmax", layer_idx=i, window=3, pattern="LLG") for i in range(7)]
    assert [layer.window for layer in layers] == [3, 3, None, 3, 3, None, 3]


def test_dropout_zeroes_attention_weights_in_training_only():
    layer = component("attention", "softmax", dropout=0.5).double()
    layer.out_dropout.p = 0.0  # leaves that of the weights
    x, none = noise(1, WINDOW, 16), component("position", "none")
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


@pytest.mark.parametrize("variant", ATTENTIONS)
@pytest.mark.parametrize("position", POSITIONS)
def test_the_cache_changes_no_logits(position, variant):
    assert_cache_changes_nothing(telling_model(position, variant))


@pytest.mark.parametrize("wiring", WIRINGS)
def test_the_cache_changes_no_logits_of_any_wiring(wiring):
    assert_cache_changes_nothing(telling_model(wiring))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("choices", [{"temperature": 0.0}, {"top_k": 4, "seed": 5}])
def test_sampling_gives_the_same_tokens_with_and_without_the_cache_also_past_the_window(position, choices):
    model = telling_model(position, "attention.n_kv_head=2 attention.window=5")
    for prompt in ([3], list(range(5)), [t % 11 for t in range(2 * WINDOW)]):
        cached = generate(model, prompt, 2 * WINDOW, **choices)
        assert cached == generate(model, prompt, 2 * WINDOW, cached=False, **choices)
        assert cached[: len(prompt)] == prompt and len(cached) == len(prompt) + 2 * WINDOW


def test_sampling_never_gives_a_padding_token():
    model = telling_model()
    assert max(generate(model, [1], 40, temperature=5.0)) == 10
    assert max(generate(model, [1], 40, temperature=5.0, n_tokens_known=7)) <= 6
