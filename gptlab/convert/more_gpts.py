"""More families that are no Llamas: of GPT-2's and GPT-J's build, with learned, sinusoidal or linear positions."""

import torch
from torch import Tensor

from gptlab.convert.config_fields import Field, Flags, Settings, activation, only, padding, refuse, same, shortest_unit
from gptlab.convert.families import (
    GPT2_SIZES,
    GROUPED_QKV,
    HIDDEN,
    N_INNER,
    N_POSITIONS,
    ROTARY_DIM,
    SCALED_EMBEDDING,
    SCALED_SCORES,
    SIZES,
    WINDOW,
    fairseq,
    family,
)
from gptlab.convert.weight_map import QKV, Layout, Table

ACTIVATION = activation("activation_function", gated=False)
LN_EPSILON = same("layer_norm_epsilon", "norm.eps")


def gpt2_like(attention: dict[str, str | Layout]) -> Table:
    """GPT-2's names, for matrices that are not transposed. `attention` are those of its modules."""
    return {
        "transformer.wte": "embedding",
        "transformer.wpe": "position",
        "transformer.h.{}.ln_1": "blocks.{}.attention_placement.norm",
        **{f"transformer.h.{{}}.attn.{k}": v for k, v in attention.items()},
        "transformer.h.{}.ln_2": "blocks.{}.ffn_placement.norm",
        "transformer.h.{}.mlp.c_fc": "blocks.{}.ffn.up",
        "transformer.h.{}.mlp.c_proj": "blocks.{}.ffn.down",
        "transformer.ln_f": "norm",
        "lm_head": "head",
    }


family(
    "gpt_bigcode",
    "position=learned",
    *GPT2_SIZES,
    N_POSITIONS,
    N_INNER,
    ACTIVATION,
    LN_EPSILON,
    SCALED_SCORES,
    Field(
        ("multi_query", "num_key_value_heads"),
        lambda c: {"attention.n_kv_head": 1 if c["multi_query"] else c["n_head"]},
        lambda s: {"multi_query": s["attention.n_kv_head"] == 1},
    ),
    only("add_cross_attention", False),
    harmless=("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"),
    weights=gpt2_like({"c_attn": GROUPED_QKV, "c_proj": "blocks.{}.attention.out"}),
)


def _local_layers(c: Flags) -> Settings:
    pattern = shortest_unit(["L" if kind == "local" else "G" for kind in c["attention_layers"]])
    if "L" not in pattern:
        return {"attention.window": None}
    return {"attention.window": c["window_size"], "attention.pattern": pattern}


def _attention_types(s: Settings) -> Flags:
    widths = s["attention.windows"]
    types = {"attention_types": [[["local" if w else "global" for w in widths], 1]]}
    return {**types, "window_size": max(w or 0 for w in widths)} if any(widths) else types


family(
    "gpt_neo",
    "position=learned attention.scale=1.0 attention.qkv_bias=false",
    same("hidden_size", "size.dim"),
    same("num_layers", "size.n_layer"),
    same("num_heads", "size.n_head"),
    WINDOW,
    same("intermediate_size", "ffn.hidden", null=lambda c: 4 * c["hidden_size"]),
    ACTIVATION,
    LN_EPSILON,
    Field(("attention_types", "attention_layers", "window_size"), _local_layers, _attention_types),
    weights=gpt2_like(
        {
            "attention.q_proj": "blocks.{}.attention.q",
            "attention.k_proj": "blocks.{}.attention.k",
            "attention.v_proj": "blocks.{}.attention.v",
            "attention.out_proj": "blocks.{}.attention.out",
        }
    ),
)


def _codegen_heads(c: Flags) -> Settings:
    if c["n_head"] % 4:
        raise refuse("n_head", c["n_head"], "must be a multiple of 4, the parts of its matrix for q, k and v")
    return {}


def by_quarter(n_head: int, n_kv_head: int, head_dim: int) -> Tensor:
    """For each quarter of the heads: queries, values, keys. CodeGen was trained on four devices."""
    q, k, v = torch.arange(3 * n_head * head_dim).view(3, 4, -1)
    return torch.cat([q, v, k], 1).flatten()


family(
    "codegen",
    "position=rope position.pairing=interleaved block=parallel head.bias=true"
    " attention.qkv_bias=false attention.out_bias=false",
    *GPT2_SIZES,
    N_POSITIONS,
    N_INNER,
    ACTIVATION,
    LN_EPSILON,
    Field(("n_head",), _codegen_heads, lambda s: {}),
    ROTARY_DIM,
    harmless=("n_ctx",),
    weights={
        "transformer.wte": "embedding",
        "transformer.h.{}.ln_1": "blocks.{}.placement.norm",
        "transformer.h.{}.attn.qkv_proj": Layout(QKV, order=by_quarter),
        "transformer.h.{}.attn.out_proj": "blocks.{}.attention.out",
        "transformer.h.{}.mlp.fc_in": "blocks.{}.ffn.up",
        "transformer.h.{}.mlp.fc_out": "blocks.{}.ffn.down",
        "transformer.ln_f": "norm",
        "lm_head": "head",
    },
)

# ---------------------------------------------------------------- MPT, CTRL, BioGPT

MPT_ONLY = {
    "attn_type": "multihead_attention",
    "alibi": True,
    "alibi_bias_max": 8,
    "prefix_lm": False,
    "qk_ln": False,
    "attn_uses_sequence_id": False,
}


def _mpt_attention(c: Flags) -> Settings:
    inner = c["attn_config"]
    for flag, value in MPT_ONLY.items():
        if inner.get(flag, value) != value:
            raise refuse(f"attn_config.{flag}", inner[flag], f"only {value} is supported")
    return {"attention.clip_qkv": inner.get("clip_qkv") or None, "attention.scale": inner.get("softmax_scale")}


family(
    "mpt",
    "position=alibi ffn=gelu norm.bias=false bias=false",
    same("d_model", "size.dim"),
    same("n_layers", "size.n_layer"),
    same("n_heads", "size.n_head"),
    same("max_seq_len", "data.window"),
    Field((), lambda c: {"ffn.hidden": 4 * c["d_model"]}, lambda s: {}),
    LN_EPSILON,
    Field(
        ("attn_config",),
        _mpt_attention,
        lambda s: {"attn_config": {"clip_qkv": s["attention.clip_qkv"], "softmax_scale": s["attention.scale"]}},
    ),
    harmless=("init_device", "learned_pos_emb"),  # the class reads neither: positions are ALiBi's
    weights={
        "transformer.wte": "embedding",
        "transformer.blocks.{}.norm_1": "blocks.{}.attention_placement.norm",
        "transformer.blocks.{}.attn.Wqkv": Layout(QKV),
        "transformer.blocks.{}.attn.out_proj": "blocks.{}.attention.out",
        "transformer.blocks.{}.norm_2": "blocks.{}.ffn_placement.norm",
        "transformer.blocks.{}.ffn.up_proj": "blocks.{}.ffn.up",
        "transformer.blocks.{}.ffn.down_proj": "blocks.{}.ffn.down",
        "transformer.norm_f": "norm",
        "lm_head": "head",
    },
)


def _ctrl_width(c: Flags) -> Settings:
    if c["n_embd"] % 2:
        raise refuse("n_embd", c["n_embd"], "must be even, for as many sines as cosines")
    return {}


family(
    "ctrl",
    "position=sinusoidal position.layout=halves embedding.scale_by_width=true ffn=relu head.bias=true norm.eps=1e-6",
    *GPT2_SIZES,
    N_POSITIONS,
    Field(("n_embd",), _ctrl_width, lambda s: {}),
    same("dff", "ffn.hidden"),
    only("layer_norm_epsilon", 1e-6, why="only {} is supported, which its blocks have in any case"),
    weights={
        "transformer.w": "embedding",
        "transformer.h.{}.layernorm1": "blocks.{}.attention_placement.norm",
        "transformer.h.{}.multi_head_attention.Wq": "blocks.{}.attention.q",
        "transformer.h.{}.multi_head_attention.Wk": "blocks.{}.attention.k",
        "transformer.h.{}.multi_head_attention.Wv": "blocks.{}.attention.v",
        "transformer.h.{}.multi_head_attention.dense": "blocks.{}.attention.out",
        "transformer.h.{}.layernorm2": "blocks.{}.ffn_placement.norm",
        "transformer.h.{}.ffn.0": "blocks.{}.ffn.up",
        "transformer.h.{}.ffn.2": "blocks.{}.ffn.down",
        "transformer.layernorm": "norm",
        "lm_head": "head",
    },
)

family(
    "biogpt",
    "position=learned position.offset=2 norm.eps=1e-5",
    *SIZES,
    WINDOW,
    HIDDEN,
    activation("hidden_act", gated=False),
    SCALED_EMBEDDING,
    padding(),
    harmless=("layer_norm_eps",),  # the class never reads it: its norms have torch's own, 1e-5
    weights={**fairseq("biogpt", "layer_norm", embed_positions="position"), "output_projection": "head"},
)
