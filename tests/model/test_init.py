import math

import pytest
import torch

from gptlab.config import ConfigError
from gptlab.model.cost import meta_model
from gptlab.model.position import NoPosition
from tiny import tiny_config, tiny_model

C, V, F, L = 128, 500, 512, 2
WIDE = f"size.dim={C} size.n_head=4 model.vocab_size={V} data.window=200 head.tied=false ffn=relu"
PARTS = {  # role -> a parameter that has it
    "embedding": "embedding.weight",
    "position": "position.table",
    "input": "blocks.1.ffn.up.weight",
    "attention out": "blocks.1.attention.out.weight",
    "ffn out": "blocks.1.ffn.down.weight",
    "head": "head.weight",
}
DEPTH = math.sqrt(2 * L)
STDS = {
    "gpt2": [0.02, 0.02, 0.02, 0.02 / DEPTH, 0.02 / DEPTH, 0.02],
    "kaiming": [C**-0.5, C**-0.5, C**-0.5, C**-0.5, (2 / F) ** 0.5, C**-0.5],
    "xavier": [C**-0.5, C**-0.5, (2 / (C + F)) ** 0.5, C**-0.5, (2 / (C + F)) ** 0.5, C**-0.5],
    "small": [(2 / 5 / C) ** 0.5] * 6,
    "torch": [1, 1, (3 * C) ** -0.5, (3 * C) ** -0.5, (3 * F) ** -0.5, (3 * C) ** -0.5],
    "mup": [0.02, 0.02, 0.02, 0.02 / DEPTH, 0.02 / DEPTH, 0.02],  # C is its base width
    "depth_scaled": [C**-0.5, C**-0.5, C**-0.5, C**-0.5 / 2, F**-0.5 / 2, C**-0.5],
    "zero_output": [0.02, 0.02, 0.02, 0, 0, 0.02],
}


@pytest.mark.parametrize("init", STDS)
def test_every_role_starts_at_its_scale(init):
    weights = dict(tiny_model(WIDE, f"init={init}").named_parameters())
    for (role, name), std in zip(PARTS.items(), STDS[init], strict=True):
        w = weights[name]
        assert w.std().item() == pytest.approx(std, rel=0.05), role
        assert abs(w.mean().item()) <= 4 * std / math.sqrt(w.numel()), role


@pytest.mark.parametrize("init", STDS)
def test_norms_start_as_the_identity_and_biases_at_zero(init):
    for name, p in tiny_model(WIDE, f"init={init} norm=layernorm").named_parameters():
        if name.endswith("gain"):
            assert (p == 1).all(), name
        elif name.endswith("bias") and (init != "torch" or "norm" in name):
            assert (p == 0).all(), name
        elif name.endswith("bias"):
            fan_in = F if "down" in name else C
            assert p.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.2), name


@pytest.mark.parametrize(("init", "flat"), [("kaiming", "uniform"), ("kaiming", "normal"), ("xavier", "normal")])
def test_the_distribution_is_the_one_asked_for(init, flat):
    w = tiny_model(WIDE, f"init={init} init.distribution={flat}").blocks[0].ffn.up.weight
    assert w.abs().max() / w.std() < math.sqrt(3.1) if flat == "uniform" else w.abs().max() / w.std() > 3.5


def test_small_is_cut_at_three_standard_deviations():
    assert tiny_model(WIDE, "init=small").embedding.weight.abs().max() <= 3 * (2 / 5 / C) ** 0.5


@pytest.mark.parametrize(("by", "depths"), [("layer", [1, 2, 3, 4]), ("depth", [4, 4, 4, 4])])
def test_depth_scaled_goes_by_the_layer_or_by_the_depth(by, depths):
    model = tiny_model(WIDE, f"init=depth_scaled init.std=0.1 init.cutoff=2 init.by={by} size.n_layer=4")
    cut = 0.880  # the standard deviation of N(0, 1) cut at 2
    for block, depth in zip(model.blocks, depths, strict=True):
        std = 0.1 / math.sqrt(2 * depth)
        assert block.ffn.down.weight.std().item() == pytest.approx(cut * std, rel=0.05)
        assert block.ffn.down.weight.abs().max() <= 2 * std
        assert block.ffn.up.weight.std().item() == pytest.approx(cut * 0.1, rel=0.05)


@pytest.mark.parametrize("wiring", ["block=serial", "block=parallel", "ffn=swiglu placement=double norm=rmsnorm"])
def test_with_zero_output_every_block_starts_as_the_identity(wiring):
    block = tiny_model("init=zero_output", wiring).blocks[0]
    x = torch.randn(2, 5, 16)
    assert torch.equal(block(x, NoPosition()), x)


@pytest.mark.parametrize("init", ["gpt2", "mup"])
@pytest.mark.parametrize("std", [0, 0.5])
def test_head_std_applies_to_the_output_matrix_alone(init, std):
    usual, other = (dict(tiny_model(WIDE, f"init={init}", s).named_parameters()) for s in ("", f"init.head_std={std}"))
    assert other["head.weight"].std().item() == pytest.approx(std, rel=0.05)
    assert [n for n in usual if not torch.equal(usual[n], other[n])] == ["head.weight"]


def test_gpt2_scales_by_its_std_and_depth():
    model = tiny_model(WIDE, "init.std=0.1 size.n_layer=8")
    assert model.embedding.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert model.blocks[5].ffn.down.weight.std().item() == pytest.approx(0.1 / 4, rel=0.05)


@pytest.mark.parametrize("ffn", ["relu", "gelu", "relu2", "swiglu"])
def test_kaiming_keeps_the_scale_through_the_ffn(ffn):
    net = tiny_model(WIDE, f"init=kaiming bias=false ffn={ffn}").blocks[0].ffn
    y = net(torch.randn(4096, C, generator=torch.Generator().manual_seed(0)))
    assert y.square().mean().item() == pytest.approx(1, rel=0.25)


def test_a_component_with_init_weights_draws_its_own():
    from gptlab.model.init import initialise

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(3, 3))

        def init_weights(self, generator):
            torch.nn.init.constant_(self.w, 7.0)

    model = torch.nn.ModuleDict({"own": Own()})
    initialise(model, None, seed=0)
    assert (model["own"].w == 7).all()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ("init.std=-1", r"^init.std=-1.0: must not be negative$"),
        ("init.head_std=1", r"^init.head_std=1.0: a tied head is the token table; set head.tied=false$"),
        ("init=depth_scaled init.std=0", r"^init.std=0.0: must be above 0$"),
        ("init=depth_scaled init.cutoff=0", r"^init.cutoff=0.0: must be above 0$"),
    ],
)
def test_impossible_settings_are_refused(settings, line):
    with pytest.raises(ConfigError, match=line):
        meta_model(tiny_config(settings))
