"""Families with one matrix for queries, keys and values: GPT-NeoX, Bloom, Falcon."""

from gptlab.convert.config_fields import Field, Flags, FlatConfig, activation, biases, either, refuse, same
from gptlab.convert.families.base import (
    ATTENTION_BIAS,
    GROUPED_QKV,
    HIDDEN,
    LAYER_NORM_EPS,
    LAYER_NORM_EPSILON,
    LLAMA_BIAS,
    PLAIN_ACT,
    SIZES,
    WINDOW,
    family,
    table,
)
from gptlab.convert.families.gpt import four_times
from gptlab.convert.rotary import rope
from gptlab.convert.weight_map import Entry

EITHER_NORM = ("placement.norm", "attention_placement.norm")  # the norm of a parallel block, or of a serial one
MLP: dict[str, Entry] = {"mlp.dense_h_to_4h": "ffn.up", "mlp.dense_4h_to_h": "ffn.down"}
SELF_ATTENTION: dict[str, Entry] = {
    "self_attention.query_key_value": GROUPED_QKV,
    "self_attention.dense": "attention.out",
}


def _falcon_wiring(c: Flags) -> FlatConfig:
    """Tell its three generations apart: serial, parallel with one norm, parallel with two and key/value groups."""
    new, parallel, n_norms = c["new_decoder_architecture"], c["parallel_attn"], c["num_ln_in_parallel_attn"]
    if new and not parallel:
        raise refuse("parallel_attn", False, "with new_decoder_architecture=True the blocks are parallel")
    n_norms = n_norms or (2 if new else 1)
    if parallel and n_norms != 1 and not (new and n_norms == 2):
        raise refuse("num_ln_in_parallel_attn", n_norms, "must be 1, or 2 with new_decoder_architecture=True")
    kv_heads = c["num_kv_heads"] if new else 1 if c["multi_query"] else c["num_attention_heads"]
    block = {"block": "parallel", "block.shared_norm": n_norms == 1} if parallel else {"block": "serial"}
    return {"attention.n_kv_head": kv_heads, **block}


def _falcon_flags(s: FlatConfig) -> Flags:
    parallel, n_kv_head = s["block"] == "parallel", s["attention.n_kv_head"]
    two_norms = parallel and not s["block.shared_norm"]
    new = two_norms or (parallel and 1 < n_kv_head < s["size.n_head"])
    return {
        "new_decoder_architecture": new,
        "parallel_attn": parallel,
        "num_ln_in_parallel_attn": (2 if two_norms else 1) if new else None,
        "multi_query": n_kv_head == 1,
        "num_kv_heads": n_kv_head,
    }


def _falcon_position(c: Flags) -> FlatConfig:
    if not c["alibi"]:
        return rope().read(c)
    width = c["hidden_size"] // c["num_attention_heads"]
    return {"position": "alibi", "position.bf16": True, "position.scale": width**-0.5}


NEOX_FAMILIES = (
    family(
        "gpt_neox",
        "block.branch_scale=1",
        *SIZES,
        WINDOW,
        HIDDEN,
        PLAIN_ACT,
        LAYER_NORM_EPS,
        either("use_parallel_residual", {"block": "parallel", "block.shared_norm": False}, {"block": "serial"}),
        rope(partial=True),
        LLAMA_BIAS,
        weights={
            **table(
                {"gpt_neox.embed_in": "embedding", "gpt_neox.final_layer_norm": "norm"},
                "gpt_neox.layers",
                {
                    "input_layernorm": EITHER_NORM,
                    "post_attention_layernorm": "ffn_placement.norm",
                    "attention.query_key_value": GROUPED_QKV,
                    "attention.dense": "attention.out",
                    **MLP,
                },
            ),
            "embed_out": "head",
        },
    ),
    family(
        "bloom",
        "position=alibi ffn=gelu_tanh embedding.normed=true",
        same("hidden_size", "size.dim"),
        same("n_layer", "size.n_layer"),
        same("n_head", "size.n_head"),
        four_times("hidden_size"),
        Field(
            ("seq_length",),  # the length it was trained with; ALiBi has no longest position
            lambda c: {"data.window": c.get("seq_length", 2048)},
            lambda s: {"seq_length": s["data.window"]},
        ),
        LAYER_NORM_EPSILON,
        either("apply_residual_connection_post_layernorm", {"placement": "pre_residual"}, {"placement": "pre"}),
        harmless=("slow_but_exact", "pretraining_tp"),
        weights=table(
            {
                "transformer.word_embeddings": "embedding",
                "transformer.word_embeddings_layernorm": "embedding.norm",
                "transformer.ln_f": "norm",
            },
            "transformer.h",
            {
                "input_layernorm": "attention_placement.norm",
                "post_attention_layernorm": "ffn_placement.norm",
                **SELF_ATTENTION,
                **MLP,
            },
        ),
    ),
    family(
        "falcon",
        "block.branch_scale=1",
        *SIZES,
        WINDOW,
        same("ffn_hidden_size", "ffn.hidden", null=lambda c: 4 * c["hidden_size"]),
        activation("activation", gated=False),
        LAYER_NORM_EPSILON,
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
        weights=table(
            {"transformer.word_embeddings": "embedding", "transformer.ln_f": "norm"},
            "transformer.h",
            {
                "input_layernorm": EITHER_NORM,
                "ln_attn": "placement.norm",
                "ln_mlp": "ffn_placement.norm",
                "post_attention_layernorm": "ffn_placement.norm",
                **SELF_ATTENTION,
                **MLP,
            },
        ),
    ),
)
