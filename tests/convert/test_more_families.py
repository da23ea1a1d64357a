"""Flags that the families without a preset refuse, and rotary scaling against the frequencies of transformers."""

import inspect
import sys

import pytest
import torch

from gptlab import build_model

pytest.importorskip("transformers")
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from gptlab.convert import from_hf, to_hf
from gptlab.convert.config_fields import Unsupported
from gptlab.convert.models import read_config, write_config
from parity import redrawn
from parity_configs import COHERE, GPT, LLAMA, layers, rope
from parity_more import CTRL, GEMMA, MPT, SLIDING, YARN, by_layer

REFUSED = [
    ("mistral", LLAMA | YARN | {"rope_parameters": YARN["rope_parameters"] | {"truncate": False}}, "truncate=False"),
    ("mistral", LLAMA | rope(30.0, "dynamic", factor=2.0, alpha=3.0), "rope_parameters.alpha=3.0"),
    ("mistral", LLAMA | rope(30.0, partial_rotary_factor=0.5), "rope_parameters.partial_rotary_factor=0.5"),
    ("qwen2", LLAMA | SLIDING, "sliding_window=None"),
    ("qwen2", LLAMA | {"hidden_act": "xielu"}, "hidden_act=xielu"),
    ("phi3", LLAMA | {"head_dim": 12}, "head_dim=12"),
    ("helium", LLAMA | {"head_dim": 12}, "head_dim=12"),
    ("stablelm", COHERE | {"head_dim": 12}, "head_dim=12"),
    ("gemma", LLAMA | {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
    ("gemma3_text", GEMMA | {"attn_logit_softcapping": 1.0}, "attn_logit_softcapping=1.0"),
    (
        "gemma3_text",
        GEMMA | {"num_hidden_layers": 6} | by_layer(rope(500.0), rope(20.0, "linear", factor=2.0)),
        "rope_parameters.sliding_attention.rope_type=linear",
    ),
    ("olmo3", LLAMA | layers("full", "chunked", "full"), "layer_types=chunked_attention"),
    ("olmo3", LLAMA | {"sliding_window": None}, "sliding_window=None"),
    ("hyperclovax", LLAMA | {"residual_multiplier": 0.5}, "residual_multiplier=0.5"),
    ("gpt_bigcode", GPT | {"add_cross_attention": True, "multi_query": False}, "add_cross_attention=True"),
    ("codegen", GPT | {"rotary_dim": 4, "n_head": 2}, "n_head=2"),
    ("codegen", GPT, "rotary_dim=64"),
    ("mpt", MPT | {"attn_config": {"alibi_bias_max": 16}}, "attn_config.alibi_bias_max=16"),
    ("mpt", MPT | {"attn_config": {"qk_ln": True}}, "attn_config.qk_ln=True"),
    ("mpt", MPT | {"expansion_ratio": 2}, "expansion_ratio=2"),
    ("ctrl", CTRL | {"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon=1e-05"),
    ("ctrl", CTRL | {"n_embd": 33, "n_head": 3}, "n_embd=33"),
    ("hunyuan_v1_dense", LLAMA, "model_type=hunyuan_v1_dense"),
    ("gpt_neox_japanese", {}, "model_type=gpt_neox_japanese"),
    ("apertus", {}, "model_type=apertus"),
    ("diffllama", {}, "model_type=diffllama"),
    ("granite_swa", {}, "model_type=granite_swa"),
    ("ministral3", {}, "model_type=ministral3"),
]


@pytest.mark.parametrize(("model_type", "flags", "named"), REFUSED, ids=[f"{t}: {n}" for t, _, n in REFUSED])
def test_a_flag_without_a_component_is_refused_by_name(model_type, flags, named):
    config = AutoConfig.for_model(model_type, **flags)
    with pytest.raises(Unsupported) as e:
        read_config(config, source=code_of(config))
    assert named in str(e.value)
    assert "\n" not in str(e.value)


def code_of(config):
    return inspect.getsource(sys.modules[MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__module__])


FACTORS = [
    YARN,
    rope(30.0, "yarn", factor=3.0, original_max_position_embeddings=4),
    rope(1e6, "yarn", factor=4.0, original_max_position_embeddings=32768),
    rope(500.0, "yarn", factor=8.0, attention_factor=1.2, original_max_position_embeddings=8192),
    rope(500.0, "yarn", factor=8.0, mscale=0.7, mscale_all_dim=0.4, truncate=True),
    rope(500.0, "yarn", factor=None, original_max_position_embeddings=5),
    rope(30.0, "llama3", factor=4.0, low_freq_factor=0.3, high_freq_factor=2.0),
    rope(500.0, "linear", factor=2.5),
]


@pytest.mark.parametrize("flags", FACTORS, ids=lambda flags: str(list(flags["rope_parameters"].values())))
@pytest.mark.parametrize("head_dim", [8, 32])
def test_scaled_rotations_equal_those_of_transformers(flags, head_dim):
    config = AutoConfig.for_model("qwen2", vocab_size=37, **LLAMA | flags | {"head_dim": head_dim})
    frequency, gain = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config)
    position = build_model(read_config(config)).position
    angle = torch.outer(torch.arange(17.0), frequency).repeat(1, 2)
    torch.testing.assert_close(position.cos, angle.cos() * gain, rtol=0, atol=5e-6)
    torch.testing.assert_close(position.sin, angle.sin() * gain, rtol=0, atol=5e-6)
    assert read_config(write_config(read_config(config), model_type="qwen2")) == read_config(config)


def test_a_model_without_an_origin_becomes_the_most_common_class():
    ours = from_hf(redrawn("iquestcoder", LLAMA | {"head_dim": 8}))
    ours.hf_config = None
    assert to_hf(ours).config.model_type == "llama"
