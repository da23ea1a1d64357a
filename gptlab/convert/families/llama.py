"""Llama, and families that differ from it in a flag, a bias, or matrices that are fused."""

from collections.abc import Mapping

from gptlab.convert.config_fields import Field, Flags, FlatConfig, biases, either, padding, refuse, same, windows
from gptlab.convert.families.base import (
    ATTENTION_BIAS,
    FUSED_GATE,
    GATED_ACT,
    GROUPED_QKV,
    HIDDEN,
    LAYER_NORM_EPS,
    LLAMA,
    LLAMA_BIAS,
    LLAMA_RMS,
    LLAMA_SIZES,
    MLP_BIAS,
    PLAIN_ACT,
    QKV_BIAS,
    RMS_EPS,
    SIZES,
    WINDOW,
    family,
    llama_like,
)
from gptlab.convert.rotary import rope
from gptlab.convert.weight_map import QKV, Layout


def qk_layernorm(settings: Mapping[str, object]) -> Field:
    """Return a field for a switch of layer norms of queries and keys, which then have these settings too."""

    def read(c: Flags) -> FlatConfig:
        on = {"qk_norm": "layernorm", "qk_norm.eps": c["layer_norm_eps"], **settings}
        return on if c["qk_layernorm"] else {"qk_norm": "none"}

    return Field(("qk_layernorm", "layer_norm_eps"), read, lambda s: {"qk_layernorm": s["qk_norm"] == "layernorm"})


def _helium_head(c: Flags) -> FlatConfig:
    if c["head_dim"] * c["num_attention_heads"] != c["hidden_size"]:
        raise refuse("head_dim", c["head_dim"], "the heads together must be as wide as the model")
    return {"attention.head_dim": c["head_dim"]}


LLAMA_FAMILIES = (
    family("llama", "norm=rmsnorm", *LLAMA_RMS, LLAMA_BIAS, MLP_BIAS, harmless=("pretraining_tp",)),
    family(
        "phi",
        "block=parallel head.bias=true",
        *LLAMA,
        PLAIN_ACT,
        LAYER_NORM_EPS,
        rope(partial=True),
        qk_layernorm({}),
        weights=llama_like(
            {
                "input_layernorm": "placement.norm",
                "self_attn.dense": "attention.out",
                "self_attn.q_layernorm": "attention.q_norm",
                "self_attn.k_layernorm": "attention.k_norm",
                "mlp.fc1": "ffn.up",
                "mlp.fc2": "ffn.down",
            },
            final_norm="model.final_layernorm",
        ),
    ),
    family(
        "starcoder2",
        "block.branch_scale=1",
        *LLAMA,
        PLAIN_ACT,
        same("norm_epsilon", "norm.eps"),
        rope(),
        windows(types=None),
        biases("use_bias", *ATTENTION_BIAS, "ffn.bias"),
        weights=llama_like({"mlp.c_fc": "ffn.up", "mlp.c_proj": "ffn.down"}),
    ),
    family("iquestcoder", "norm=rmsnorm", *LLAMA_RMS, LLAMA_BIAS, MLP_BIAS),
    family("internlm3", "norm=rmsnorm", *LLAMA_RMS, LLAMA_BIAS, MLP_BIAS),
    family("mistral", "norm=rmsnorm bias=false", *LLAMA_RMS, windows(types=None)),
    family("ministral", "norm=rmsnorm bias=false", *LLAMA_RMS, windows()),
    family(
        "qwen2",
        "norm=rmsnorm attention.out_bias=false ffn.bias=false",
        *LLAMA_RMS,
        windows(switch="use_sliding_window"),
        harmless=("max_window_layers",),
    ),
    family(
        "cwm",
        "norm=rmsnorm attention.qkv_bias=false attention.out_bias=false",
        *LLAMA_RMS,
        windows(),
        MLP_BIAS,
        harmless=("pretraining_tp",),
    ),
    family(
        "seed_oss",
        "norm=rmsnorm",
        *LLAMA_RMS,
        QKV_BIAS,
        biases("attention_out_bias", "attention.out_bias"),
        MLP_BIAS,
        harmless=("pretraining_tp",),
    ),
    family("arcee", "norm=rmsnorm", *LLAMA, PLAIN_ACT, RMS_EPS, rope(), LLAMA_BIAS, MLP_BIAS),
    family("jais2", "norm=layernorm", *LLAMA, PLAIN_ACT, LAYER_NORM_EPS, rope(), LLAMA_BIAS, MLP_BIAS),
    family(
        "ernie4_5",
        "norm=rmsnorm",
        *LLAMA,
        GATED_ACT,
        RMS_EPS,
        rope(pairing="interleaved"),
        biases("use_bias", *ATTENTION_BIAS, "ffn.bias"),
    ),
    family(
        "helium",
        "norm=rmsnorm attention.out_bias=false",
        *LLAMA_SIZES,
        Field(("head_dim",), _helium_head, lambda s: {"head_dim": s["attention.head_dim"]}),
        GATED_ACT,
        RMS_EPS,
        rope(pairing="interleaved"),
        QKV_BIAS,
        MLP_BIAS,
    ),
    family(
        "nemotron",
        "norm=layernorm norm.zero_centered=true",
        *LLAMA,
        PLAIN_ACT,
        same("norm_eps", "norm.eps"),
        rope(partial=True),
        LLAMA_BIAS,
        MLP_BIAS,
    ),
    family(
        "stablelm",
        "norm=layernorm attention.out_bias=false ffn.bias=false",
        *LLAMA_SIZES,
        GATED_ACT,
        LAYER_NORM_EPS,
        rope(partial=True),
        biases("use_qkv_bias", "attention.qkv_bias"),
        either("use_parallel_residual", {"block": "parallel"}, {"block": "serial"}),
        qk_layernorm({"qk_norm.bias": False, "attention.qk_norm_over": "each_head"}),
        weights=llama_like(
            {
                "input_layernorm": ("placement.norm", "attention_placement.norm"),
                "self_attn.q_layernorm.norms.{}": "attention.q_norm.norms.{}",
                "self_attn.k_layernorm.norms.{}": "attention.k_norm.norms.{}",
            }
        ),
    ),
    family(
        "persimmon",
        "norm=layernorm",
        *SIZES,
        WINDOW,
        HIDDEN,
        padding(),
        PLAIN_ACT,
        LAYER_NORM_EPS,
        rope(partial=True),
        qk_layernorm({}),
        weights=llama_like(
            {
                "self_attn.query_key_value": GROUPED_QKV,
                "self_attn.dense": "attention.out",
                "self_attn.q_layernorm": "attention.q_norm",
                "self_attn.k_layernorm": "attention.k_norm",
                "mlp.dense_h_to_4h": "ffn.up",
                "mlp.dense_4h_to_h": "ffn.down",
            },
            final_norm="model.final_layernorm",
        ),
    ),
    family(
        "phi3",
        "norm=rmsnorm bias=false",
        *LLAMA_SIZES,
        GATED_ACT,
        RMS_EPS,
        rope(partial=True),
        windows(types=None),
        harmless=("original_max_position_embeddings",),  # for longrope, which is refused
        weights=llama_like({"self_attn.qkv_proj": Layout(QKV), "mlp.gate_up_proj": FUSED_GATE}),
    ),
    family(
        "glm",
        "norm=rmsnorm attention.out_bias=false ffn.bias=false",
        *LLAMA,
        GATED_ACT,
        RMS_EPS,
        rope(partial=True, pairing="interleaved"),
        QKV_BIAS,
        weights=llama_like({"mlp.gate_up_proj": FUSED_GATE}),
    ),
    family(
        "glm4",
        "norm=rmsnorm placement=double attention.out_bias=false ffn.bias=false",
        *LLAMA,
        GATED_ACT,
        RMS_EPS,
        rope(partial=True, pairing="interleaved"),
        QKV_BIAS,
        weights=llama_like(
            {
                "mlp.gate_up_proj": FUSED_GATE,
                "input_layernorm": "attention_placement.norm_in",
                "post_self_attn_layernorm": "attention_placement.norm_out",
                "post_attention_layernorm": "ffn_placement.norm_in",
                "post_mlp_layernorm": "ffn_placement.norm_out",
            }
        ),
    ),
)
