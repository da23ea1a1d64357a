"""Tiny configs of the classes of transformers without a preset, as in parity_configs.py."""

from parity_configs import BIAS, GPT, LINEAR, LLAMA, LLAMA3, NO_BIAS, SIZE, TIED, UNTIED, WINDOW, layers, rope
from parity_configs import COHERE as LAYER_NORM

PLAIN = SIZE | {"intermediate_size": 48, "pad_token_id": 1}
GEMMA = LLAMA | {"head_dim": 12, "sliding_window": 5, "query_pre_attn_scalar": 20}
GPT_NEO = {"hidden_size": 32, "num_heads": 4, "max_position_embeddings": WINDOW, "layer_norm_epsilon": 0.01}
MPT = {"d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": WINDOW, "layer_norm_epsilon": 0.01}
MPT |= {"dtype": "float32"}  # the model passes it on to its inner config
CTRL = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": WINDOW, "dff": 48}
WIDE, GELU, MLP_BIAS = {"head_dim": 12}, {"hidden_act": "gelu"}, {"mlp_bias": True}
MULTIPLIED = {"embedding_multiplier": 3, "attention_multiplier": 0.2, "logits_scaling": 0.3}


def by_layer(full: dict, sliding: dict) -> dict:
    p = {"full_attention": full["rope_parameters"], "sliding_attention": sliding["rope_parameters"]}
    return {"rope_parameters": p}


# Of the four pairs of a head, the first makes more turns than beta_fast within 24 tokens, the last fewer than
# beta_slow.
YARN = rope(30.0, "yarn", factor=4.0, original_max_position_embeddings=24, beta_fast=2.0, beta_slow=0.25)
HALF, WHOLE = rope(9.0, partial_rotary_factor=0.5), rope(9.0, partial_rotary_factor=1.0)
SLIDING, FULL = layers("sliding", "sliding", "sliding"), layers("full", "full", "full")
MIXED, LAST_FULL = layers("full", "sliding", "full"), layers("sliding", "sliding", "full")

CONFIGS: dict[str, list[dict]] = {
    "mistral": [
        LLAMA | YARN | {"sliding_window": 5},
        LLAMA | TIED | WIDE | GELU | LINEAR | {"sliding_window": None, "pad_token_id": None},
    ],
    "ministral": [
        LLAMA | WIDE | {"sliding_window": 5},
        LLAMA | WIDE | MIXED | TIED | LLAMA3 | GELU | {"sliding_window": 3},
    ],
    "qwen2": [
        LLAMA | rope(30.0, "dynamic", factor=4.0),
        LLAMA | TIED | GELU | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
        LLAMA | WIDE | MIXED | YARN | {"use_sliding_window": True, "sliding_window": 2},
    ],
    "iquestcoder": [LLAMA | WIDE | TIED | BIAS | GELU, LLAMA | MLP_BIAS | LINEAR | {"head_dim": 8}],
    "internlm3": [
        LLAMA | WIDE,
        LLAMA | TIED | BIAS | MLP_BIAS | GELU | LINEAR | {"num_key_value_heads": 4, "head_dim": 8},
    ],
    "cwm": [
        LLAMA | WIDE | {"sliding_window": 5},
        LLAMA | TIED | MLP_BIAS | MIXED | GELU | rope(100.0) | {"sliding_window": 3, "head_dim": 8},
    ],
    "seed_oss": [
        LLAMA | WIDE,
        LLAMA | WIDE | TIED | NO_BIAS | LINEAR | {"attention_out_bias": True},
        LLAMA | WIDE | MLP_BIAS | GELU | {"attention_out_bias": True, "pad_token_id": None},
    ],
    "arcee": [LLAMA, LLAMA | WIDE | TIED | BIAS | MLP_BIAS | GELU | LINEAR],
    "jais2": [LAYER_NORM, LAYER_NORM | WIDE | TIED | NO_BIAS | LINEAR | {"mlp_bias": False, "hidden_act": "silu"}],
    "ernie4_5": [
        LLAMA | {"head_dim": 8},
        LLAMA | WIDE | UNTIED | GELU | rope(100.0) | {"use_bias": True, "num_key_value_heads": 4},
    ],
    "helium": [LLAMA | {"head_dim": 8}, LLAMA | TIED | BIAS | MLP_BIAS | GELU | LINEAR | {"head_dim": 8}],
    "nemotron": [
        LLAMA | {"norm_eps": 0.01},
        LLAMA | WIDE | TIED | BIAS | MLP_BIAS | GELU | WHOLE | {"norm_eps": 0.1},
    ],
    "stablelm": [
        LAYER_NORM,
        LAYER_NORM | HALF | {"qk_layernorm": True, "use_qkv_bias": True, "use_parallel_residual": True},
        LAYER_NORM | TIED | GELU | WHOLE | {"qk_layernorm": True, "num_key_value_heads": 4},
    ],
    "persimmon": [
        PLAIN | {"layer_norm_eps": 0.01},
        PLAIN | TIED | GELU | WHOLE | {"layer_norm_eps": 0.1, "qk_layernorm": False},
    ],
    "phi3": [LLAMA, LLAMA | TIED | GELU | HALF | {"sliding_window": 5, "num_key_value_heads": 4}],
    "glm": [LLAMA | {"head_dim": 8}, LLAMA | WIDE | TIED | NO_BIAS | GELU | WHOLE | {"num_key_value_heads": 1}],
    "glm4": [LLAMA | {"head_dim": 8}, LLAMA | WIDE | TIED | NO_BIAS | GELU | WHOLE | {"num_key_value_heads": 1}],
    "gemma": [
        LLAMA | WIDE,
        LLAMA | UNTIED | BIAS | LINEAR | {"head_dim": 8, "hidden_act": "silu", "use_bidirectional_attention": False},
    ],
    "gemma3_text": [
        GEMMA | by_layer(rope(500.0), rope(20.0)) | {"sliding_window_pattern": 3},
        GEMMA | BIAS | MIXED | by_layer(LINEAR, rope(20.0)) | {"final_logit_softcapping": 2.0},
        GEMMA | UNTIED | SLIDING | by_layer(LINEAR, rope(20.0)) | {"hidden_activation": "silu"},
        GEMMA | FULL | by_layer(rope(500.0), rope(20.0)) | {"pad_token_id": None, "use_bidirectional_attention": None},
    ],
    "vaultgemma": [
        GEMMA | {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0},
        GEMMA | UNTIED | BIAS | MIXED | LINEAR | {"attn_logit_softcapping": None, "hidden_activation": "silu"},
        GEMMA | FULL | {"final_logit_softcapping": None},
    ],
    "olmo3": [
        LLAMA | {"sliding_window": 5, "num_hidden_layers": 4},
        LLAMA | WIDE | TIED | BIAS | MIXED | by_layer(YARN, rope(100.0)) | {"sliding_window": 3},
        LLAMA | GELU | MIXED | by_layer(LLAMA3, LLAMA3) | {"sliding_window": 3, "pad_token_id": None},
        LLAMA | SLIDING | by_layer(rope(100.0), LINEAR) | {"sliding_window": 4},
    ],
    "cohere2": [
        LAYER_NORM | {"sliding_window": 5, "num_hidden_layers": 4},
        LAYER_NORM | WIDE | UNTIED | BIAS | MIXED | rope(100.0) | {"sliding_window": 3, "logit_scale": 0.3},
        LAYER_NORM | GELU | SLIDING | LINEAR | {"sliding_window": 2},
        LAYER_NORM | FULL | {"pad_token_id": None},
    ],
    "exaone4": [
        LLAMA | {"sliding_window": 5, "num_hidden_layers": 4},
        LLAMA | WIDE | TIED | MIXED | GELU | LLAMA3 | {"sliding_window": 3},
        LLAMA | FULL | {"sliding_window": None},
        LLAMA | FULL | {"sliding_window": 4},
    ],
    "smollm3": [
        LLAMA | {"num_hidden_layers": 5},
        LLAMA | UNTIED | BIAS | {"no_rope_layers": [0, 1, 1], "use_sliding_window": True, "sliding_window": 4},
        LLAMA | WIDE | MLP_BIAS | GELU | rope(100.0) | {"no_rope_layers": [1, 1, 1]},
        LLAMA | MIXED | {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 2},
    ],
    "granite": [
        LLAMA | {"attention_multiplier": 0.4},
        LLAMA | TIED | BIAS | MLP_BIAS | MULTIPLIED | {"residual_multiplier": 0.22},
        LLAMA | WIDE | GELU | LINEAR | {"attention_multiplier": 1, "logits_scaling": 8},
    ],
    "hyperclovax": [
        LLAMA,
        LLAMA | TIED | BIAS | MLP_BIAS | MULTIPLIED,
        LLAMA | WIDE | GELU | LINEAR | {"use_post_norm": False, "residual_multiplier": 0.22},
    ],
    "nanochat": [
        LLAMA | {"final_logit_softcapping": 2.0},
        LLAMA | TIED | BIAS | GELU | LINEAR | {"final_logit_softcapping": None, "pad_token_id": None},
    ],
    "gpt_bigcode": [
        GPT,
        GPT
        | UNTIED
        | {"multi_query": False, "scale_attn_weights": False, "n_inner": 40, "activation_function": "relu"},
        GPT | {"attention_softmax_in_fp32": False, "scale_attention_softmax_in_fp32": False, "n_head": 2},
    ],
    "gpt_neo": [
        GPT_NEO | {"num_layers": 4, "attention_types": [[["global", "local"], 2]], "window_size": 5},
        GPT_NEO
        | UNTIED
        | {"num_layers": 3, "attention_types": [[["local"], 2], [["global"], 1]], "window_size": 3}
        | {"intermediate_size": 40, "activation_function": "relu"},
        GPT_NEO | {"num_layers": 2, "attention_types": [[["global"], 2]]},
    ],
    "codegen": [
        GPT | {"rotary_dim": 4},
        GPT | TIED | {"rotary_dim": 2, "n_head": 8, "n_inner": 40, "activation_function": "relu", "n_ctx": 64},
    ],
    "mpt": [
        MPT | {"learned_pos_emb": False, "init_device": "meta"},
        MPT | UNTIED | {"n_heads": 6, "d_model": 36, "attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.7}},
    ],
    "ctrl": [CTRL, CTRL | UNTIED | {"n_head": 2}],
    "biogpt": [
        PLAIN,
        PLAIN | UNTIED | {"scale_embedding": False, "hidden_act": "relu", "pad_token_id": None, "layer_norm_eps": 0.1},
    ],
}
