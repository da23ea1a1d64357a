"""Families with the decoder of fairseq: OPT, XGLM, BioGPT."""

from gptlab.convert.config_fields import Field, Flags, FlatConfig, biases, only, padding, refuse, same
from gptlab.convert.families.base import (
    ACTIVATION_FUNCTION,
    ATTENTION_BIAS,
    HIDDEN,
    PLAIN_ACT,
    SCALED_EMBEDDING,
    SEPARATE_QKV,
    SIZES,
    WINDOW,
    family,
    table,
)
from gptlab.convert.weight_map import Table


def fairseq(prefix: str, final_norm: str, **more: str) -> Table:
    """Return the table of weights of a decoder at `prefix`, with `more` modules outside of its layers."""
    model = {"embed_tokens": "embedding", final_norm: "norm", **more}
    return table(
        {f"{prefix}.{theirs}": ours for theirs, ours in model.items()},
        f"{prefix}.layers",
        {
            **{f"self_attn.{theirs}": ours for theirs, ours in SEPARATE_QKV.items()},
            "self_attn.out_proj": "attention.out",
            "self_attn_layer_norm": "attention_placement.norm",
            "fc1": "ffn.up",
            "fc2": "ffn.down",
            "final_layer_norm": "ffn_placement.norm",
        },
    )


def _opt_placement(c: Flags) -> FlatConfig:
    if c["do_layer_norm_before"] and c["_remove_final_layer_norm"]:
        raise refuse("_remove_final_layer_norm", True, "placement=pre has a norm before the head")
    return {"placement": "pre" if c["do_layer_norm_before"] else "post"}


def _xglm_padding(c: Flags) -> FlatConfig:
    if (
        c["pad_token_id"] is not None and c["pad_token_id"] >= 2
    ):  # its sinusoids are zero in that row, and positions start at row 2
        raise refuse("pad_token_id", c["pad_token_id"], "must be below 2, or it blanks a position")
    return padding().read(c)


FAIRSEQ_FAMILIES = (
    family(
        "opt",
        "position=learned position.offset=2 norm.eps=1e-5",
        *SIZES,
        WINDOW,
        same("ffn_dim", "ffn.hidden"),
        ACTIVATION_FUNCTION,
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
    ),
    family(
        "xglm",
        "position=sinusoidal position.layout=halves position.inclusive=true position.offset=2 norm.eps=1e-5",
        same("d_model", "size.dim"),
        same("num_layers", "size.n_layer"),
        same("attention_heads", "size.n_head"),
        WINDOW,
        same("ffn_dim", "ffn.hidden"),
        ACTIVATION_FUNCTION,
        SCALED_EMBEDDING,
        Field(("pad_token_id",), _xglm_padding, padding().write),
        only("add_cross_attention", False),
        harmless=("decoder_start_token_id",),
        weights=fairseq("model", "layer_norm"),
    ),
    family(
        "biogpt",
        "position=learned position.offset=2 norm.eps=1e-5",
        *SIZES,
        WINDOW,
        HIDDEN,
        PLAIN_ACT,
        SCALED_EMBEDDING,
        padding(),
        harmless=("layer_norm_eps",),  # the class never reads it: its norms have torch's default, 1e-5
        weights={**fairseq("biogpt", "layer_norm", embed_positions="position"), "output_projection": "head"},
    ),
)
