import math

import pytest
import torch
from tiny import WINDOW, component, noise, telling_model, tokens

from gptlab.config import ConfigError


def test_learned_adds_its_rows():
    position, x = component("position", "learned"), noise(2, 3, 16).float()
    torch.testing.assert_close(position.embed(x, 4), x + position.table[4:7])


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
    torch.testing.assert_close(rope.rotate(q, 0), expected_q, rtol=0, atol=1e-5)
    torch.testing.assert_close(rope.rotate(k, 0), expected_k, rtol=0, atol=1e-5)
    torch.testing.assert_close(rope.rotate(q[:, :, 5:], 5), expected_q[:, :, 5:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_rope_interleaved_is_gptjs(fraction):
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb, create_sinusoidal_positions

    width = int(8 * fraction)
    q = noise(2, 4, WINDOW, 8)
    sin, cos = create_sinusoidal_positions(WINDOW, width).double()[None].chunk(2, -1)
    turned = apply_rotary_pos_emb(q.transpose(1, 2)[..., :width], sin, cos).transpose(1, 2)  # theirs is (B, T, H, D)
    rope = component("position", "rope", head_dim=8, pairing="interleaved", fraction=fraction)
    expected = torch.cat([turned, q[..., width:]], -1)
    torch.testing.assert_close(rope.rotate(q, 0), expected, rtol=0, atol=1e-5)


def test_partial_rope_half_is_gptneoxs():
    from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

    q = noise(2, 4, WINDOW, 8)
    angle = torch.outer(torch.arange(WINDOW), 10000.0 ** -(torch.arange(0, 4, 2) / 4)).repeat(1, 2).double()
    expected, _ = apply_rotary_pos_emb(q, q, angle.cos()[None], angle.sin()[None])
    rope = component("position", "rope", head_dim=8, fraction=0.5)
    torch.testing.assert_close(rope.rotate(q, 0), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_scores_of_rotated_vectors_depend_on_the_distance_alone(fraction, pairing):
    rope = component("position", "rope", head_dim=8, fraction=fraction, pairing=pairing)
    q, k = noise(1, 1, 1, 8), noise(1, 1, 1, 8).flip(-1)
    scores = [(rope.rotate(q, i) * rope.rotate(k, i - 3)).sum() for i in range(3, WINDOW)]
    torch.testing.assert_close(torch.stack(scores), scores[0].expand(len(scores)), rtol=0, atol=1e-5)
    assert not torch.allclose(scores[0], (rope.rotate(q, 4) * rope.rotate(k, 0)).sum(), atol=1e-3)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("attention.head_dim=5", r"^position=rope: .*1 x head width 5 must be even"),
        ("position.fraction=0.3", r"^position=rope: .*0.3 x head width 4 must be even"),
        ("position.fraction=1.5", r"^position.fraction=1.5: must be above 0 and at most 1$"),
        ("position.theta=0", r"^position.theta=0.0: must be above 0$"),
    ],
)
def test_what_cannot_be_rotated_is_refused(overrides, line):
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


def test_the_slopes_of_the_paper():
    torch.testing.assert_close(component("position", "alibi", n_head=8).slopes, 0.5 ** torch.arange(1.0, 9.0))


@pytest.mark.parametrize("position", ["rope", "alibi"])
def test_relative_schemes_do_not_see_where_a_text_begins(position):
    model = telling_model(f"position={position}", "attention.window=3", "size.n_layer=1")
    whole = model(tokens())
    tail = model(tokens()[:, 4:])
    torch.testing.assert_close(tail[:, 2:], whole[:, 6:], rtol=0, atol=1e-5)


def test_without_positions_the_order_of_what_went_before_does_not_show():
    model = telling_model("position=none", "size.n_layer=1")
    swapped = tokens()[:, [1, 0, *range(2, WINDOW)]]
    torch.testing.assert_close(model(tokens())[:, 2:], model(swapped)[:, 2:])
