"""Attention and dropout as a CPU does them, against the equations."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from gptlab.model import attention_kernels
from gptlab.model import cpu_attention as products
from gptlab.model.attention_kernels import ScoreRule, attend, attend_explicitly
from gptlab.model.dropout import Dropout
from tiny import component

LENGTHS = [products.QUERIES + 1, 2 * products.QUERIES + 7]
ALIBI = component("position", "alibi").double()
RULES = [{}, {"window": 3}, {"window": 100}, {"position": ALIBI}, {"window": 70, "position": ALIBI, "scale": 0.3}]


def heads(T=9, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, T, 8, generator=generator, dtype=dtype).requires_grad_() for _ in "qkv"]


@pytest.fixture
def taken(monkeypatch):
    """A one for each time that attention went by products."""
    calls = []
    way = attention_kernels.attend_by_products
    monkeypatch.setattr(attention_kernels, "attend_by_products", lambda *a, **k: calls.append(1) or way(*a, **k))
    return calls


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("T", LENGTHS)
def test_attention_by_products_is_the_equation_with_its_gradients(T, rule, taken):
    qkv = heads(T)
    found = []
    for route in (attend, attend_explicitly):
        y = route(*qkv, ScoreRule(**rule))
        found.append([y, *torch.autograd.grad(y, qkv, torch.ones_like(y).cumsum(-1).cos())])
    torch.testing.assert_close(*found)
    assert taken == [1]


def test_short_or_very_long_windows_caches_and_requests_for_torch_take_other_kernels(taken, monkeypatch):
    q, k, v = heads(products.QUERIES + 1)
    attend(*heads(products.QUERIES))
    attend(q[:, :, -2:], k, v)
    with sdpa_kernel(SDPBackend.MATH):
        attend(q, k, v)
    monkeypatch.setattr(attention_kernels, "MAX_PRODUCTS_WINDOW", products.QUERIES)
    attend(q, k, v)
    assert taken == []


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 3])
def test_its_dropout_has_the_right_gradient(window, monkeypatch):
    monkeypatch.setattr(products, "QUERIES", 4)

    def dropped(*qkv):
        torch.manual_seed(3)
        return attend(*qkv, ScoreRule(window=window), dropout=0.4)

    assert torch.autograd.gradcheck(dropped, heads())


def test_its_dropout_zeroes_attention_weights_and_keeps_their_mean(taken):
    T = products.QUERIES + 6
    q, k, _ = heads(T)
    v = torch.eye(T, dtype=torch.float64).expand(2, 4, T, T)  # so that y is the attention weights
    whole = attend_explicitly(q, k, v)
    runs = torch.stack([attend(q, k, v, dropout=0.4) for _ in range(20)])
    kept = runs[:, whole > 0] != 0
    assert kept.double().mean().item() == pytest.approx(0.6, abs=0.005)
    torch.testing.assert_close(runs[0][runs[0] != 0], (whole / 0.6)[runs[0] != 0], rtol=3e-5, atol=0)
    assert len(taken) == 20


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_scales_the_rest(p):
    x = torch.ones(1000, 301, requires_grad=True)
    torch.manual_seed(0)
    y = Dropout(p)(x)
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-4)
    assert y.mean().item() == pytest.approx(1, abs=0.02)
    for line in (y.mean(0), y.mean(1)):  # no row, column or place in a word of 64 bits is favoured
        assert line.std().item() == pytest.approx((p / (1 - p) / (y.numel() / len(line))) ** 0.5, rel=0.2)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], y.detach())
    torch.manual_seed(0)
    assert torch.equal(Dropout(p)(x), y)
    assert not torch.equal(Dropout(p)(x), y)


def test_dropout_of_zero_or_in_evaluation_neither_drops_nor_draws():
    x, state = torch.randn(3, 5), torch.get_rng_state()
    for layer in (Dropout(0.0), Dropout(0.5).eval()):
        assert torch.equal(layer(x), x)
    assert torch.equal(torch.get_rng_state(), state)
