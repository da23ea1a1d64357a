"""Components without a config: docs/components-in-a-notebook.md, run as it is printed, and what its reader may try."""

import re

import pytest
import torch
from torch import nn

from gptlab.model.attention import SoftmaxAttention
from gptlab.model.baselines import Bigram
from gptlab.model.embedding import TokenTable
from gptlab.model.ffn import SwiGLU
from gptlab.model.gpt import GPT
from gptlab.model.head import LinearHead
from gptlab.model.position import ALiBi, Learned, RoPE
from gptlab.runs.checkpoint import load_weights, read_weights, save_weights
from paths import ROOT
from tiny import LAYERS, VOCAB, WINDOW, tiny_model, tokens

PAGE = ROOT / "docs" / "components-in-a-notebook.md"


def test_the_page_s_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 6
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)


def test_gpt_from_its_sizes_is_the_baseline():
    torch.manual_seed(0)
    ours = GPT(n_layer=LAYERS, n_head=4, dim=16, vocab_size=VOCAB, max_len=WINDOW).eval()
    built = tiny_model().eval()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in built.state_dict().items()}
    for (name, a), b in zip(ours.named_parameters(), built.parameters(), strict=True):
        assert a.std().item() == pytest.approx(b.std().item(), rel=0.3, abs=1e-9), name
    built.load_state_dict(ours.state_dict())
    assert torch.equal(ours(tokens()), built(tokens()))


def test_gpt_from_its_sizes_follows_torchs_seed():
    sizes = {"n_layer": 1, "n_head": 2, "dim": 8, "vocab_size": VOCAB, "max_len": WINDOW}
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(GPT(**sizes)(tokens()))
    assert torch.equal(models[0], models[1]) and not torch.equal(models[0], models[2])
    with torch.device("meta"):
        assert GPT(**sizes)(tokens().to("meta")).shape == (2, WINDOW, VOCAB)


@pytest.mark.parametrize("settings", [{}, {"pairing": "interleaved", "scaling": "yarn"}, {"fraction": 0.5}])
def test_rope_beyond_its_table_is_rope_with_a_longer_one(settings):
    q = torch.randn(2, 4, 6, 16)
    short, long = RoPE(16, 8, **settings), RoPE(16, 2000, **settings)
    for start in (0, 5, 1990):
        torch.testing.assert_close(short(q, start), long(q, start), rtol=0, atol=0)


def test_a_position_is_called_on_what_it_changes():
    x, q = torch.randn(2, 6, 16), torch.randn(2, 4, 6, 4)
    learned = Learned(16, 8)
    assert torch.equal(learned(x), x + learned.table[:6])
    assert torch.equal(ALiBi(4)(q), q)
    assert SoftmaxAttention(16, 4)(x, ALiBi(4)).shape == x.shape


def test_a_head_of_its_own_needs_no_table():
    assert LinearHead(16, VOCAB, tied=False)(torch.randn(2, 6, 16)).shape == (2, 6, VOCAB)
    assert Bigram(WINDOW, VOCAB)(tokens()).shape == (2, WINDOW, VOCAB)


class Tied(nn.Module):
    """One weight under two names, and a part of a third tensor."""

    def __init__(self):
        super().__init__()
        self.table = TokenTable(8, VOCAB)
        self.ffn, self.other = SwiGLU(8), SwiGLU(8)
        self.other.up.weight = self.ffn.up.weight
        self.head = nn.Linear(8, VOCAB, bias=False)
        self.head.weight = self.table.weight


def test_tied_weights_are_saved_and_loaded(tmp_path):
    model, again = Tied(), Tied()
    save_weights(tmp_path / "tied.safetensors", model)
    assert read_weights(tmp_path / "tied.safetensors").keys() == model.state_dict().keys()
    load_weights(tmp_path / "tied.safetensors", again)
    assert again.other.up.weight is again.ffn.up.weight
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
