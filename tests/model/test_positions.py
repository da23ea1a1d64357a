import math

import pytest
import torch

from gptlab.config import ConfigError
from tiny import WINDOW, component, noise, telling_model, tokens


def test_learned_adds_its_rows():
    position, x = component("position", "learned"), noise(2, 3, 16).float()
    torch.testing.assert_close(position.embed(x, 4), x + position.table[4:7])


def test_learned_starts_at_the_row_of_its_offset():
    from transformers.models.opt.modeling_opt import OPTLearnedPositionalEmbedding

    position, theirs = component("position", "learned", offset=2), OPTLearnedPositionalEmbedding(WINDOW, 16)
    theirs.load_state_dict({"weight": position.table})
    expected = theirs(torch.ones(1, WINDOW))
    torch.testing.assert_close(position.embed(torch.zeros(1, WINDOW, 16), 0), expected, rtol=0, atol=0)
    torch.testing.assert_close(position.embed(torch.zeros(1, 3, 16), 9), expected[:, 9:], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["learned", "sinusoidal"])
def test_an_offset_below_zero_is_refused(name):
    with pytest.raises(ConfigError, match=r"^position.offset=-1: must not be negative$"):
        component("position", name, offset=-1)


def waves(**knobs):
    """The table of sinusoidal positions, (T, C)."""
    return component("position", "sinusoidal", **knobs).embed(torch.zeros(1, WINDOW, 16, dtype=torch.float64), 0)[0]


def test_inclusive_sinusoidal_in_halves_is_tensor2tensors():
    """common_attention.get_timing_signal_1d: sin and cos of t / 10000^(i / (C/2 - 1)), one after the other."""
    angle = torch.outer(torch.arange(WINDOW), 10000.0 ** -(torch.arange(8, dtype=torch.float64) / 7))
    expected = torch.cat([angle.sin(), angle.cos()], 1)
    torch.testing.assert_close(waves(layout="halves", inclusive=True), expected, rtol=0, atol=1e-6)


def test_inclusive_sinusoidal_in_halves_is_xglms():
    from transformers.models.xglm.modeling_xglm import XGLMSinusoidalPositionalEmbedding

    theirs = XGLMSinusoidalPositionalEmbedding(WINDOW, 16, padding_idx=1)(torch.arange(WINDOW)[None])
    ours = waves(layout="halves", inclusive=True, offset=2)  # theirs adds 2 itself
    torch.testing.assert_close(ours, theirs[0].double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", ["interleaved", "halves"])
@pytest.mark.parametrize("inclusive", [False, True])
def test_each_setting_of_sinusoidal_does_one_thing(layout, inclusive):
    """The layout orders the channels, the offset shifts the positions."""
    table = waves(layout=layout, inclusive=inclusive)
    torch.testing.assert_close(waves(layout=layout, inclusive=inclusive, offset=3)[:-3], table[3:], rtol=0, atol=0)
    ordered = waves(inclusive=inclusive)
    if layout == "halves":
        ordered = torch.cat([ordered[:, ::2], ordered[:, 1::2]], 1)
    torch.testing.assert_close(table, ordered, rtol=0, atol=0)
    assert torch.equal(waves(layout=layout), table) != inclusive


def test_inclusive_needs_two_frequencies():
    with pytest.raises(ConfigError, match=r"^position.inclusive=true: needs size.dim of at least 4, not 2$"):
        component("position", "sinusoidal", dim=2, inclusive=True)


@pytest.mark.parametrize("dim", [16, 7])
def test_sinusoidal_is_the_formula_of_the_paper(dim):
    position = component("position", "sinusoidal", dim=dim, theta=100.0, scale=0.5)
    table = position.embed(torch.zeros(1, WINDOW, dim, dtype=torch.float64), 0)[0]
    for pos in range(WINDOW):
        for channel in range(dim):
            angle = pos / 100 ** (2 * (channel // 2) / (dim + dim % 2))
            expected = 0.5 * (math.cos(angle) if channel % 2 else math.sin(angle))
            assert table[pos, channel].item() == pytest.approx(expected, abs=1e-6)
    later = position.embed(torch.zeros(1, 3, dim, dtype=torch.float64), 5)[0]
    torch.testing.assert_close(later, table[5:8])


def test_rope_half_is_llamas():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(
        hidden_size=32, num_attention_heads=4, rope_parameters={"rope_type": "default", "rope_theta": 500.0}
    )
    q, k = noise(2, 4, WINDOW, 8), noise(2, 2, WINDOW, 8)
    cos, sin = LlamaRotaryEmbedding(config)(q, torch.arange(WINDOW)[None])
    expected_q, expected_k = apply_rotary_pos_emb(q, k, cos, sin)
    rope = component("position", "rope", head_dim=8, theta=500.0)
    torch.testing.assert_close(rope.rotate(q, 0, 0), expected_q, rtol=0, atol=1e-5)
    torch.testing.assert_close(rope.rotate(k, 0, 0), expected_k, rtol=0, atol=1e-5)
    torch.testing.assert_close(rope.rotate(q[:, :, 5:], 5, 0), expected_q[:, :, 5:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_rope_interleaved_is_gptjs(fraction):
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb, create_sinusoidal_positions

    width = int(8 * fraction)
    q = noise(2, 4, WINDOW, 8)
    sin, cos = create_sinusoidal_positions(WINDOW, width).double()[None].chunk(2, -1)
    turned = apply_rotary_pos_emb(q.transpose(1, 2)[..., :width], sin, cos).transpose(1, 2)  # theirs is (B, T, H, D)
    rope = component("position", "rope", head_dim=8, pairing="interleaved", fraction=fraction)
    expected = torch.cat([turned, q[..., width:]], -1)
    torch.testing.assert_close(rope.rotate(q, 0, 0), expected, rtol=0, atol=1e-5)


def test_partial_rope_half_is_gptneoxs():
    from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

    q = noise(2, 4, WINDOW, 8)
    angle = torch.outer(torch.arange(WINDOW), 10000.0 ** -(torch.arange(0, 4, 2) / 4)).repeat(1, 2).double()
    expected, _ = apply_rotary_pos_emb(q, q, angle.cos()[None], angle.sin()[None])
    rope = component("position", "rope", head_dim=8, fraction=0.5)
    torch.testing.assert_close(rope.rotate(q, 0, 0), expected, rtol=0, atol=1e-5)


def turned(rope, layer_idx=0):
    """The first of each of 4 pairs of channels at 1, the second at 0, after the turn at each position: (2, T, 4)."""
    first, second = (slice(0, None, 2), slice(1, None, 2)) if rope.interleaved else (slice(0, 4), slice(4, 8))
    x = torch.zeros(1, 1, WINDOW, 8, dtype=torch.float64)
    x[..., first] = 1
    y = rope.rotate(x, 0, layer_idx)[0, 0]
    return torch.stack([y[:, first], y[:, second]])


def cos_and_sin(frequency):
    angle = torch.outer(torch.arange(WINDOW, dtype=torch.float64), frequency.double())
    return torch.stack([angle.cos(), angle.sin()])


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize(
    ("scaling", "knobs"),
    [  # at theta=100 pairs turn every 6, 20, 63 and 199 tokens: some all, some in part, some not
        ("linear", {"factor": 4.0}),
        ("llama3", {"factor": 8.0, "original_window": 64, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
        ("llama3", {"factor": 3.0, "original_window": 256, "low_freq_factor": 2.0, "high_freq_factor": 9.0}),
    ],
)
def test_scaled_rope_is_transformers(scaling, knobs, pairing):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    names = {"original_window": "original_max_position_embeddings"}
    parameters = {"rope_type": scaling, "rope_theta": 100.0, **{names.get(k, k): v for k, v in knobs.items()}}
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, rope_parameters=parameters)
    frequency, _ = ROPE_INIT_FUNCTIONS[scaling](config, torch.device("cpu"))
    rope = component("position", "rope", head_dim=8, theta=100.0, pairing=pairing, scaling=scaling, **knobs)
    torch.testing.assert_close(turned(rope), cos_and_sin(frequency), rtol=0, atol=1e-5)


def test_the_pattern_of_rope_repeats_over_the_layers():
    knobs = {"pattern": "RLN", "local_theta": 100.0, "scaling": "linear", "factor": 2.0}
    rope = component("position", "rope", head_dim=8, **knobs)
    pairs = torch.arange(4) / 4
    kinds = [10000.0**-pairs / 2, 100.0**-pairs, torch.zeros(4)]  # with local_theta nothing is scaled
    for layer_idx in range(7):
        torch.testing.assert_close(turned(rope, layer_idx), cos_and_sin(kinds[layer_idx % 3]), rtol=0, atol=1e-5)


def test_a_layer_that_is_not_rotated_is_as_without_positions():
    mixed, rotated, none = (
        telling_model(p) for p in ("position=rope position.pattern=RN", "position=rope", "position=none")
    )
    x = noise(2, WINDOW, 16)
    for layer_idx, same in enumerate((rotated, none)):
        y, expected = (m.blocks[layer_idx](x, m.position) for m in (mixed, same))
        torch.testing.assert_close(y, expected)
        other = (none, rotated)[layer_idx]
        assert not torch.allclose(y, other.blocks[layer_idx](x, other.position))


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_scores_of_rotated_vectors_depend_on_the_distance_alone(fraction, pairing):
    rope = component("position", "rope", head_dim=8, fraction=fraction, pairing=pairing)
    q, k = noise(1, 1, 1, 8), noise(1, 1, 1, 8).flip(-1)
    scores = [(rope.rotate(q, i, 0) * rope.rotate(k, i - 3, 0)).sum() for i in range(3, WINDOW)]
    torch.testing.assert_close(torch.stack(scores), scores[0].expand(len(scores)), rtol=0, atol=1e-5)
    assert not torch.allclose(scores[0], (rope.rotate(q, 4, 0) * rope.rotate(k, 0, 0)).sum(), atol=1e-3)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("attention.head_dim=5", r"^position=rope: .*1 x head width 5 must be even"),
        ("position.fraction=0.3", r"^position=rope: .*0.3 x head width 4 must be even"),
        ("position.fraction=1.5", r"^position.fraction=1.5: must be above 0 and at most 1$"),
        ("position.theta=0", r"^position.theta=0.0: must be above 0$"),
        ("position.scaling=linear position.factor=0", r"^position.factor=0.0: must be above 0$"),
        ("position.pattern=RG", r"^position.pattern=RG: must be a string of R "),
        ("position.pattern=LR", r"^position.local_theta=null: position.pattern=LR has an L, which needs one"),
        ("position.local_theta=9", r"^position.local_theta=9.0: position.pattern=R has no L to use it; add an L$"),
        ("position.pattern=L position.local_theta=-1", r"^position.local_theta=-1.0: must be above 0$"),
        ("position.scaling=llama3 position.low_freq_factor=4", r"^position.low_freq_factor=4.0: must be below high"),
    ],
)
def test_impossible_rope_settings_are_refused(overrides, line):
    with pytest.raises(ConfigError, match=line):
        telling_model("position=rope", overrides)


@pytest.mark.parametrize("n_head", [1, 2, 3, 4, 6, 8, 12, 16, 20, 25, 32])
def test_alibi_is_blooms(n_head):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    theirs = build_alibi_tensor(torch.ones(1, WINDOW), n_head, torch.float32)  # slope * j: the same but for the query's
    position = component("position", "alibi", n_head=n_head)
    head, j = torch.arange(n_head)[:, None, None], torch.arange(WINDOW)
    ours = position.score_bias(head, torch.tensor(WINDOW - 1), j)
    torch.testing.assert_close(ours - ours[..., :1], theirs)
    assert (ours[..., -1] == 0).all() and (ours <= 0).all()


@pytest.mark.parametrize("n_head", [4, 6])
def test_alibi_in_bf16_is_falcons(n_head):
    """At 600 tokens, of which bfloat16 cannot tell one from the next."""
    from transformers.models.falcon.modeling_falcon import build_alibi_tensor

    theirs = build_alibi_tensor(torch.ones(1, 600).long(), n_head, torch.float32)
    head, j = torch.arange(n_head)[:, None, None], torch.arange(600)
    ours = component("position", "alibi", n_head=n_head, bf16=True, scale=8**-0.5).score_bias(head, j[:1], j)
    torch.testing.assert_close(ours, theirs * 8**-0.5)
    exact = component("position", "alibi", n_head=n_head).score_bias(head, j[:1], j)
    assert (ours * 8**0.5 - exact).abs().max() > 0.5


def test_the_scale_of_alibi_multiplies_its_slopes():
    head, j = torch.arange(4)[:, None, None], torch.arange(WINDOW)
    one, half = (component("position", "alibi", scale=s).score_bias(head, j[:, None], j) for s in (1.0, 0.5))
    torch.testing.assert_close(half, 0.5 * one)


def test_the_slopes_of_the_paper():
    torch.testing.assert_close(component("position", "alibi", n_head=8).slopes, 0.5 ** torch.arange(1.0, 9.0))


@pytest.mark.parametrize("position", ["rope", "alibi"])
def test_relative_positions_do_not_depend_on_where_a_text_begins(position):
    model = telling_model(f"position={position}", "attention.window=3", "size.n_layer=1")
    whole = model(tokens())
    tail = model(tokens()[:, 4:])
    torch.testing.assert_close(tail[:, 2:], whole[:, 6:], rtol=0, atol=1e-5)


def test_without_positions_the_order_of_earlier_tokens_does_not_matter():
    model = telling_model("position=none", "size.n_layer=1")
    swapped = tokens()[:, [1, 0, *range(2, WINDOW)]]
    torch.testing.assert_close(model(tokens())[:, 2:], model(swapped)[:, 2:])
