"""Families of GPT-2's and GPT-J's build: GPT-1, GPT-2, GPT-J, GPTBigCode, GPT-Neo, CodeGen, MPT, CTRL."""

from collections.abc import Mapping

from gptlab.convert.config_fields import Field, Flags, FlatConfig, choice, only, refuse, same, shortest_unit
from gptlab.convert.families.base import (
    ACTIVATION_FUNCTION,
    GROUPED_QKV,
    LAYER_NORM_EPSILON,
    SEPARATE_QKV,
    WINDOW,
    family,
    table,
)
from gptlab.convert.weight_map import QKV, Entry, Layout, Table, by_quarter, transposed

SIZES = (
    same("n_embd", "size.dim"),
    same("n_layer", "size.n_layer"),
    same("n_head", "size.n_head"),
    same("n_positions", "data.window"),
)
N_INNER = same("n_inner", "ffn.hidden", null=lambda c: 4 * c["n_embd"])
SCALED_SCORES = Field(
    ("scale_attn_weights",),
    lambda c: {"attention.scale": None if c["scale_attn_weights"] else 1.0},
    lambda s: {"scale_attn_weights": s["attention.scale"] != 1.0 or s["attention.head_dim"] == 1},
)
GPTJ = "position=rope position.pairing=interleaved block=parallel head.bias=true attention.qkv_bias=false"
GPTJ += " attention.out_bias=false"


def gpt2_like(layer: Mapping[str, Entry]) -> Table:
    """Return GPT-2's table of weights, with these modules of a layer in addition to the norms."""
    return table(
        {"transformer.wte": "embedding", "transformer.wpe": "position", "transformer.ln_f": "norm"},
        "transformer.h",
        {"ln_1": "attention_placement.norm", "ln_2": "ffn_placement.norm", **layer},
    )


def gptj_like(attention: Mapping[str, Entry]) -> Table:
    """Return GPT-J's table of weights, with these modules for queries, keys and values."""
    return table(
        {"transformer.wte": "embedding", "transformer.ln_f": "norm"},
        "transformer.h",
        {
            "ln_1": "placement.norm",
            **{f"attn.{theirs}": ours for theirs, ours in attention.items()},
            "attn.out_proj": "attention.out",
            "mlp.fc_in": "ffn.up",
            "mlp.fc_out": "ffn.down",
        },
    )


def four_times(width: str) -> Field:
    """Return a field for classes whose FFN is always four times as wide as the model."""
    return Field((), lambda c: {"ffn.hidden": 4 * c[width]}, lambda s: {})


def _rotary_dim(c: Flags) -> FlatConfig:
    width = c["n_embd"] // c["n_head"]
    if not c["rotary_dim"] or c["rotary_dim"] > width:
        raise refuse("rotary_dim", c["rotary_dim"], f"must be at least 2 and at most the head's width, {width}")
    return {"position.fraction": c["rotary_dim"] / width}


ROTARY_DIM = Field(
    ("rotary_dim",),
    _rotary_dim,
    lambda s: {"rotary_dim": round(s["position.fraction"] * s["attention.head_dim"])},
)


def _local_layers(c: Flags) -> FlatConfig:
    pattern = shortest_unit(["L" if kind == "local" else "G" for kind in c["attention_layers"]])
    if "L" not in pattern:
        return {"attention.window": None}
    return {"attention.window": c["window_size"], "attention.pattern": pattern}


def _attention_types(s: FlatConfig) -> Flags:
    widths = s["attention.windows"]
    types = {"attention_types": [[["local" if w else "global" for w in widths], 1]]}
    return {**types, "window_size": max(w or 0 for w in widths)} if any(widths) else types


def _codegen_heads(c: Flags) -> FlatConfig:
    if c["n_head"] % 4:
        raise refuse("n_head", c["n_head"], "must be a multiple of 4, the parts of its matrix for q, k and v")
    return {}


MPT_ONLY = {
    "attn_type": "multihead_attention",
    "alibi": True,
    "alibi_bias_max": 8,
    "prefix_lm": False,
    "qk_ln": False,
    "attn_uses_sequence_id": False,
}


def _mpt_attention(c: Flags) -> FlatConfig:
    inner = c["attn_config"]
    for flag, value in MPT_ONLY.items():
        if inner.get(flag, value) != value:
            raise refuse(f"attn_config.{flag}", inner[flag], f"only {value} is supported")
    return {"attention.clip_qkv": inner.get("clip_qkv") or None, "attention.scale": inner.get("softmax_scale")}


def _ctrl_width(c: Flags) -> FlatConfig:
    if c["n_embd"] % 2:
        raise refuse("n_embd", c["n_embd"], "must be even, to have as many sines as cosines")
    return {}


GPT_FAMILIES = (
    family(
        "gpt2",
        "position=learned",
        *SIZES,
        N_INNER,
        ACTIVATION_FUNCTION,
        LAYER_NORM_EPSILON,
        same("scale_attn_by_inverse_layer_idx", "attention.inverse_layer_scale"),
        SCALED_SCORES,
        only("add_cross_attention", False),
        harmless=("reorder_and_upcast_attn",),
        weights=gpt2_like(
            {
                "attn.c_attn": transposed(*QKV),
                "attn.c_proj": transposed("attention.out"),
                "mlp.c_fc": transposed("ffn.up"),
                "mlp.c_proj": transposed("ffn.down"),
            }
        ),
    ),
    family(
        "openai-gpt",
        "position=learned placement=post",
        *SIZES,
        choice("afn", "ffn", {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}),
        four_times("n_embd"),
        LAYER_NORM_EPSILON,
        weights=table(
            {"transformer.tokens_embed": "embedding", "transformer.positions_embed": "position"},
            "transformer.h",
            {
                "attn.c_attn": transposed(*QKV),
                "attn.c_proj": transposed("attention.out"),
                "ln_1": "attention_placement.norm",
                "mlp.c_fc": transposed("ffn.up"),
                "mlp.c_proj": transposed("ffn.down"),
                "ln_2": "ffn_placement.norm",
            },
        ),
    ),
    family(
        "gptj",
        GPTJ,
        *SIZES,
        N_INNER,
        ACTIVATION_FUNCTION,
        LAYER_NORM_EPSILON,
        ROTARY_DIM,
        weights=gptj_like(SEPARATE_QKV),
    ),
    family(
        "gpt_bigcode",
        "position=learned",
        *SIZES,
        N_INNER,
        ACTIVATION_FUNCTION,
        LAYER_NORM_EPSILON,
        SCALED_SCORES,
        Field(
            ("multi_query", "num_key_value_heads"),
            lambda c: {"attention.n_kv_head": 1 if c["multi_query"] else c["n_head"]},
            lambda s: {"multi_query": s["attention.n_kv_head"] == 1},
        ),
        only("add_cross_attention", False),
        harmless=("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"),
        weights=gpt2_like(
            {
                "attn.c_attn": GROUPED_QKV,
                "attn.c_proj": "attention.out",
                "mlp.c_fc": "ffn.up",
                "mlp.c_proj": "ffn.down",
            }
        ),
    ),
    family(
        "gpt_neo",
        "position=learned attention.scale=1.0 attention.qkv_bias=false",
        same("hidden_size", "size.dim"),
        same("num_layers", "size.n_layer"),
        same("num_heads", "size.n_head"),
        WINDOW,
        same("intermediate_size", "ffn.hidden", null=lambda c: 4 * c["hidden_size"]),
        ACTIVATION_FUNCTION,
        LAYER_NORM_EPSILON,
        Field(("attention_types", "attention_layers", "window_size"), _local_layers, _attention_types),
        weights=gpt2_like(
            {
                **{f"attn.attention.{theirs}": ours for theirs, ours in SEPARATE_QKV.items()},
                "attn.attention.out_proj": "attention.out",
                "mlp.c_fc": "ffn.up",
                "mlp.c_proj": "ffn.down",
            }
        ),
    ),
    family(
        "codegen",
        GPTJ,
        *SIZES,
        N_INNER,
        ACTIVATION_FUNCTION,
        LAYER_NORM_EPSILON,
        Field(("n_head",), _codegen_heads, lambda s: {}),
        ROTARY_DIM,
        harmless=("n_ctx",),
        weights=gptj_like({"qkv_proj": Layout(QKV, order=by_quarter)}),
    ),
    family(
        "mpt",
        "position=alibi ffn=gelu norm.bias=false bias=false",
        same("d_model", "size.dim"),
        same("n_layers", "size.n_layer"),
        same("n_heads", "size.n_head"),
        same("max_seq_len", "data.window"),
        four_times("d_model"),
        LAYER_NORM_EPSILON,
        Field(
            ("attn_config",),
            _mpt_attention,
            lambda s: {"attn_config": {"clip_qkv": s["attention.clip_qkv"], "softmax_scale": s["attention.scale"]}},
        ),
        harmless=("init_device", "learned_pos_emb"),  # the class reads neither: its positions are always ALiBi's
        weights=table(
            {"transformer.wte": "embedding", "transformer.norm_f": "norm"},
            "transformer.blocks",
            {
                "norm_1": "attention_placement.norm",
                "attn.Wqkv": Layout(QKV),
                "attn.out_proj": "attention.out",
                "norm_2": "ffn_placement.norm",
                "ffn.up_proj": "ffn.up",
                "ffn.down_proj": "ffn.down",
            },
        ),
    ),
    family(
        "ctrl",
        "position=sinusoidal position.layout=halves embedding.scale_by_width=true ffn=relu head.bias=true"
        " norm.eps=1e-6",
        *SIZES,
        Field(("n_embd",), _ctrl_width, lambda s: {}),
        same("dff", "ffn.hidden"),
        only("layer_norm_epsilon", 1e-6, why="only {} is supported; its blocks have that whatever the flag says"),
        weights=table(
            {"transformer.w": "embedding", "transformer.layernorm": "norm"},
            "transformer.h",
            {
                "layernorm1": "attention_placement.norm",
                "multi_head_attention.Wq": "attention.q",
                "multi_head_attention.Wk": "attention.k",
                "multi_head_attention.Wv": "attention.v",
                "multi_head_attention.dense": "attention.out",
                "layernorm2": "ffn_placement.norm",
                "ffn.0": "ffn.up",
                "ffn.2": "ffn.down",
            },
        ),
    ),
)
