"""An attention of the user's that keeps a running sum instead of keys and values, from a file of its own."""

import pytest
import torch

from gptlab import build_model, load_config
from gptlab.cli.main import main
from gptlab.model.cost import cache_bytes, meta_model
from gptlab.model.generate import generate

FILE = '''
import torch
from torch import nn
from torch.nn import functional as F

from gptlab import register
from gptlab.model.cache import LayerCache
from gptlab.model.roles import Linear


@register("attention", "linear_sum", source="arXiv:2006.16236")
class LinearSum(nn.Module):
    """phi(q) S / phi(q) z, where S and z are running sums of phi(k) v^T and phi(k)."""

    def __init__(self, dim: int, n_head: int, *, bias: bool = True):
        super().__init__()
        self.n_head = n_head
        self.qkv = Linear(dim, 3 * dim, bias)
        self.out = Linear(dim, dim, bias, role="residual")

    def forward(self, x, position, cache=None):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_head, -1).unbind(2)  # (B, T, H, D)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        S, z = torch.einsum("bthd,bthe->bthde", k, v).cumsum(1), k.cumsum(1)
        if cache is not None:
            sums = cache.of(self)
            if sums.tensors:
                S, z = S + sums.tensors[0], z + sums.tensors[1]
            sums.tensors = (S[:, -1:], z[:, -1:])
        y = torch.einsum("bthd,bthde->bthe", q, S) / (q * z).sum(-1, keepdim=True)
        return self.out(y.reshape(B, T, C))

    def new_cache(self):
        return LayerCache()
'''
LAYERS, DIM, HEADS = 2, 16, 4
OVERRIDES = [
    "attention=linear_sum",
    f"size.dim={DIM}",
    f"size.n_head={HEADS}",
    f"size.n_layer={LAYERS}",
    "data.window=12",
    "tokenizer=char",
    "model.vocab_size=11",
]


@pytest.fixture
def use(tmp_path, own_registry):
    file = tmp_path / "linear_sum_attention.py"
    file.write_text(FILE)
    return f"use={file}"


def test_generation_with_its_cache_is_generation_without(use):
    model = build_model(load_config([use, *OVERRIDES])).double().eval()
    torch.nn.init.normal_(model.embedding.weight)
    for choices in ({"temperature": 0}, {"seed": 3}):
        cached = generate(model, [1, 2, 3], 20, **choices)  # beyond the window of 12 tokens
        assert cached == generate(model, [1, 2, 3], 20, cached=False, **choices)
    tokens = torch.arange(10)[None]
    cache = model.new_cache()
    parts = [model(part, cache) for part in tokens.split([4, 1, 5], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens))


def test_its_bytes_do_not_grow_with_the_tokens(use, capsys):
    D = DIM // HEADS
    fixed = LAYERS * HEADS * (D * D + D) * 4
    assert cache_bytes(meta_model(load_config([use, *OVERRIDES]))) == (fixed, 0)
    with pytest.raises(SystemExit, match="0"):
        main(["show", use, *OVERRIDES])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["bytes", "of", "KV", "cache", "per", "token", "0", "B"] in rows
    assert ["bytes", "of", "recurrent", "state", str(fixed), "B"] in rows
