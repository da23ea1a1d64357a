"""Gemma, Gemma 2, the text model of Gemma 3, and VaultGemma."""

from gptlab.convert.config_fields import Field, activation, only, same, windows
from gptlab.convert.families.base import (
    LLAMA,
    LLAMA_BIAS,
    LLAMA_RMS,
    RMS_EPS,
    RMS_EPS_QK,
    family,
    llama_like,
)
from gptlab.convert.rotary import rope, rope_by_layer_type

GEMMA = "norm=rmsnorm norm.zero_centered=true embedding.scale_by_width=true ffn.bias=false"
GATED_ACTIVATION = activation("hidden_activation", gated=True)
QUERY_SCALAR = Field(
    ("query_pre_attn_scalar",),
    lambda c: {"attention.scale": c["query_pre_attn_scalar"] ** -0.5},
    lambda s: {"query_pre_attn_scalar": round(s["attention.scale"] ** -2)},
)
SOFTCAP = same("attn_logit_softcapping", "attention.softcap")
HEAD_SOFTCAP = same("final_logit_softcapping", "head.softcap")
DOUBLE_NORMS = {
    "input_layernorm": "attention_placement.norm_in",
    "post_attention_layernorm": "attention_placement.norm_out",
    "pre_feedforward_layernorm": "ffn_placement.norm_in",
    "post_feedforward_layernorm": "ffn_placement.norm_out",
}

GEMMA_FAMILIES = (
    family(
        "gemma2",
        f"{GEMMA} placement=double",
        *LLAMA,
        GATED_ACTIVATION,
        RMS_EPS,
        rope(),
        LLAMA_BIAS,
        windows(),
        QUERY_SCALAR,
        SOFTCAP,
        HEAD_SOFTCAP,
        weights=llama_like(DOUBLE_NORMS),
    ),
    family("gemma", GEMMA, *LLAMA_RMS, LLAMA_BIAS, only("use_bidirectional_attention", None, False)),
    family(
        "gemma3_text",
        f"{GEMMA} placement=double qk_norm=rmsnorm qk_norm.zero_centered=true",
        *LLAMA,
        GATED_ACTIVATION,
        RMS_EPS_QK,
        rope_by_layer_type(),
        LLAMA_BIAS,
        windows(),
        QUERY_SCALAR,
        HEAD_SOFTCAP,
        only("attn_logit_softcapping", None),
        only("use_bidirectional_attention", False, None),
        harmless=("_sliding_window_pattern",),
        weights=llama_like(DOUBLE_NORMS),
    ),
    family(
        "vaultgemma",
        GEMMA,
        *LLAMA,
        GATED_ACTIVATION,
        RMS_EPS,
        rope(),
        LLAMA_BIAS,
        windows(),
        QUERY_SCALAR,
        SOFTCAP,
        HEAD_SOFTCAP,
        weights=llama_like({"pre_feedforward_layernorm": "ffn_placement.norm"}),
    ),
)
