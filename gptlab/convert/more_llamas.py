"""More families: what grew from Llama, after those of families.py, which come first where several can say the same."""

from collections.abc import Mapping

from gptlab.convert.config_fields import (
    Field,
    Flags,
    Settings,
    activation,
    biases,
    either,
    kv_heads,
    padding,
    refuse,
    same,
    windows,
)
from gptlab.convert.families import (
    ATTENTION_BIAS,
    GROUPED_QKV,
    HIDDEN,
    LLAMA,
    LLAMA_BIAS,
    RMS_EPS,
    SIZES,
    WINDOW,
    family,
    llama_like,
)
from gptlab.convert.rotary import rope
from gptlab.convert.weight_map import QKV, Layout, Table

GATED_ACT, PLAIN_ACT = activation("hidden_act", gated=True), activation("hidden_act", gated=False)
MLP_BIAS = biases("mlp_bias", "ffn.bias")
NO_HEAD_DIM = (*SIZES, WINDOW, HIDDEN, kv_heads(), padding())  # a head is as wide as the model has room for
LAYER_NORM_EPS = same("layer_norm_eps", "norm.eps")
GATE_UP = Layout(("blocks.{}.ffn.gate", "blocks.{}.ffn.up"))
FUSED = {"self_attn.qkv_proj": Layout(QKV), "mlp.gate_up_proj": GATE_UP}


def named(layer: Mapping[str, str | tuple[str, ...] | Layout | None]) -> Table:
    """Llama's names but for these of a layer's modules."""
    return llama_like(**layer)


def qk_layernorm(more: Settings) -> Field:
    """A switch for layer norms of queries and keys, with `more` that is said of them."""

    def read(c: Flags) -> Settings:
        on = {"qk_norm": "layernorm", "qk_norm.eps": c["layer_norm_eps"], **more}
        return on if c["qk_layernorm"] else {"qk_norm": "none"}

    return Field(("qk_layernorm", "layer_norm_eps"), read, lambda s: {"qk_layernorm": s["qk_norm"] == "layernorm"})


# ---------------------------------------------------------------- Mistral, Qwen, and others that differ in a flag

for name in ("iquestcoder", "internlm3"):  # their class is Llama's own
    family(name, "norm=rmsnorm", *LLAMA, GATED_ACT, RMS_EPS, rope(), LLAMA_BIAS, MLP_BIAS, weights=llama_like())

family(
    "mistral", "norm=rmsnorm bias=false", *LLAMA, GATED_ACT, RMS_EPS, rope(), windows(types=None), weights=llama_like()
)
family("ministral", "norm=rmsnorm bias=false", *LLAMA, GATED_ACT, RMS_EPS, rope(), windows(), weights=llama_like())

family(
    "qwen2",
    "norm=rmsnorm attention.out_bias=false ffn.bias=false",
    *LLAMA,
    GATED_ACT,
    RMS_EPS,
    rope(),
    windows(switch="use_sliding_window"),
    harmless=("max_window_layers",),
    weights=llama_like(),
)

family(
    "cwm",
    "norm=rmsnorm attention.qkv_bias=false attention.out_bias=false",
    *LLAMA,
    GATED_ACT,
    RMS_EPS,
    rope(),
    windows(),
    MLP_BIAS,
    harmless=("pretraining_tp",),
    weights=llama_like(),
)

family(
    "seed_oss",
    "norm=rmsnorm",
    *LLAMA,
    GATED_ACT,
    RMS_EPS,
    rope(),
    biases("attention_bias", "attention.qkv_bias"),
    biases("attention_out_bias", "attention.out_bias"),
    MLP_BIAS,
    harmless=("pretraining_tp",),
    weights=llama_like(),
)

family("arcee", "norm=rmsnorm", *LLAMA, PLAIN_ACT, RMS_EPS, rope(), LLAMA_BIAS, MLP_BIAS, weights=llama_like())

family(
    "jais2",
    "norm=layernorm",
    *LLAMA,
    PLAIN_ACT,
    LAYER_NORM_EPS,
    rope(),
    LLAMA_BIAS,
    MLP_BIAS,
    weights=llama_like(),
)

family(
    "ernie4_5",
    "norm=rmsnorm",
    *LLAMA,
    GATED_ACT,
    RMS_EPS,
    rope(pairing="interleaved"),
    biases("use_bias", *ATTENTION_BIAS, "ffn.bias"),
    weights=llama_like(),
)


def _helium_head(c: Flags) -> Settings:
    if c["head_dim"] * c["num_attention_heads"] != c["hidden_size"]:
        raise refuse("head_dim", c["head_dim"], "the heads together must be as wide as the model")
    return {"attention.head_dim": c["head_dim"]}


family(
    "helium",
    "norm=rmsnorm attention.out_bias=false",
    *NO_HEAD_DIM,
    Field(("head_dim",), _helium_head, lambda s: {"head_dim": s["attention.head_dim"]}),
    GATED_ACT,
    RMS_EPS,
    rope(pairing="interleaved"),
    biases("attention_bias", "attention.qkv_bias"),
    MLP_BIAS,
    weights=llama_like(),
)

family(
    "nemotron",
    "norm=layernorm norm.zero_centered=true",
    *LLAMA,
    PLAIN_ACT,
    same("norm_eps", "norm.eps"),
    rope(partial=True),
    LLAMA_BIAS,
    MLP_BIAS,
    weights=llama_like(),
)

family(
    "stablelm",
    "norm=layernorm attention.out_bias=false ffn.bias=false",
    *NO_HEAD_DIM,
    GATED_ACT,
    LAYER_NORM_EPS,
    rope(partial=True),
    biases("use_qkv_bias", "attention.qkv_bias"),
    either("use_parallel_residual", {"block": "parallel"}, {"block": "serial"}),
    qk_layernorm({"qk_norm.bias": False, "attention.qk_norm_over": "each_head"}),
    weights=named(
        {
            "input_layernorm": ("blocks.{}.placement.norm", "blocks.{}.attention_placement.norm"),
            "self_attn.q_layernorm.norms.{}": "blocks.{}.attention.q_norm.norms.{}",
            "self_attn.k_layernorm.norms.{}": "blocks.{}.attention.k_norm.norms.{}",
        }
    ),
)

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
    weights={
        **named(
            {
                "self_attn.query_key_value": GROUPED_QKV,
                "self_attn.dense": "blocks.{}.attention.out",
                "self_attn.q_layernorm": "blocks.{}.attention.q_norm",
                "self_attn.k_layernorm": "blocks.{}.attention.k_norm",
                "mlp.dense_h_to_4h": "blocks.{}.ffn.up",
                "mlp.dense_4h_to_h": "blocks.{}.ffn.down",
            }
        ),
        "model.final_layernorm": "norm",
    },
)

# ---------------------------------------------------------------- fused matrices: Phi-3, GLM

family(
    "phi3",
    "norm=rmsnorm bias=false",
    *NO_HEAD_DIM,
    GATED_ACT,
    RMS_EPS,
    rope(partial=True),
    windows(types=None),
    harmless=("original_max_position_embeddings",),  # of longrope, which is refused
    weights=named(FUSED),
)

family(
    "glm",
    "norm=rmsnorm attention.out_bias=false ffn.bias=false",
    *LLAMA,
    GATED_ACT,
    RMS_EPS,
    rope(partial=True, pairing="interleaved"),
    biases("attention_bias", "attention.qkv_bias"),
    weights=named({"mlp.gate_up_proj": GATE_UP}),
)

family(
    "glm4",
    "norm=rmsnorm placement=double attention.out_bias=false ffn.bias=false",
    *LLAMA,
    GATED_ACT,
    RMS_EPS,
    rope(partial=True, pairing="interleaved"),
    biases("attention_bias", "attention.qkv_bias"),
    weights=named(
        {
            "mlp.gate_up_proj": GATE_UP,
            "input_layernorm": "blocks.{}.attention_placement.norm_in",
            "post_self_attn_layernorm": "blocks.{}.attention_placement.norm_out",
            "post_attention_layernorm": "blocks.{}.ffn_placement.norm_in",
            "post_mlp_layernorm": "blocks.{}.ffn_placement.norm_out",
        }
    ),
)
