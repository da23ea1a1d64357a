"""init=mup: gpt2 at the base width, Table 8 of arXiv:2203.03466 at others, and what that is for."""

import math
import re

import pytest
import torch
from torch.nn.functional import cross_entropy

from gptlab import build_model
from gptlab.cli.main import main
from gptlab.config import ConfigError, registry
from gptlab.convert.canonical import resolved
from gptlab.model.cost import meta_model
from gptlab.model.roles import role_of
from tiny import component, tiny_config, tiny_model, tokens

BASE = "init=mup init.base_width=16 init.base_head_dim=4"  # the tiny model's own
M = 4
WIDE = f"{BASE} size.dim={16 * M}"  # as many heads, each M times as wide
HIDDEN = ("input", "gate", "residual")
WIDTHS = (32, 64, 128, 256)


def trained(cfg, steps, lr=1e-3, weight_decay=0.0):
    """The model after a few steps of AdamW on one batch."""
    model = build_model(cfg)
    (adamw,) = component("optimizer", "adamw", lr=lr, weight_decay=weight_decay).build(model.parameters())
    for _ in range(steps):
        cross_entropy(model(tokens()).flatten(0, 1), tokens().roll(-1, 1).flatten()).backward()
        adamw.step()
        adamw.zero_grad()
    return model


@pytest.mark.parametrize("parts", ["", "head.tied=false ffn=swiglu position=rope", "qk_norm=rmsnorm head.scale=2"])
def test_at_the_base_width_it_is_gpt2_to_the_bit(parts):
    ours, gpt2 = (trained(tiny_config(init, parts), 5, weight_decay=0.1) for init in (BASE, "init=gpt2"))
    assert torch.equal(ours(tokens()), gpt2(tokens()))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), gpt2.parameters(), strict=True))


@pytest.mark.parametrize("parts", ["", "head.tied=false ffn=swiglu block=parallel norm=rmsnorm"])
def test_weights_start_as_gpt2_s_those_of_the_blocks_divided_by_the_root_of_m(parts):
    gpt2 = dict(tiny_model("init=gpt2", f"size.dim={16 * M}", parts).named_parameters())
    for name, p in tiny_model(WIDE, parts).named_parameters():
        divisor = math.sqrt(M) if role_of(p) in HIDDEN else 1
        torch.testing.assert_close(p, gpt2[name] / divisor, msg=name)


@pytest.mark.parametrize("optimizer", ["adamw", "lion"])
def test_a_step_is_the_mth_part_in_the_blocks_matrices_and_the_decay_is_the_same(optimizer):
    """The first step of Adam and of Lion is the learning rate times the gradient's sign."""
    model = tiny_model(WIDE, "head.tied=false head.bias=true")
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    for one in component("optimizer", optimizer, lr=0.01, weight_decay=0.5).build(model.parameters()):
        one.step()
    for name, p in model.named_parameters():
        kept = 1 - 0.01 * 0.5 if role_of(p) in (*HIDDEN, "head") else 1
        step = 0.01 / M if role_of(p) in HIDDEN else 0.01
        torch.testing.assert_close(p.data, start[name] * kept - step, msg=name)


@pytest.mark.parametrize("tied", ["true", "false"])
def test_logits_are_divided_by_m_and_scores_go_by_one_over_the_head_s_width(tied):
    model = tiny_model(WIDE, f"head.tied={tied}", "head.scale=3")
    assert model.head.scale == 3 / M
    assert model.blocks[1].attention.scale == 4**-0.5 * 4 / (4 * M)  # 1 / sqrt(D) at the base's D
    assert tiny_model(WIDE, "attention.scale=0.7").blocks[0].attention.scale == 0.7 / M
    narrow_heads = tiny_model(WIDE, "size.n_head=16").blocks[0].attention
    assert narrow_heads.scale == 4**-0.5  # more heads, none wider


def test_the_canonical_config_has_the_settings_that_mup_changes():
    """The conversion to transformers reads it; its models would otherwise compute something else."""
    found = resolved(tiny_config(WIDE, "head.scale=3"))
    assert found["head.scale"] == 3 / M and found["attention.scale"] == 4**-0.5 / M


def test_show_describes_mup(capsys):
    with pytest.raises(SystemExit):
        main(["show", "init=mup", "size.dim=512", "size.n_head=8"])
    told = "mup, 4 times the base width: std / 2 and learning rate / 4 of the blocks' matrices"
    assert f"{told}, attention.scale / 2, head.scale / 4\n" in capsys.readouterr().out


def rms_of_change(init, width, seeds=3):
    """Return how far a few steps move the output of each part: RMS by part, for the same tokens."""
    squares = []
    for seed in range(seeds):
        cfg = tiny_config(init, f"size.dim={width} size.n_head=4 head.tied=false seed={seed}")
        before, after = (outputs(model) for model in (build_model(cfg), trained(cfg, 4, lr=4e-3)))
        squares.append({name: (after[name] - before[name]).square().mean() for name in before})
    return {name: torch.stack([s[name] for s in squares]).mean().sqrt().item() for name in squares[0]}


def outputs(model):
    seen = {}
    parts = {"attention": model.blocks[1].attention, "ffn": model.blocks[1].ffn, "head": model.head}
    for name, part in parts.items():
        part.register_forward_hook(lambda _, x, y, name=name: seen.update({name: y.detach()}))
    model(tokens())
    return seen


@pytest.mark.parametrize(("init", "flat"), [("init=mup init.base_width=32 init.base_head_dim=8", True), ("", False)])
def test_coordinates_move_alike_at_every_width_as_they_do_not_without_it(init, flat):
    """Coordinate check: the exponent of the width in how far Adam moves the coordinates (arXiv:2203.03466, D.1)."""
    moved = [rms_of_change(init, width) for width in WIDTHS]
    for part in moved[0]:
        steps = torch.tensor([m[part] for m in moved]).log2()
        exponent = (steps - steps.mean()) @ torch.arange(-1.5, 2) / 5
        assert abs(exponent) < 0.2 if flat else exponent > 0.5, (part, exponent, steps.exp2())


REFUSED = {
    "embedding.width=8 head.width=8": "embedding.width=8: init=mup supports only the stream's width; set it to null",
    "head.tied=false head.width=8": "head.width=8: init=mup supports only the stream's width; set it to null",
    "embedding.scale_by_width=true": "embedding.scale_by_width=true: must be false with init=mup; set embedding.scale",
    "init.base_width=0": "init.base_width=0: must be at least 1",
    "init.head_std=1": "init.head_std=1.0: a tied head is the token table; set head.tied=false",
    "optimizer=sgd": "init=mup: its learning rates do not work with optimizer=sgd; choose adamw, lion",
    "optimizer=muon": "init=mup: its learning rates do not work with optimizer=muon; choose adamw, lion",
}


@pytest.mark.parametrize(("settings", "line"), REFUSED.items())
def test_settings_that_mup_does_not_cover_are_refused(settings, line):
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}$"):
        meta_model(tiny_config("init=mup", settings))


def test_a_component_without_a_scale_is_refused(own_registry):
    @registry.register("attention", "mine")
    class Mine(torch.nn.Module):
        """Looks back."""

        def __init__(self, dim: int):
            super().__init__()

        def forward(self, x, position, cache=None):
            return x

    line = "^attention=mine: has no setting 'scale' for init=mup to divide; add one$"
    with pytest.raises(ConfigError, match=line):
        meta_model(tiny_config("init=mup", "attention=mine"))
