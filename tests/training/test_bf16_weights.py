import pytest
import torch
from torch.nn.functional import cross_entropy

from gptlab.model.attention_kernels import ScoreRule, attend, attend_explicitly
from gptlab.model.cpu_attention import QUERIES
from gptlab.training.bf16_weights import Bf16Weights
from tiny import tiny_model, tokens

ROUTES = [{}, {"window": 3}, {"softcap": 2.0}]


@pytest.mark.parametrize("rule", ROUTES, ids=str)
@pytest.mark.parametrize("n_kv", [1, 3])
def test_in_bf16_a_cpu_attends_as_in_float32(rule, n_kv):
    q, k, v = torch.randn(3, 2, 3, QUERIES + 9, 4, generator=torch.Generator().manual_seed(0))
    found = []
    for route, dtype in ((attend, torch.bfloat16), (attend_explicitly, torch.float32)):
        qkv = [t.to(dtype).requires_grad_() for t in (q, k[:, :n_kv], v[:, :n_kv])]
        y = route(*qkv, ScoreRule(**rule))
        found.append([y, *torch.autograd.grad(y.float().square().sum(), qkv)])
    ours, theirs = found
    assert {t.dtype for t in ours} == {torch.bfloat16}
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.float(), b, atol=0.02 * b.abs().max().item(), rtol=0.02)


def test_a_copy_hands_float32_gradients_over_and_takes_weights_back():
    master = tiny_model("norm=rmsnorm position=rope ffn=swiglu")
    copy = Bf16Weights(master)
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
