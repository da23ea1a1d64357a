"""The drawing of a block is what the block does."""

import pytest
import torch
from torch import nn

from gptlab import build_model, load_config
from gptlab.config import registry
from gptlab.model.diagram import draw_block


def draw(*words):
    with torch.device("meta"):
        model = build_model(load_config(["size=tiny", *words]))
    return draw_block(model.blocks[0])


DRAWINGS = {
    "placement=pre": """
│
├──────────┐
│          │
│      layernorm
│      attention
+──────────┘
├──────────┐
│          │
│      layernorm
│        gelu
+──────────┘""",
    "placement=post": """
    │
    ├──────────┐
    │          │
    │      attention
    +──────────┘
layernorm
    ├────────┐
    │        │
    │      gelu
    +────────┘
layernorm""",
    "placement=output": """
│
├──────────┐
│          │
│      attention
│      layernorm
+──────────┘
├──────────┐
│          │
│        gelu
│      layernorm
+──────────┘""",
    "placement=pre_residual block.branch_scale=0.5": """
    │
layernorm
    ├──────────┐
    │          │
    │      attention
    │        x 0.5
    +──────────┘
layernorm
    ├────────┐
    │        │
    │      gelu
    │      x 0.5
    +────────┘""",
    "placement=none": """
│
├──────────┐
│          │
│      attention
+──────────┘
├────────┐
│        │
│      gelu
+────────┘""",
    "block=parallel": """
│
├─────────────────────┐
│                     │
│                 layernorm
│                     ├──────────┐
│                     │          │
│                 attention    gelu
│                     +──────────┘
+─────────────────────┘""",
    "block=parallel placement=post": """
    │
    ├──────────┬──────────┐
    │          │          │
    │      attention    gelu
    +──────────┴──────────┘
layernorm""",
    "block=parallel block.shared_norm=false placement=double": """
│
├──────────┬────────────┐
│          │            │
│      layernorm    layernorm
│      attention      gelu
│      layernorm    layernorm
+──────────┴────────────┘""",
    "block=parallel placement=output": """
│
├─────────────────────┐
│                     │
│                     ├──────────┐
│                     │          │
│                 attention    gelu
│                     +──────────┘
│                 layernorm
+─────────────────────┘""",
}

WIRINGS = [f"block={b} placement={p}" for b in registry.names("block") for p in registry.names("placement")]


@pytest.mark.parametrize("words", DRAWINGS)
def test_the_drawing(words):
    assert draw(*words.split()) == DRAWINGS[words].removeprefix("\n")


@pytest.mark.parametrize("words", WIRINGS)
def test_every_norm_and_sublayer_is_drawn_once(words):
    with torch.device("meta"):
        block = build_model(load_config(["size=tiny", "ffn=swiglu", *words.split()])).blocks[0]
    n_norms = sum(type(m) is registry.entry("norm", "layernorm").cls for m in block.modules())
    drawing = draw_block(block)
    assert [drawing.count(label) for label in ("attention", "swiglu", "layernorm")] == [1, 1, n_norms]
    assert len({len(row) - len(row.lstrip()) for row in drawing.splitlines() if row[0] in "│├+"}) <= 1


@pytest.mark.parametrize("over", ["head", "each_head", "width"])
def test_the_norms_of_queries_and_keys_are_part_of_attention(over):
    assert draw("qk_norm=rmsnorm", f"attention.qk_norm_over={over}") == draw()


def test_norm_none_is_not_drawn():
    assert draw("norm=none", "placement=double") == draw("placement=none")


@pytest.mark.parametrize(("factor", "label"), [(0.5, "x 0.5"), (torch.ones(8), "scale")])
def test_a_scaled_branch_is_drawn(factor, label):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.ffn = registry.entry("ffn", "gelu").cls(8, 0.0)

        def forward(self, x, position):
            return x + factor * self.ffn(x)

    rows = [" ".join(row.split()[1:]) for row in draw_block(Scaled()).splitlines()]
    assert rows[3:5] == ["gelu", label]


def test_a_block_that_does_more_than_call_and_add_is_shown_by_its_docstring():
    class Mine(nn.Module):
        """x + tanh(x)"""

        def forward(self, x, position):
            return x + torch.tanh(x)

    assert draw_block(Mine()) == "Mine: x + tanh(x)"
