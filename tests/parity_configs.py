"""Tiny configs of the classes of transformers with a preset in gptlab, as flags by their own names."""

WINDOW = 17  # tokens

GPT = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": WINDOW, "layer_norm_epsilon": 0.01}
SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": WINDOW}
NEOX = SIZE | {"intermediate_size": 48, "layer_norm_eps": 0.01}
BLOOM = {"hidden_size": 32, "n_layer": 3, "n_head": 4, "layer_norm_epsilon": 0.01, "seq_length": WINDOW}
FALCON = SIZE | {"layer_norm_epsilon": 0.01}
FALCON_1, FALCON_2 = FALCON | {"alibi": True}, FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}
OPT = SIZE | {"ffn_dim": 48}
XGLM = {"d_model": 32, "num_layers": 3, "attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": WINDOW}
GROUPED = SIZE | {"intermediate_size": 48, "num_key_value_heads": 2, "pad_token_id": 1}
LLAMA = GROUPED | {"rms_norm_eps": 0.01}
COHERE = PHI = GROUPED | {"layer_norm_eps": 0.01}
STARCODER = GROUPED | {"norm_epsilon": 0.01}
GEMMA = LLAMA | {"head_dim": 12, "sliding_window": 5}
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
BIAS, NO_BIAS = {"attention_bias": True}, {"attention_bias": False}


def rope(theta: float, kind: str = "default", **more: float) -> dict:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


def layers(*kinds: str) -> dict:
    return {"layer_types": [f"{kind}_attention" for kind in kinds]}


LINEAR = rope(500.0, "linear", factor=2.5)
# Of the four pairs of a head, the first makes 3.8 turns within 24 tokens, the last 0.3: one keeps its frequency, one is
# slowed down, and two are in between.
RAMP = {"low_freq_factor": 0.5, "high_freq_factor": 2.0, "original_max_position_embeddings": 24}
LLAMA3 = rope(30.0, "llama3", factor=4.0, **RAMP)

# model_type -> flags of tiny models, which together have every value of every flag that the family's table reads.
CONFIGS: dict[str, list[dict]] = {
    "gpt2": [
        GPT,
        GPT | UNTIED | {"n_inner": 40, "activation_function": "relu", "scale_attn_by_inverse_layer_idx": True},
        GPT | {"scale_attn_weights": False, "activation_function": "gelu", "n_head": 2},
        GPT | {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    ],
    "openai-gpt": [
        GPT,
        GPT | UNTIED | {"afn": "silu", "layer_norm_epsilon": 0.1},
        GPT | {"afn": "relu", "n_head": 2, "n_layer": 2},
    ],
    "gptj": [
        GPT | {"rotary_dim": 4},
        GPT | {"rotary_dim": 8, "n_inner": 24, "activation_function": "silu"},
        GPT | TIED | {"rotary_dim": 6, "n_head": 2, "activation_function": "gelu"},
    ],
    "gpt_neox": [
        NEOX,
        NEOX | TIED | NO_BIAS | {"use_parallel_residual": False},
        NEOX | {"hidden_act": "gelu_new"} | rope(500.0, partial_rotary_factor=0.5),
        NEOX | NO_BIAS | {"hidden_act": "relu"} | rope(100.0, partial_rotary_factor=1.0),
        NEOX | {"num_attention_heads": 2} | rope(500.0, "linear", factor=2.5, partial_rotary_factor=0.5),
        NEOX | {"num_attention_heads": 2} | rope(30.0, "llama3", factor=4.0, partial_rotary_factor=0.5, **RAMP),
    ],
    "bloom": [
        BLOOM,
        BLOOM | {"hidden_size": 36, "n_head": 6, "apply_residual_connection_post_layernorm": True},
        BLOOM | UNTIED | {"hidden_size": 48, "n_head": 12, "slow_but_exact": True},
    ],
    "falcon": [
        FALCON,
        FALCON | {"bias": True, "activation": "gelu_new", "ffn_hidden_size": 40},
        FALCON | {"parallel_attn": False} | rope(100.0),
        FALCON | UNTIED | {"multi_query": False} | LINEAR,
        FALCON | {"multi_query": False, "parallel_attn": False, "bias": True} | LLAMA3,
        FALCON_1,
        FALCON_1 | {"multi_query": False, "parallel_attn": False, "bias": True},
        FALCON_1 | {"multi_query": False, "hidden_size": 36, "num_attention_heads": 6},
        FALCON_1 | {"parallel_attn": False, "hidden_size": 48, "num_attention_heads": 12},
        FALCON_2,
        FALCON_2 | {"bias": True, "num_ln_in_parallel_attn": 2, "num_kv_heads": 1},
        FALCON_2 | {"num_ln_in_parallel_attn": 1, "ffn_hidden_size": 40, "activation": "relu"},
        FALCON_2 | UNTIED | {"num_kv_heads": 4, "num_ln_in_parallel_attn": 1},
        FALCON_2 | {"num_kv_heads": 6, "alibi": True, "hidden_size": 48, "num_attention_heads": 12},
    ],
    "opt": [
        OPT,
        OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 16, "pad_token_id": 5},
        OPT | UNTIED | {"enable_bias": False, "activation_function": "gelu", "pad_token_id": None},
        OPT | {"layer_norm_elementwise_affine": False, "ffn_dim": 40},
        OPT | UNTIED | {"enable_bias": False, "layer_norm_elementwise_affine": False, "word_embed_proj_dim": 40},
        OPT | {"do_layer_norm_before": False, "_remove_final_layer_norm": True},
    ],
    "xglm": [
        XGLM,
        XGLM | {"scale_embedding": False, "activation_function": "relu", "pad_token_id": None},
        XGLM | UNTIED | {"d_model": 36, "attention_heads": 6, "pad_token_id": 0},
    ],
    "llama": [
        LLAMA,
        LLAMA | TIED | BIAS | {"mlp_bias": True, "head_dim": 12, "hidden_act": "gelu", "pad_token_id": None},
        LLAMA | BIAS | {"num_key_value_heads": 1, "hidden_act": "sigmoid"} | LLAMA3,
        LLAMA | {"mlp_bias": True, "num_key_value_heads": None, "hidden_act": "relu"} | LINEAR,
        LLAMA | {"hidden_act": "gelu_new", "pad_token_id": 5} | rope(100.0),
    ],
    "olmo": [
        LLAMA,
        LLAMA | TIED | BIAS | {"clip_qkv": 0.5, "hidden_act": "gelu", "pad_token_id": None} | rope(100.0),
        LLAMA | {"head_dim": 12, "num_key_value_heads": 1, "clip_qkv": 1.0} | LINEAR,
        LLAMA | LLAMA3,
    ],
    "olmo2": [
        LLAMA,
        LLAMA | TIED | BIAS | {"head_dim": 12, "hidden_act": "gelu", "pad_token_id": None} | rope(100.0),
        LLAMA | {"rms_norm_eps": 0.1, "num_key_value_heads": 1} | LINEAR,
        LLAMA | {"num_key_value_heads": 4} | LLAMA3,
    ],
    "gemma2": [
        GEMMA | {"query_pre_attn_scalar": 20, "attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0},
        GEMMA | UNTIED | BIAS | {"attn_logit_softcapping": None, "hidden_activation": "silu"} | LINEAR,
        GEMMA | {"final_logit_softcapping": None, "head_dim": 8, "pad_token_id": None} | layers(*3 * ["full"]),
        GEMMA | {"attn_logit_softcapping": None, "num_key_value_heads": 1} | layers("full", *2 * ["sliding"]) | LLAMA3,
        GEMMA | {"sliding_window": 2} | layers(*3 * ["sliding"]) | rope(100.0),
    ],
    "qwen3": [
        LLAMA | {"head_dim": 12},
        LLAMA | BIAS | {"head_dim": 8, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
        LLAMA | TIED | {"sliding_window": 4, "max_window_layers": 1, "hidden_act": "gelu", "pad_token_id": None},
        LLAMA | {"use_sliding_window": True, "sliding_window": 2} | layers("full", "sliding", "full") | LINEAR,
        LLAMA | {"head_dim": 8, "num_key_value_heads": 1, "rms_norm_eps": 0.1} | LLAMA3,
    ],
    "cohere": [
        COHERE,
        COHERE | BIAS | {"use_qk_norm": True, "logit_scale": 0.3, "pad_token_id": None} | rope(100.0),
        COHERE | UNTIED | {"head_dim": 12, "hidden_act": "gelu", "num_key_value_heads": 1} | LINEAR,
        COHERE | {"use_qk_norm": True, "head_dim": 6, "num_key_value_heads": 4, "logit_scale": 2.0} | LLAMA3,
    ],
    "phi": [
        PHI,
        PHI | TIED | {"qk_layernorm": True, "num_key_value_heads": 4} | rope(100.0, partial_rotary_factor=1.0),
        PHI | {"head_dim": 12, "hidden_act": "gelu", "pad_token_id": None} | rope(9.0, partial_rotary_factor=0.4),
        PHI | {"qk_layernorm": True, "num_key_value_heads": 1} | rope(9.0, "linear", factor=2.5),
    ],
    "starcoder2": [
        STARCODER,
        STARCODER | UNTIED | {"sliding_window": 5, "use_bias": False, "hidden_act": "relu", "pad_token_id": None},
        STARCODER | {"head_dim": 12, "sliding_window": 2, "num_key_value_heads": 1} | LINEAR,
        STARCODER | {"num_key_value_heads": 4, "norm_epsilon": 0.1} | LLAMA3,
    ],
}
