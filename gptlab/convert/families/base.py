"""The parts that several families share: the class Family, fields, and tables of weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gptlab.convert.config_fields import Field, activation, biases, either, head_dim, kv_heads, padding, same
from gptlab.convert.rotary import rope
from gptlab.convert.weight_map import QKV, Entry, Layout, Table, by_group


@dataclass(frozen=True)
class Family:
    """A class of language models of transformers, as data.

    Attributes:
        model_type: Its name in transformers.
        base: The overrides that all its members share.
        fields: How flags of its config translate to settings.
        weights: Where its weights go.
        harmless: Flags that change its speed, or nothing, but not what it computes.
    """

    model_type: str
    base: str
    fields: tuple[Field, ...]
    weights: Table
    harmless: tuple[str, ...] = ()


def family(
    model_type: str, base: str, *fields: Field, weights: Table | None = None, harmless: tuple[str, ...] = ()
) -> Family:
    """Return a Family with the fields that all families have, and with Llama's weights unless others are given."""
    return Family(model_type, base, (TIED, VOCABULARY, *fields), weights or llama_like(), harmless)


# ---------------------------------------------------------------- fields

TIED = either("tie_word_embeddings", {"head.tied": True}, {"head.tied": False})
VOCABULARY = same("vocab_size", "model.vocab_size")

WINDOW = same("max_position_embeddings", "data.window")
HIDDEN = same("intermediate_size", "ffn.hidden")
SIZES = (
    same("hidden_size", "size.dim"),
    same("num_hidden_layers", "size.n_layer"),
    same("num_attention_heads", "size.n_head"),
)
LLAMA_SIZES = (*SIZES, WINDOW, HIDDEN, kv_heads(), padding())  # no head_dim: the heads share the model's width
LLAMA = (*LLAMA_SIZES, head_dim())

GATED_ACT = activation("hidden_act", gated=True)
PLAIN_ACT = activation("hidden_act", gated=False)
ACTIVATION_FUNCTION = activation("activation_function", gated=False)

RMS_EPS = same("rms_norm_eps", "norm.eps")
RMS_EPS_QK = same("rms_norm_eps", "norm.eps", "qk_norm.eps")
LAYER_NORM_EPS = same("layer_norm_eps", "norm.eps")
LAYER_NORM_EPSILON = same("layer_norm_epsilon", "norm.eps")

LLAMA_RMS = (*LLAMA, GATED_ACT, RMS_EPS, rope())
LLAMA_RMS_QK = (*LLAMA, GATED_ACT, RMS_EPS_QK, rope())

ATTENTION_BIAS = ("attention.qkv_bias", "attention.out_bias")
LLAMA_BIAS = biases("attention_bias", *ATTENTION_BIAS)
QKV_BIAS = biases("attention_bias", "attention.qkv_bias")
MLP_BIAS = biases("mlp_bias", "ffn.bias")

SCALED_EMBEDDING = Field(
    ("scale_embedding",),
    lambda c: {"embedding.scale_by_width": c["scale_embedding"]},
    lambda s: {"scale_embedding": s["embedding.scale"] != 1 or s["size.dim"] == 1},
)


# ---------------------------------------------------------------- tables of weights

GROUPED_QKV = Layout(QKV, order=by_group)
FUSED_GATE = Layout(("ffn.gate", "ffn.up"))
SEPARATE_QKV = {"q_proj": "attention.q", "k_proj": "attention.k", "v_proj": "attention.v"}


def table(model: Mapping[str, str], layers: str, layer: Mapping[str, Entry]) -> Table:
    """Return a table of weights.

    Args:
        model: Modules outside of the layers. The head is added.
        layers: The path of the list of layers.
        layer: Modules of a layer, with paths within the layer on either side.
    """
    in_layers = {f"{layers}.{{}}.{theirs}": _within_block(ours) for theirs, ours in layer.items()}
    return {**model, **in_layers, "lm_head": "head"}


def _within_block(entry: Entry) -> Entry:
    if isinstance(entry, Layout):
        return replace(entry, parts=tuple(f"blocks.{{}}.{part}" for part in entry.parts))
    if isinstance(entry, tuple):
        return tuple(f"blocks.{{}}.{path}" for path in entry)
    return f"blocks.{{}}.{entry}"


def llama_like(changes: Mapping[str, Entry] | None = None, *, final_norm: str = "model.norm") -> Table:
    """Return Llama's table of weights, with changes in the modules of a layer."""
    return table(
        {"model.embed_tokens": "embedding", final_norm: "norm"},
        "model.layers",
        {
            **{f"self_attn.{theirs}": ours for theirs, ours in SEPARATE_QKV.items()},
            "self_attn.o_proj": "attention.out",
            "self_attn.q_norm": ("attention.q_norm", "attention.q_norm.norm"),
            "self_attn.k_norm": ("attention.k_norm", "attention.k_norm.norm"),
            "mlp.gate_proj": "ffn.gate",
            "mlp.up_proj": "ffn.up",
            "mlp.down_proj": "ffn.down",
            "input_layernorm": "attention_placement.norm",
            "post_attention_layernorm": "ffn_placement.norm",
            **(changes or {}),
        },
    )
