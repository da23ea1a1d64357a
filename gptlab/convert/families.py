"""The published models: for each class of transformers what its config's flags mean here, and where its weights go.

A family is data: `base` are the overrides that all its members share, `fields` its config's flags, `weights` the names
of its modules. Which checkpoint it is decides nothing.
"""

from dataclasses import dataclass

from gptlab.convert.config_fields import (
    Field,
    Flags,
    Settings,
    activation,
    biases,
    choice,
    either,
    head_dim,
    kv_heads,
    only,
    padding,
    refuse,
    same,
    windows,
)
from gptlab.convert.rotary import rope
from gptlab.convert.weight_map import QKV, Layout, Table, by_group, transposed


@dataclass(frozen=True)
class Family:
    model_type: str  # of transformers
    base: str
    fields: tuple[Field, ...]
    weights: Table
    harmless: tuple[str, ...] = ()  # flags that change how fast it is, or nothing, but not what is computed


FAMILIES: dict[str, Family] = {}


def family(model_type: str, base: str, *fields: Field, weights: Table, harmless: tuple[str, ...] = ()) -> None:
    FAMILIES[model_type] = Family(model_type, base, (TIED, VOCABULARY, *fields), weights, harmless)


TIED = either("tie_word_embeddings", {"head.tied": True}, {"head.tied": False})
VOCABULARY = same("vocab_size", "model.vocab_size")
ATTENTION_BIAS = ("attention.qkv_bias", "attention.out_bias")
SIZES = (
    same("hidden_size", "size.dim"),
    same("num_hidden_layers", "size.n_layer"),
    same("num_attention_heads", "size.n_head"),
)
GPT2_SIZES = (same("n_embd", "size.dim"), same("n_layer", "size.n_layer"), same("n_head", "size.n_head"))
WINDOW = same("max_position_embeddings", "data.window")
N_POSITIONS = same("n_positions", "data.window")
HIDDEN = same("intermediate_size", "ffn.hidden")
N_INNER = same("n_inner", "ffn.hidden", null=lambda c: 4 * c["n_embd"])
SCALED_EMBEDDING = Field(
    ("scale_embedding",),
    lambda c: {"embedding.scale_by_width": c["scale_embedding"]},
    lambda s: {"scale_embedding": s["embedding.scale"] != 1 or s["size.dim"] == 1},
)
SCALED_SCORES = Field(
    ("scale_attn_weights",),
    lambda c: {"attention.scale": None if c["scale_attn_weights"] else 1.0},
    lambda s: {"scale_attn_weights": s["attention.scale"] != 1.0 or s["attention.head_dim"] == 1},
)
QUERY_SCALAR = Field(
    ("query_pre_attn_scalar",),
    lambda c: {"attention.scale": c["query_pre_attn_scalar"] ** -0.5},
    lambda s: {"query_pre_attn_scalar": round(s["attention.scale"] ** -2)},
)


# ---------------------------------------------------------------- GPT-1, GPT-2, GPT-J

family(
    "gpt2",
    "position=learned",
    *GPT2_SIZES,
    N_POSITIONS,
    N_INNER,
    activation("activation_function", gated=False),
    same("layer_norm_epsilon", "norm.eps"),
    same("scale_attn_by_inverse_layer_idx", "attention.inverse_layer_scale"),
    SCALED_SCORES,
    only("add_cross_attention", False),
    harmless=("reorder_and_upcast_attn",),
    weights={
        "transformer.wte": "embedding",
        "transformer.wpe": "position",
        "transformer.h.{}.ln_1": "blocks.{}.attention_placement.norm",
        "transformer.h.{}.attn.c_attn": transposed(*QKV),
        "transformer.h.{}.attn.c_proj": transposed("blocks.{}.attention.out"),
        "transformer.h.{}.ln_2": "blocks.{}.ffn_placement.norm",
        "transformer.h.{}.mlp.c_fc": transposed("blocks.{}.ffn.up"),
        "transformer.h.{}.mlp.c_proj": transposed("blocks.{}.ffn.down"),
        "transformer.ln_f": "norm",
        "lm_head": "head",
    },
)

family(
    "openai-gpt",
    "position=learned placement=post",
    *GPT2_SIZES,
    N_POSITIONS,
    choice("afn", "ffn", {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}),
    Field((), lambda c: {"ffn.hidden": 4 * c["n_embd"]}, lambda s: {}),
    same("layer_norm_epsilon", "norm.eps"),
    weights={
        "transformer.tokens_embed": "embedding",
        "transformer.positions_embed": "position",
        "transformer.h.{}.attn.c_attn": transposed(*QKV),
        "transformer.h.{}.attn.c_proj": transposed("blocks.{}.attention.out"),
        "transformer.h.{}.ln_1": "blocks.{}.attention_placement.norm",
        "transformer.h.{}.mlp.c_fc": transposed("blocks.{}.ffn.up"),
        "transformer.h.{}.mlp.c_proj": transposed("blocks.{}.ffn.down"),
        "transformer.h.{}.ln_2": "blocks.{}.ffn_placement.norm",
        "lm_head": "head",
    },
)


def _gptj_rotary(c: Flags) -> Settings:
    width = c["n_embd"] // c["n_head"]
    if not c["rotary_dim"] or c["rotary_dim"] > width:
        raise refuse("rotary_dim", c["rotary_dim"], f"must be at least 2 and at most the head's width, {width}")
    return {"position.fraction": c["rotary_dim"] / width}


ROTARY_DIM = Field(
    ("rotary_dim",),
    _gptj_rotary,
    lambda s: {"rotary_dim": round(s["position.fraction"] * s["attention.head_dim"])},
)

family(
    "gptj",
    "position=rope position.pairing=interleaved block=parallel head.bias=true"
    " attention.qkv_bias=false attention.out_bias=false",
    *GPT2_SIZES,
    N_POSITIONS,
    N_INNER,
    activation("activation_function", gated=False),
    same("layer_norm_epsilon", "norm.eps"),
    ROTARY_DIM,
    weights={
        "transformer.wte": "embedding",
        "transformer.h.{}.ln_1": "blocks.{}.placement.norm",
        "transformer.h.{}.attn.q_proj": "blocks.{}.attention.q",
        "transformer.h.{}.attn.k_proj": "blocks.{}.attention.k",
        "transformer.h.{}.attn.v_proj": "blocks.{}.attention.v",
        "transformer.h.{}.attn.out_proj": "blocks.{}.attention.out",
        "transformer.h.{}.mlp.fc_in": "blocks.{}.ffn.up",
        "transformer.h.{}.mlp.fc_out": "blocks.{}.ffn.down",
        "transformer.ln_f": "norm",
        "lm_head": "head",
    },
)

# ---------------------------------------------------------------- GPT-NeoX, Bloom, Falcon: one matrix for q, k, v

GROUPED_QKV = Layout(QKV, order=by_group)

family(
    "gpt_neox",
    "block.branch_scale=1",
    *SIZES,
    WINDOW,
    HIDDEN,
    activation("hidden_act", gated=False),
    same("layer_norm_eps", "norm.eps"),
    either(
        "use_parallel_residual",
        {"block": "parallel", "block.shared_norm": False},
        {"block": "serial"},
    ),
    rope(partial=True),
    biases("attention_bias", *ATTENTION_BIAS),
    weights={
        "gpt_neox.embed_in": "embedding",
        "gpt_neox.layers.{}.input_layernorm": ("blocks.{}.placement.norm", "blocks.{}.attention_placement.norm"),
        "gpt_neox.layers.{}.post_attention_layernorm": "blocks.{}.ffn_placement.norm",
        "gpt_neox.layers.{}.attention.query_key_value": GROUPED_QKV,
        "gpt_neox.layers.{}.attention.dense": "blocks.{}.attention.out",
        "gpt_neox.layers.{}.mlp.dense_h_to_4h": "blocks.{}.ffn.up",
        "gpt_neox.layers.{}.mlp.dense_4h_to_h": "blocks.{}.ffn.down",
        "gpt_neox.final_layer_norm": "norm",
        "lm_head": "head",
        "embed_out": "head",
    },
)

family(
    "bloom",
    "position=alibi ffn=gelu_tanh embedding.normed=true",
    same("hidden_size", "size.dim"),
    same("n_layer", "size.n_layer"),
    same("n_head", "size.n_head"),
    Field((), lambda c: {"ffn.hidden": 4 * c["hidden_size"]}, lambda s: {}),
    # It has no positions to run out of: the length it was trained with.
    Field(
        ("seq_length",),
        lambda c: {"data.window": c.get("seq_length", 2048)},
        lambda s: {"seq_length": s["data.window"]},
    ),
    same("layer_norm_epsilon", "norm.eps"),
    either("apply_residual_connection_post_layernorm", {"placement": "pre_residual"}, {"placement": "pre"}),
    harmless=("slow_but_exact", "pretraining_tp"),
    weights={
        "transformer.word_embeddings": "embedding",
        "transformer.word_embeddings_layernorm": "embedding.norm",
        "transformer.h.{}.input_layernorm": "blocks.{}.attention_placement.norm",
        "transformer.h.{}.self_attention.query_key_value": GROUPED_QKV,
        "transformer.h.{}.self_attention.dense": "blocks.{}.attention.out",
        "transformer.h.{}.post_attention_layernorm": "blocks.{}.ffn_placement.norm",
        "transformer.h.{}.mlp.dense_h_to_4h": "blocks.{}.ffn.up",
        "transformer.h.{}.mlp.dense_4h_to_h": "blocks.{}.ffn.down",
        "transformer.ln_f": "norm",
        "lm_head": "head",
    },
)


def _falcon_wiring(c: Flags) -> Settings:
    """Three generations: serial, parallel with one norm, and parallel with two, which has key/value groups."""
    new, parallel, n_norms = c["new_decoder_architecture"], c["parallel_attn"], c["num_ln_in_parallel_attn"]
    if new and not parallel:
        raise refuse("parallel_attn", False, "with new_decoder_architecture=True the blocks are parallel")
    n_norms = n_norms or (2 if new else 1)
    if parallel and n_norms != 1 and not (new and n_norms == 2):
        raise refuse("num_ln_in_parallel_attn", n_norms, "must be 1, or 2 with new_decoder_architecture=True")
    kv_heads = c["num_kv_heads"] if new else 1 if c["multi_query"] else c["num_attention_heads"]
    block = {"block": "parallel", "block.shared_norm": n_norms == 1} if parallel else {"block": "serial"}
    return {"attention.n_kv_head": kv_heads, **block}


def _falcon_flags(s: Settings) -> Flags:
    parallel, many = s["block"] == "parallel", s["attention.n_kv_head"]
    two = parallel and not s["block.shared_norm"]
    new = two or (parallel and 1 < many < s["size.n_head"])
    return {
        "new_decoder_architecture": new,
        "parallel_attn": parallel,
        "num_ln_in_parallel_attn": (2 if two else 1) if new else None,
        "multi_query": many == 1,
        "num_kv_heads": many,
    }


def _falcon_position(c: Flags) -> Settings:
    if not c["alibi"]:
        return rope().read(c)
    width = c["hidden_size"] // c["num_attention_heads"]
    return {"position": "alibi", "position.bf16": True, "position.scale": width**-0.5}


family(
    "falcon",
    "block.branch_scale=1",
    *SIZES,
    WINDOW,
    same("ffn_hidden_size", "ffn.hidden", null=lambda c: 4 * c["hidden_size"]),
    activation("activation", gated=False),
    same("layer_norm_epsilon", "norm.eps"),
    Field(
        ("new_decoder_architecture", "parallel_attn", "num_ln_in_parallel_attn", "multi_query", "num_kv_heads"),
        _falcon_wiring,
        _falcon_flags,
    ),
    Field(
        ("alibi", "rope_parameters"),
        _falcon_position,
        lambda s: {"alibi": True} if s["position"] == "alibi" else {"alibi": False, **rope().write(s)},
    ),
    biases("bias", *ATTENTION_BIAS, "ffn.bias"),
    weights={
        "transformer.word_embeddings": "embedding",
        "transformer.h.{}.input_layernorm": ("blocks.{}.placement.norm", "blocks.{}.attention_placement.norm"),
        "transformer.h.{}.ln_attn": "blocks.{}.placement.norm",
        "transformer.h.{}.ln_mlp": "blocks.{}.ffn_placement.norm",
        "transformer.h.{}.post_attention_layernorm": "blocks.{}.ffn_placement.norm",
        "transformer.h.{}.self_attention.query_key_value": GROUPED_QKV,
        "transformer.h.{}.self_attention.dense": "blocks.{}.attention.out",
        "transformer.h.{}.mlp.dense_h_to_4h": "blocks.{}.ffn.up",
        "transformer.h.{}.mlp.dense_4h_to_h": "blocks.{}.ffn.down",
        "transformer.ln_f": "norm",
        "lm_head": "head",
    },
)

# ---------------------------------------------------------------- OPT, XGLM: fairseq's decoder


def fairseq(prefix: str, final_norm: str, **more: str) -> Table:
    layer = f"{prefix}.layers.{{}}"
    return {
        f"{prefix}.embed_tokens": "embedding",
        f"{layer}.self_attn.q_proj": "blocks.{}.attention.q",
        f"{layer}.self_attn.k_proj": "blocks.{}.attention.k",
        f"{layer}.self_attn.v_proj": "blocks.{}.attention.v",
        f"{layer}.self_attn.out_proj": "blocks.{}.attention.out",
        f"{layer}.self_attn_layer_norm": "blocks.{}.attention_placement.norm",
        f"{layer}.fc1": "blocks.{}.ffn.up",
        f"{layer}.fc2": "blocks.{}.ffn.down",
        f"{layer}.final_layer_norm": "blocks.{}.ffn_placement.norm",
        f"{prefix}.{final_norm}": "norm",
        **{f"{prefix}.{theirs}": ours for theirs, ours in more.items()},
        "lm_head": "head",
    }


def _opt_placement(c: Flags) -> Settings:
    if c["do_layer_norm_before"] and c["_remove_final_layer_norm"]:
        raise refuse("_remove_final_layer_norm", True, "placement=pre has a norm before the head")
    return {"placement": "pre" if c["do_layer_norm_before"] else "post"}


family(
    "opt",
    "position=learned position.offset=2 norm.eps=1e-5",
    *SIZES,
    WINDOW,
    same("ffn_dim", "ffn.hidden"),
    activation("activation_function", gated=False),
    Field(
        ("do_layer_norm_before", "_remove_final_layer_norm"),
        _opt_placement,
        lambda s: {"do_layer_norm_before": s["placement"] == "pre"},
    ),
    same("word_embed_proj_dim", "embedding.width", "head.width", null=lambda c: c["hidden_size"]),
    biases("enable_bias", *ATTENTION_BIAS, "ffn.bias"),
    same("layer_norm_elementwise_affine", "norm.learnable"),
    padding(),
    weights=fairseq(
        "model.decoder",
        "final_layer_norm",
        embed_positions="position",
        project_in="embedding.project",
        project_out="head.project",
    ),
)


def _xglm_padding(c: Flags) -> Settings:
    if c["pad_token_id"] is not None and c["pad_token_id"] >= 2:  # that row of its sinusoids is zero, the first is 2
        raise refuse("pad_token_id", c["pad_token_id"], "must be below 2, or it blanks a position")
    return padding().read(c)


family(
    "xglm",
    "position=sinusoidal position.layout=halves position.inclusive=true position.offset=2 norm.eps=1e-5",
    same("d_model", "size.dim"),
    same("num_layers", "size.n_layer"),
    same("attention_heads", "size.n_head"),
    WINDOW,
    same("ffn_dim", "ffn.hidden"),
    activation("activation_function", gated=False),
    SCALED_EMBEDDING,
    Field(("pad_token_id",), _xglm_padding, padding().write),
    only("add_cross_attention", False),
    harmless=("decoder_start_token_id",),
    weights=fairseq("model", "layer_norm"),
)

# ---------------------------------------------------------------- Llama and what grew from it


def llama_like(**changes: str | tuple[str, ...] | Layout | None) -> Table:
    """Llama's names. `changes` are those of a layer's modules, dots written __; None leaves one out."""
    layer: dict[str, str | tuple[str, ...] | Layout] = {
        "self_attn.q_proj": "blocks.{}.attention.q",
        "self_attn.k_proj": "blocks.{}.attention.k",
        "self_attn.v_proj": "blocks.{}.attention.v",
        "self_attn.o_proj": "blocks.{}.attention.out",
        "self_attn.q_norm": ("blocks.{}.attention.q_norm", "blocks.{}.attention.q_norm.norm"),
        "self_attn.k_norm": ("blocks.{}.attention.k_norm", "blocks.{}.attention.k_norm.norm"),
        "mlp.gate_proj": "blocks.{}.ffn.gate",
        "mlp.up_proj": "blocks.{}.ffn.up",
        "mlp.down_proj": "blocks.{}.ffn.down",
        "input_layernorm": "blocks.{}.attention_placement.norm",
        "post_attention_layernorm": "blocks.{}.ffn_placement.norm",
    }
    layer |= {k.replace("__", "."): v for k, v in changes.items() if v is not None}
    return {
        "model.embed_tokens": "embedding",
        **{f"model.layers.{{}}.{theirs}": ours for theirs, ours in layer.items()},
        "model.norm": "norm",
        "lm_head": "head",
    }


LLAMA = (*SIZES, WINDOW, HIDDEN, kv_heads(), head_dim(), padding())
RMS_EPS = same("rms_norm_eps", "norm.eps")
RMS_EPS_QK = same("rms_norm_eps", "norm.eps", "qk_norm.eps")
LLAMA_BIAS = biases("attention_bias", *ATTENTION_BIAS)

family(
    "llama",
    "norm=rmsnorm",
    *LLAMA,
    activation("hidden_act", gated=True),
    RMS_EPS,
    rope(),
    LLAMA_BIAS,
    biases("mlp_bias", "ffn.bias"),
    harmless=("pretraining_tp",),
    weights=llama_like(),
)

family(
    "olmo",
    "norm=layernorm norm.learnable=false norm.eps=1e-5 ffn.bias=false",
    *LLAMA,
    activation("hidden_act", gated=True),
    rope(),
    LLAMA_BIAS,
    same("clip_qkv", "attention.clip_qkv"),
    weights=llama_like(),
)

family(
    "olmo2",
    "norm=rmsnorm placement=output qk_norm=rmsnorm attention.qk_norm_over=width ffn.bias=false",
    *LLAMA,
    activation("hidden_act", gated=True),
    RMS_EPS_QK,
    rope(),
    LLAMA_BIAS,
    weights=llama_like(
        post_attention_layernorm="blocks.{}.attention_placement.norm",
        post_feedforward_layernorm="blocks.{}.ffn_placement.norm",
    ),
)

family(
    "qwen3",
    "norm=rmsnorm qk_norm=rmsnorm ffn.bias=false",
    *LLAMA,
    activation("hidden_act", gated=True),
    RMS_EPS_QK,
    rope(),
    LLAMA_BIAS,
    windows(switch="use_sliding_window"),
    harmless=("max_window_layers",),
    weights=llama_like(),
)

family(
    "gemma2",
    "norm=rmsnorm norm.zero_centered=true placement=double embedding.scale_by_width=true ffn.bias=false",
    *LLAMA,
    activation("hidden_activation", gated=True),
    RMS_EPS,
    rope(),
    LLAMA_BIAS,
    windows(),
    QUERY_SCALAR,
    same("attn_logit_softcapping", "attention.softcap"),
    same("final_logit_softcapping", "head.softcap"),
    weights=llama_like(
        input_layernorm="blocks.{}.attention_placement.norm_in",
        post_attention_layernorm="blocks.{}.attention_placement.norm_out",
        pre_feedforward_layernorm="blocks.{}.ffn_placement.norm_in",
        post_feedforward_layernorm="blocks.{}.ffn_placement.norm_out",
    ),
)

family(
    "cohere",
    "norm=layernorm norm.bias=false block=parallel ffn.bias=false",
    *LLAMA,
    activation("hidden_act", gated=True),
    same("layer_norm_eps", "norm.eps"),
    rope(pairing="interleaved"),
    LLAMA_BIAS,
    same("logit_scale", "head.scale"),
    Field(
        ("use_qk_norm", "layer_norm_eps"),
        lambda c: (
            {
                "qk_norm": "layernorm",
                "qk_norm.bias": False,
                "qk_norm.eps": c["layer_norm_eps"],
                "attention.qk_norm_over": "each_head",
            }
            if c["use_qk_norm"]
            else {"qk_norm": "none"}
        ),
        lambda s: {"use_qk_norm": s["qk_norm"] == "layernorm"},
    ),
    weights=llama_like(
        input_layernorm="blocks.{}.placement.norm",
        self_attn__q_norm=Layout(("blocks.{}.attention.q_norm.norms.{}",), each_row=True),
        self_attn__k_norm=Layout(("blocks.{}.attention.k_norm.norms.{}",), each_row=True),
    ),
)

family(
    "phi",
    "block=parallel head.bias=true",
    *LLAMA,
    activation("hidden_act", gated=False),
    same("layer_norm_eps", "norm.eps"),
    rope(partial=True),
    Field(
        ("qk_layernorm", "layer_norm_eps"),
        lambda c: (
            {"qk_norm": "layernorm", "qk_norm.eps": c["layer_norm_eps"]} if c["qk_layernorm"] else {"qk_norm": "none"}
        ),
        lambda s: {"qk_layernorm": s["qk_norm"] == "layernorm"},
    ),
    weights={
        **llama_like(
            input_layernorm="blocks.{}.placement.norm",
            self_attn__dense="blocks.{}.attention.out",
            self_attn__q_layernorm="blocks.{}.attention.q_norm",
            self_attn__k_layernorm="blocks.{}.attention.k_norm",
            mlp__fc1="blocks.{}.ffn.up",
            mlp__fc2="blocks.{}.ffn.down",
        ),
        "model.final_layernorm": "norm",
    },
)

family(
    "starcoder2",
    "block.branch_scale=1",
    *LLAMA,
    activation("hidden_act", gated=False),
    same("norm_epsilon", "norm.eps"),
    rope(),
    windows(types=None),
    biases("use_bias", *ATTENTION_BIAS, "ffn.bias"),
    weights=llama_like(mlp__c_fc="blocks.{}.ffn.up", mlp__c_proj="blocks.{}.ffn.down"),
)
