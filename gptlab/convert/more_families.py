"""More families: Gemma's kin, layers of two kinds, and models with multipliers. All of them grew from Llama."""

import torch
from torch import Tensor

from gptlab.convert.config_fields import Field, Flags, Settings, activation, only, refuse, same, windows
from gptlab.convert.families import LLAMA, LLAMA_BIAS, QUERY_SCALAR, RMS_EPS, RMS_EPS_QK, family, llama_like
from gptlab.convert.more_llamas import GATED_ACT, MLP_BIAS, NO_HEAD_DIM, PLAIN_ACT, named
from gptlab.convert.rotary import rope, rope_by_layer_type, rotated, sliding_only
from gptlab.convert.weight_map import QKV, Layout

AFTER = {
    "post_attention_layernorm": "blocks.{}.attention_placement.norm",
    "post_feedforward_layernorm": "blocks.{}.ffn_placement.norm",
}

# ---------------------------------------------------------------- Gemma's kin

GEMMA = "norm=rmsnorm norm.zero_centered=true embedding.scale_by_width=true ffn.bias=false"

family(
    "gemma",
    GEMMA,
    *LLAMA,
    GATED_ACT,
    RMS_EPS,
    rope(),
    LLAMA_BIAS,
    only("use_bidirectional_attention", None, False),
    weights=llama_like(),
)

family(
    "gemma3_text",
    f"{GEMMA} placement=double qk_norm=rmsnorm qk_norm.zero_centered=true",
    *LLAMA,
    activation("hidden_activation", gated=True),
    RMS_EPS_QK,
    rope_by_layer_type(),
    LLAMA_BIAS,
    windows(),
    QUERY_SCALAR,
    same("final_logit_softcapping", "head.softcap"),
    only("attn_logit_softcapping", None),
    only("use_bidirectional_attention", False, None),
    harmless=("_sliding_window_pattern",),
    weights=llama_like(
        input_layernorm="blocks.{}.attention_placement.norm_in",
        post_attention_layernorm="blocks.{}.attention_placement.norm_out",
        pre_feedforward_layernorm="blocks.{}.ffn_placement.norm_in",
        post_feedforward_layernorm="blocks.{}.ffn_placement.norm_out",
    ),
)

family(
    "vaultgemma",
    GEMMA,
    *LLAMA,
    activation("hidden_activation", gated=True),
    RMS_EPS,
    rope(),
    LLAMA_BIAS,
    windows(),
    QUERY_SCALAR,
    same("attn_logit_softcapping", "attention.softcap"),
    same("final_logit_softcapping", "head.softcap"),
    weights=llama_like(pre_feedforward_layernorm="blocks.{}.ffn_placement.norm"),
)

# ---------------------------------------------------------------- layers of two kinds

family(
    "olmo3",
    "norm=rmsnorm placement=output qk_norm=rmsnorm attention.qk_norm_over=width ffn.bias=false",
    *LLAMA,
    GATED_ACT,
    RMS_EPS_QK,
    rope_by_layer_type(),
    LLAMA_BIAS,
    windows(),
    weights=llama_like(**AFTER),
)

family(
    "cohere2",
    "norm=layernorm norm.bias=false block=parallel ffn.bias=false",
    *LLAMA,
    GATED_ACT,
    same("layer_norm_eps", "norm.eps"),
    rope(pairing="interleaved"),
    rotated(("layer_types",), sliding_only),
    LLAMA_BIAS,
    windows(),
    same("logit_scale", "head.scale"),
    weights=llama_like(input_layernorm="blocks.{}.placement.norm"),
)

family(
    "exaone4",
    "norm=rmsnorm placement=output qk_norm=rmsnorm bias=false",
    *LLAMA,
    GATED_ACT,
    RMS_EPS_QK,
    rope(),
    rotated(
        ("layer_types", "sliding_window"),
        lambda c: sliding_only(c) if c["sliding_window"] is not None else [True],
        lambda turns: {"sliding_window": None} if all(turns) else {},
    ),
    windows(),
    harmless=("sliding_window_pattern",),
    weights=llama_like(**AFTER),
)

family(
    "smollm3",
    "norm=rmsnorm",
    *LLAMA,
    GATED_ACT,
    RMS_EPS,
    rope(),
    rotated(("no_rope_layers",), lambda c: c["no_rope_layers"], lambda turns: {"no_rope_layers": [*map(int, turns)]}),
    LLAMA_BIAS,
    MLP_BIAS,
    windows(switch="use_sliding_window"),
    harmless=("no_rope_layer_interval",),
    weights=llama_like(),
)

# ---------------------------------------------------------------- multipliers

MULTIPLIERS = (
    same("embedding_multiplier", "embedding.scale"),
    same("attention_multiplier", "attention.scale"),
    same("residual_multiplier", "block.branch_scale"),
)
family(
    "granite",
    "norm=rmsnorm",
    *LLAMA,
    GATED_ACT,
    RMS_EPS,
    rope(),
    LLAMA_BIAS,
    MLP_BIAS,
    *MULTIPLIERS,
    Field(
        ("logits_scaling",),
        lambda c: {"head.scale": 1 / c["logits_scaling"]},
        lambda s: {"logits_scaling": 1 / s["head.scale"]},
    ),
    weights=llama_like(),
)


def _hyperclovax_placement(c: Flags) -> Settings:
    if c["use_post_norm"] and c["residual_multiplier"] != 1:  # ours is before that norm, theirs after it
        raise refuse("residual_multiplier", c["residual_multiplier"], "must be 1 with use_post_norm=True")
    return {"placement": "double" if c["use_post_norm"] else "pre"}


family(
    "hyperclovax",
    "norm=rmsnorm",
    *LLAMA,
    GATED_ACT,
    RMS_EPS,
    rope(),
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
        input_layernorm=("blocks.{}.attention_placement.norm", "blocks.{}.attention_placement.norm_in"),
        post_norm1="blocks.{}.attention_placement.norm_out",
        post_attention_layernorm=("blocks.{}.ffn_placement.norm", "blocks.{}.ffn_placement.norm_in"),
        post_norm2="blocks.{}.ffn_placement.norm_out",
    ),
)

# ---------------------------------------------------------------- nanochat


def turned(of_keys: bool) -> Layout:
    """Rotations the other way round are ours with the halves of each head exchanged."""

    def order(n_head: int, n_kv_head: int, head_dim: int) -> Tensor:
        rows = torch.arange((n_kv_head if of_keys else n_head) * head_dim)
        return rows.view(-1, 2, head_dim // 2).flip(1).flatten()

    return Layout((QKV[1 if of_keys else 0],), order=order)


family(
    "nanochat",  # norms of queries and keys come after the rotation, which without a gain is the same
    "norm=rmsnorm norm.learnable=false qk_norm=rmsnorm qk_norm.learnable=false embedding.normed=true ffn.bias=false",
    *NO_HEAD_DIM,
    PLAIN_ACT,
    RMS_EPS_QK,
    rope(),
    LLAMA_BIAS,
    same("final_logit_softcapping", "head.softcap"),
    weights=named(
        {
            "self_attn.q_proj": turned(of_keys=False),
            "self_attn.k_proj": turned(of_keys=True),
            "mlp.fc1": "blocks.{}.ffn.up",
            "mlp.fc2": "blocks.{}.ffn.down",
        }
    ),
)
