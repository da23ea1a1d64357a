import pytest
import torch
from tiny import component, noise


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


def test_none_gives_what_it_got():
    x = noise(2, 5, 16)
    assert component("norm", "none")(x) is x
