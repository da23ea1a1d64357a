"""The wiring: placements, blocks and the head, and whole models against transformers."""

import pytest
import torch
from torch import nn

from gptlab import build_model, load_config
from gptlab.config import ConfigError
from tiny import TINY, VOCAB, WINDOW, component, noise, telling_model, tiny_model, tokens

PLACEMENTS = {
    "pre": lambda x, f, n: x + f(n[0](x)),
    "pre_residual": lambda x, f, n: n[0](x) + f(n[0](x)),
    "post": lambda x, f, n: n[0](x + f(x)),
    "double": lambda x, f, n: x + n[1](f(n[0](x))),
    "output": lambda x, f, n: x + n[0](f(x)),
    "none": lambda x, f, n: x + f(x),
}
FINAL_NORM = {"pre": True, "pre_residual": True, "post": False, "double": True, "output": True, "none": False}


def norms_of(placement):
    return [m for m in placement.modules() if isinstance(m, nn.RMSNorm)]


def a_norm():
    norm = nn.RMSNorm(16, dtype=torch.float64)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    return norm


@pytest.mark.parametrize("name", PLACEMENTS)
def test_a_placement_is_its_equation(name):
    placement, f, x = component("placement", name, norm=a_norm), nn.Linear(16, 16).double(), noise(2, 5, 16)
    expected = PLACEMENTS[name](x, f, norms_of(placement))
    torch.testing.assert_close(placement(x, f), expected)
    torch.testing.assert_close(placement.merge(x, placement.branch(x, f)), expected)


@pytest.mark.parametrize("name", PLACEMENTS)
def test_the_final_norm_belongs_to_the_placement(name):
    model = telling_model(f"placement={name} norm=rmsnorm")
    assert isinstance(model.norm, nn.Identity) != FINAL_NORM[name]


@pytest.mark.parametrize("name", PLACEMENTS)
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_a_serial_block_is_two_sublayers(name, scale):
    block = telling_model(f"placement={name} block.branch_scale={scale}").blocks[0]
    x, none = noise(2, WINDOW, 16), component("position", "none")
    h = block.attention_placement(x, lambda y: scale * block.attention(y, none))
    torch.testing.assert_close(block(x, none), block.ffn_placement(h, lambda y: scale * block.ffn(y)))


@pytest.mark.parametrize(
    ("wiring", "equation"),
    [
        ("pre", lambda x, a, f, p, q: x + a(p.norm(x)) + f(p.norm(x))),
        ("pre_residual", lambda x, a, f, p, q: p.norm(x) + a(p.norm(x)) + f(p.norm(x))),
        ("post", lambda x, a, f, p, q: p.norm(x + a(x) + f(x))),
        ("output", lambda x, a, f, p, q: x + p.norm(a(x) + f(x))),
        ("double", lambda x, a, f, p, q: x + p.norm_out(a(p.norm_in(x)) + f(p.norm_in(x)))),
        ("none", lambda x, a, f, p, q: x + a(x) + f(x)),
        ("pre block.shared_norm=false", lambda x, a, f, p, q: x + a(p.norm(x)) + f(q.norm(x))),
        ("output block.shared_norm=false", lambda x, a, f, p, q: x + p.norm(a(x)) + q.norm(f(x))),
        (
            "double block.shared_norm=false",
            lambda x, a, f, p, q: x + p.norm_out(a(p.norm_in(x))) + q.norm_out(f(q.norm_in(x))),
        ),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_a_parallel_block_is_its_equation(wiring, equation, scale):
    block = telling_model(f"block=parallel placement={wiring} block.branch_scale={scale}").blocks[0]
    x, none = noise(2, WINDOW, 16), component("position", "none")

    def attention(y):
        return scale * block.attention(y, none)

    expected = equation(x, attention, lambda y: scale * block.ffn(y), block.placement, block.ffn_placement)
    torch.testing.assert_close(block(x, none), expected)


@pytest.mark.parametrize("placement", ["pre_residual", "post", "none"])
def test_two_norms_need_a_placement_that_norms_the_branch(placement):
    with pytest.raises(ConfigError, match=r"^block.shared_norm=false: this placement has no norm on a branch"):
        telling_model(f"block=parallel block.shared_norm=false placement={placement}")


def drawn(module):
    """In float64, with large weights, none of which is trained."""
    for p in module.double().requires_grad_(False).parameters():
        p.copy_(noise(*p.shape))
    return module


HEADS = [{}, {"tied": False}, {"bias": True}, {"softcap": 2.0}, {"scale": 0.1}, {"scale": 0.1, "softcap": 2.0}]


@pytest.mark.parametrize("knobs", [*HEADS, {"width": 8}, {"width": 16}, {"width": 8, "tied": False, "scale": 3.0}])
def test_the_head_is_its_equation(knobs):
    head, table = drawn(component("head", "linear", **knobs)), noise(VOCAB, knobs.get("width", 16))
    x = noise(2, 5, 16)
    projected = x @ head.project.weight.T if knobs.get("width") == 8 else x
    z = projected @ (head.weight.T if "tied" in knobs else table.T) + (head.bias if "bias" in knobs else 0)
    z = knobs.get("scale", 1) * z
    torch.testing.assert_close(head(x, table), 2 * torch.tanh(z / 2) if "softcap" in knobs else z)
    projects = knobs.get("width") == 8
    assert len(list(head.parameters())) == len({"tied", "bias"} & knobs.keys()) + projects


@pytest.mark.parametrize("width", [None, 16, 8])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(
    ("knobs", "factor"), [({}, 1), ({"scale": 3.0}, 3), ({"scale": 0.5, "scale_by_width": True}, 2)]
)
def test_the_embedding_is_its_equation(width, normed, knobs, factor):
    """`scale_by_width` is by the root of the stream's 16, whatever the table's width is."""

    def norm(dim=16):
        return component("norm", "rmsnorm", dim=dim, eps=0.1)

    embedding = drawn(component("embedding", "table", norm=norm, normed=normed, width=width, **knobs))
    expected = embedding.weight[tokens()] * factor
    if normed:
        expected = expected / (expected.square().mean(-1, keepdim=True) + 0.1).sqrt() * embedding.norm.gain
    expected = expected @ embedding.project.weight.T if width == 8 else expected
    torch.testing.assert_close(embedding(tokens()), expected)
    assert len(list(embedding.parameters())) == 1 + normed + (width == 8)


@pytest.mark.parametrize("tied", ["true", "false"])
def test_the_input_does_not_train_the_padding_vector(tied):
    """Which is read like any other, and which a tied head trains."""
    model = tiny_model("embedding.padding_idx=3", f"head.tied={tied}")
    read = set(tokens().flatten().tolist())
    assert 3 in read
    model(tokens()).square().sum().backward()
    zero = (model.embedding.weight.grad == 0).all(-1)
    assert zero.tolist() == [tied == "false" and t not in read - {3} for t in range(VOCAB)]
    assert torch.equal(model(tokens()), tiny_model(f"head.tied={tied}")(tokens()))


@pytest.mark.parametrize(
    ("knobs", "line"),
    [
        ("head.width=8", r"head.width=8: is tied to the token table; set it to embedding.width=16"),
        ("embedding.width=8", r"head.width=16: is tied to the token table; set it to embedding.width=8"),
        ("embedding.width=0 head.tied=false", r"embedding.width=0: must be at least 1; null for the stream's"),
        ("head.width=-8 head.tied=false", r"head.width=-8: must be above 0; null for none"),
        ("head.softcap=0", r"head.softcap=0.0: must be above 0; null for none"),
        (
            f"embedding.padding_idx={VOCAB}",
            rf"embedding.padding_idx={VOCAB}: must be a token, from 0 to {VOCAB - 1}; .*",
        ),
        ("embedding.padding_idx=-1", r"embedding.padding_idx=-1: must be a token, from 0 to .*"),
    ],
)
def test_contradictory_table_settings_are_refused(knobs, line):
    with pytest.raises(ConfigError, match=f"^{line}$"):
        tiny_model(knobs)


@pytest.mark.parametrize("knobs", ["embedding.width=16", "head.width=16", "embedding.width=8 head.width=8"])
def test_a_tied_head_needs_the_width_of_the_table(knobs):
    assert tiny_model(knobs)(tokens()).shape == (2, WINDOW, VOCAB)


def test_a_bias_in_the_head_contradicts_bias_off():
    with pytest.raises(ConfigError, match=r"^head.bias=true: bias=false leaves no bias anywhere"):
        telling_model("head.bias=true bias=false")


def test_more_tokens_than_the_window_are_refused():
    with pytest.raises(ValueError, match=f"{WINDOW + 1} tokens: the model was built for at most {WINDOW}"):
        telling_model()(tokens(length=WINDOW + 1))


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match=r"^size.n_head=3: must divide size.dim=16; or set attention.head_dim$"):
        telling_model("size.n_head=3")


@pytest.fixture
def quiet_transformers():
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(level)


def redrawn(theirs):
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            p.copy_(0.4 * noise(len(name), *p.shape)[-1] + ("norm" in name or "ln_" in name) * name.endswith("weight"))
    return theirs.double().eval()


def assert_same_logits(ours, theirs, weights):
    ours.load_state_dict(weights)
    expected = theirs(tokens()).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(ours.double().eval()(tokens()), expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("quiet_transformers")
def test_gpt2_is_transformers_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    theirs = redrawn(GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=4, vocab_size=VOCAB, n_positions=WINDOW)))
    w = theirs.state_dict()
    mapped = {
        "embedding.weight": w["transformer.wte.weight"],
        "position.table": w["transformer.wpe.weight"],
        "norm.gain": w["transformer.ln_f.weight"],
        "norm.bias": w["transformer.ln_f.bias"],
    }
    names = {"attn.c_proj": "attention.out", "mlp.c_fc": "ffn.up", "mlp.c_proj": "ffn.down"}
    for i in range(2):
        for theirs_name, ours_name in names.items():
            mapped[f"blocks.{i}.{ours_name}.weight"] = w[f"transformer.h.{i}.{theirs_name}.weight"].T
            mapped[f"blocks.{i}.{ours_name}.bias"] = w[f"transformer.h.{i}.{theirs_name}.bias"]
        for part, matrix, bias in zip(
            "qkv",
            w[f"transformer.h.{i}.attn.c_attn.weight"].split(16, 1),
            w[f"transformer.h.{i}.attn.c_attn.bias"].split(16),
            strict=True,
        ):
            mapped |= {f"blocks.{i}.attention.{part}.weight": matrix.T, f"blocks.{i}.attention.{part}.bias": bias}
        for ln, placement in (("ln_1", "attention_placement"), ("ln_2", "ffn_placement")):
            mapped[f"blocks.{i}.{placement}.norm.gain"] = w[f"transformer.h.{i}.{ln}.weight"]
            mapped[f"blocks.{i}.{placement}.norm.bias"] = w[f"transformer.h.{i}.{ln}.bias"]
    assert_same_logits(build_model(load_config(["preset=gpt2", *TINY, "train.dropout=0"])), theirs, mapped)


@pytest.mark.usefixtures("quiet_transformers")
def test_llama_is_transformers_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    theirs = redrawn(
        LlamaForCausalLM(
            LlamaConfig(
                num_hidden_layers=2,
                hidden_size=16,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=VOCAB,
                intermediate_size=24,
                rms_norm_eps=1e-6,
                rope_parameters={"rope_type": "default", "rope_theta": 500.0},
            )
        )
    )
    names = {
        **{f"self_attn.{x}_proj.weight": f"attention.{x}.weight" for x in "qkv"},
        "self_attn.o_proj.weight": "attention.out.weight",
        **{f"mlp.{x}_proj.weight": f"ffn.{x}.weight" for x in ("gate", "up", "down")},
        "input_layernorm.weight": "attention_placement.norm.gain",
        "post_attention_layernorm.weight": "ffn_placement.norm.gain",
    }
    w = theirs.state_dict()
    mapped = {f"blocks.{i}.{ours}": w[f"model.layers.{i}.{name}"] for i in range(2) for name, ours in names.items()}
    mapped |= {
        "embedding.weight": w["model.embed_tokens.weight"],
        "norm.gain": w["model.norm.weight"],
        "head.weight": w["lm_head.weight"],
    }
    knobs = ["attention.n_kv_head=2", "ffn.hidden=24", "position.theta=500"]
    assert_same_logits(build_model(load_config(["preset=llama", *TINY, *knobs])), theirs, mapped)
