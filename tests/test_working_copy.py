import pytest
import torch
from tiny import tiny_model, tokens
from torch.nn.functional import cross_entropy

from gptlab.components.attention import attend, attend_explicitly
from gptlab.components.products import attend_by_products
from gptlab.working_copy import WorkingCopy

ROUTES = [{}, {"window": 3}, {"softcap": 2.0}]


def heads(T=9, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, T, 4, generator=generator, dtype=dtype).requires_grad_() for _ in "qkv"]


def causal(T, dtype=torch.float64):
    return torch.full((T, T), -torch.inf, dtype=dtype).triu(1)


def test_attention_by_products_is_the_equation_with_its_gradients():
    q, k, v = heads()
    torch.testing.assert_close(
        attend_by_products(q, k, v, causal(9), scale=0.3, dropout=0.0), attend_explicitly(q, k, v, scale=0.3)
    )
    biases = torch.randn(3, 9, 9, dtype=torch.float64) + causal(9)
    for mask in (causal(9), biases):
        assert torch.autograd.gradcheck(
            lambda *qkv, mask=mask: attend_by_products(*qkv, mask, scale=0.3, dropout=0.0), heads()
        )


def test_its_dropout_zeroes_attention_weights_and_keeps_their_mean():
    def dropped(*qkv):
        torch.manual_seed(3)
        return attend_by_products(*qkv, causal(9), scale=0.3, dropout=0.4)

    assert torch.autograd.gradcheck(dropped, heads())
    q, k, _ = heads()
    v = torch.eye(9, dtype=torch.float64).expand(2, 3, 9, 9)  # so that y is the attention weights
    whole = attend_explicitly(q, k, v, scale=0.3)
    runs = torch.stack([attend_by_products(q, k, v, causal(9), scale=0.3, dropout=0.4) for _ in range(400)])
    kept = runs[:, whole > 0] != 0
    assert kept.double().mean().item() == pytest.approx(0.6, abs=0.01)
    torch.testing.assert_close(runs[0][runs[0] != 0], (whole / 0.6)[runs[0] != 0])


@pytest.mark.parametrize("rule", ROUTES, ids=str)
@pytest.mark.parametrize("n_kv", [1, 3])
def test_in_bf16_a_cpu_attends_as_in_float32(rule, n_kv):
    q, k, v = (t.detach() for t in heads(dtype=torch.float32))
    k, v = k[:, :n_kv], v[:, :n_kv]
    ours = attend(*(t.bfloat16() for t in (q, k, v)), **rule)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), attend_explicitly(q, k, v, **rule), atol=0.03, rtol=0.03)


def test_a_copy_hands_float32_gradients_over_and_takes_weights_back():
    master = tiny_model("norm=rmsnorm position=rope ffn=swiglu")
    copy = WorkingCopy(master)
    assert {p.dtype for p in copy.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in master.parameters()} == {torch.float32}
    for _ in range(2):  # micro-batches
        cross_entropy(copy.model(tokens()).float().flatten(0, 1), tokens().flatten()).backward()
        copy.hand_over_gradients()
    summed = {n: p.grad for n, p in master.named_parameters()}
    master.zero_grad()
    (2 * cross_entropy(master(tokens()).flatten(0, 1), tokens().flatten())).backward()
    for name, p in master.named_parameters():
        assert summed[name].dtype == torch.float32
        assert (summed[name] - p.grad).norm() < 0.05 * p.grad.norm() + 1e-4, name
    with torch.no_grad():
        for p in master.parameters():
            p.add_(1e-4)  # too little for bfloat16 to see in a weight of 1, and it must not get lost
    copy.refresh()
    for p, bf16 in zip(master.parameters(), copy.model.parameters(), strict=True):
        assert torch.equal(p.detach().bfloat16(), bf16) and bf16.grad is None
