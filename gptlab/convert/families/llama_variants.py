"""Families that grew from Llama with other norms, layers of two kinds, or multipliers."""

import torch
from torch import Tensor

from gptlab.convert.config_fields import Field, Flags, FlatConfig, refuse, same, windows
from gptlab.convert.families.base import (
    GATED_ACT,
    LAYER_NORM_EPS,
    LLAMA,
    LLAMA_BIAS,
    LLAMA_RMS,
    LLAMA_RMS_QK,
    LLAMA_SIZES,
    MLP_BIAS,
    PLAIN_ACT,
    RMS_EPS_QK,
    family,
    llama_like,
)
from gptlab.convert.rotary import rope, rope_by_layer_type, rotated, sliding_only
from gptlab.convert.weight_map import Layout

OLMO2 = "norm=rmsnorm placement=output qk_norm=rmsnorm attention.qk_norm_over=width ffn.bias=false"
COHERE = "norm=layernorm norm.bias=false block=parallel ffn.bias=false"
OUTPUT_NORMS = {
    "post_attention_layernorm": "attention_placement.norm",
    "post_feedforward_layernorm": "ffn_placement.norm",
}
MULTIPLIERS = (
    same("embedding_multiplier", "embedding.scale"),
    same("attention_multiplier", "attention.scale"),
    same("residual_multiplier", "block.branch_scale"),
)


def _cohere_qk_norm(c: Flags) -> FlatConfig:
    if not c["use_qk_norm"]:
        return {"qk_norm": "none"}
    norm = {"qk_norm": "layernorm", "qk_norm.bias": False, "qk_norm.eps": c["layer_norm_eps"]}
    return norm | {"attention.qk_norm_over": "each_head"}


def _hyperclovax_placement(c: Flags) -> FlatConfig:
    if c["use_post_norm"] and c["residual_multiplier"] != 1:  # gptlab multiplies before that norm, the class after it
        raise refuse("residual_multiplier", c["residual_multiplier"], "must be 1 with use_post_norm=True")
    return {"placement": "double" if c["use_post_norm"] else "pre"}


def _halves_exchanged(part: str) -> Layout:
    """Return a layout that exchanges the halves of each head, which turns a rotation around."""

    def order(n_head: int, n_kv_head: int, head_dim: int) -> Tensor:
        heads = n_head if part == "attention.q" else n_kv_head
        return torch.arange(heads * head_dim).view(-1, 2, head_dim // 2).flip(1).flatten()

    return Layout((part,), order=order)


VARIANT_FAMILIES = (
    family(
        "olmo",
        "norm=layernorm norm.learnable=false norm.eps=1e-5 ffn.bias=false",
        *LLAMA,
        GATED_ACT,
        rope(),
        LLAMA_BIAS,
        same("clip_qkv", "attention.clip_qkv"),
    ),
    family("olmo2", OLMO2, *LLAMA_RMS_QK, LLAMA_BIAS, weights=llama_like(OUTPUT_NORMS)),
    family(
        "qwen3",
        "norm=rmsnorm qk_norm=rmsnorm ffn.bias=false",
        *LLAMA_RMS_QK,
        LLAMA_BIAS,
        windows(switch="use_sliding_window"),
        harmless=("max_window_layers",),
    ),
    family(
        "cohere",
        COHERE,
        *LLAMA,
        GATED_ACT,
        LAYER_NORM_EPS,
        rope(pairing="interleaved"),
        LLAMA_BIAS,
        same("logit_scale", "head.scale"),
        Field(
            ("use_qk_norm", "layer_norm_eps"),
            _cohere_qk_norm,
            lambda s: {"use_qk_norm": s["qk_norm"] == "layernorm"},
        ),
        weights=llama_like(
            {
                "input_layernorm": "placement.norm",
                "self_attn.q_norm": Layout(("attention.q_norm.norms.{}",), each_row=True),
                "self_attn.k_norm": Layout(("attention.k_norm.norms.{}",), each_row=True),
            }
        ),
    ),
    family(
        "olmo3",
        OLMO2,
        *LLAMA,
        GATED_ACT,
        RMS_EPS_QK,
        rope_by_layer_type(),
        LLAMA_BIAS,
        windows(),
        weights=llama_like(OUTPUT_NORMS),
    ),
    family(
        "cohere2",
        COHERE,
        *LLAMA,
        GATED_ACT,
        LAYER_NORM_EPS,
        rope(pairing="interleaved"),
        rotated(("layer_types",), sliding_only),
        LLAMA_BIAS,
        windows(),
        same("logit_scale", "head.scale"),
        weights=llama_like({"input_layernorm": "placement.norm"}),
    ),
    family(
        "exaone4",
        "norm=rmsnorm placement=output qk_norm=rmsnorm bias=false",
        *LLAMA_RMS_QK,
        rotated(
            ("layer_types", "sliding_window"),
            lambda c: sliding_only(c) if c["sliding_window"] is not None else [True],
            lambda layers: {"sliding_window": None} if all(layers) else {},
        ),
        windows(),
        harmless=("sliding_window_pattern",),
        weights=llama_like(OUTPUT_NORMS),
    ),
    family(
        "smollm3",
        "norm=rmsnorm",
        *LLAMA_RMS,
        rotated(
            ("no_rope_layers",),
            lambda c: c["no_rope_layers"],
            lambda layers: {"no_rope_layers": [*map(int, layers)]},
        ),
        LLAMA_BIAS,
        MLP_BIAS,
        windows(switch="use_sliding_window"),
        harmless=("no_rope_layer_interval",),
    ),
    family(
        "granite",
        "norm=rmsnorm",
        *LLAMA_RMS,
        LLAMA_BIAS,
        MLP_BIAS,
        *MULTIPLIERS,
        Field(
            ("logits_scaling",),
            lambda c: {"head.scale": 1 / c["logits_scaling"]},
            lambda s: {"logits_scaling": 1 / s["head.scale"]},
        ),
    ),
    family(
        "hyperclovax",
        "norm=rmsnorm",
        *LLAMA_RMS,
        LLAMA_BIAS,
        MLP_BIAS,
        *MULTIPLIERS,
        same("logits_scaling", "head.scale"),
        Field(
            ("use_post_norm", "residual_multiplier"),
            _hyperclovax_placement,
            lambda s: {"use_post_norm": s["placement"] == "double"},
        ),
        weights=llama_like(
            {
                "input_layernorm": ("attention_placement.norm", "attention_placement.norm_in"),
                "post_norm1": "attention_placement.norm_out",
                "post_attention_layernorm": ("ffn_placement.norm", "ffn_placement.norm_in"),
                "post_norm2": "ffn_placement.norm_out",
            }
        ),
    ),
    family(
        "nanochat",  # it norms queries and keys after rotating them; without a gain the order makes no difference
        "norm=rmsnorm norm.learnable=false qk_norm=rmsnorm qk_norm.learnable=false embedding.normed=true"
        " ffn.bias=false",
        *LLAMA_SIZES,
        PLAIN_ACT,
        RMS_EPS_QK,
        rope(),
        LLAMA_BIAS,
        same("final_logit_softcapping", "head.softcap"),
        weights=llama_like(
            {
                "self_attn.q_proj": _halves_exchanged("attention.q"),
                "self_attn.k_proj": _halves_exchanged("attention.k"),
                "mlp.fc1": "ffn.up",
                "mlp.fc2": "ffn.down",
            }
        ),
    ),
)
