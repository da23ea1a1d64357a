"""The names that other code bases use for gptlab's settings and options, so that an error can name the right one."""

import re
from collections.abc import Iterable

# A name -> the setting here. A value with "=" is the whole override; one with a space is an explanation.
SETTINGS = {
    # sizes
    **dict.fromkeys(("n_embd", "d_model", "hidden_size", "hidden_dim", "embed_dim", "emb_dim", "n_embed"), "size.dim"),
    **dict.fromkeys(("n_layers", "num_layers", "num_hidden_layers", "depth", "n_blocks"), "size.n_layer"),
    **dict.fromkeys(("n_heads", "num_heads", "num_attention_heads", "heads"), "size.n_head"),
    **dict.fromkeys(("block_size", "context", "context_length", "context_size", "ctx_len", "n_ctx"), "data.window"),
    **dict.fromkeys(("seq_len", "seq_length", "sequence_length", "max_seq_len", "max_length"), "data.window"),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_sequence_length"), "data.window"),
    **dict.fromkeys(("vocab_size", "padded_vocab_size", "n_vocab"), "model.vocab_size"),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "dim_ff", "n_inner", "mlp_hidden_size"), "ffn.hidden"),
    **dict.fromkeys(("mlp_ratio", "ffn_mult", "ff_mult", "expansion_factor"), "ffn.expansion"),
    **dict.fromkeys(("num_key_value_heads", "n_kv_heads", "num_kv_heads", "n_query_groups"), "attention.n_kv_head"),
    "head_size": "attention.head_dim",
    # parts
    **dict.fromkeys(("activation", "activation_function", "act_fn", "hidden_act", "mlp", "ffn_type"), "ffn"),
    **dict.fromkeys(("normalization", "norm_type", "layernorm", "norm_class"), "norm"),
    **dict.fromkeys(("pos_emb", "pos_encoding", "position_embedding_type", "positional_encoding"), "position"),
    **dict.fromkeys(("rotary", "rope", "use_rope", "rotary_emb", "use_rotary"), "position=rope"),
    **dict.fromkeys(("rope_theta", "rope_base", "rotary_emb_base"), "position.theta"),
    **dict.fromkeys(("tie_weights", "tie_word_embeddings", "weight_tying", "tied_embeddings"), "head.tied"),
    **dict.fromkeys(("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_eps"), "norm.eps"),
    **dict.fromkeys(("sliding_window", "window_size", "attention_window"), "attention.window"),
    **dict.fromkeys(("logit_softcap", "final_logit_softcapping"), "head.softcap"),
    "attn_logit_softcapping": "attention.softcap",
    **dict.fromkeys(("initializer_range", "init_std"), "init.std"),
    **dict.fromkeys(("use_bias", "linear_bias"), "bias"),
    # training
    **dict.fromkeys(("learning_rate", "lr", "max_lr", "peak_lr"), "optimizer.lr"),
    **dict.fromkeys(("weight_decay", "wd"), "optimizer.weight_decay"),
    **dict.fromkeys(("beta1", "adam_beta1"), "optimizer.beta1"),
    **dict.fromkeys(("beta2", "adam_beta2"), "optimizer.beta2"),
    **dict.fromkeys(("optim", "optimizer_type", "optimizer_name"), "optimizer"),
    **dict.fromkeys(("scheduler", "lr_scheduler", "lr_schedule", "lr_scheduler_type", "lr_decay_style"), "schedule"),
    **dict.fromkeys(("warmup_iters", "warmup_steps", "warmup", "warmup_ratio", "lr_warmup_steps"), "schedule.warmup"),
    **dict.fromkeys(("min_lr", "lr_min", "final_lr"), "schedule.min_lr"),
    **dict.fromkeys(("batch_size", "global_batch_size", "train_batch_size", "bs"), "train.batch_size"),
    **dict.fromkeys(("micro_batch_size", "device_batch_size", "per_device_train_batch_size"), "train.micro_batch_size"),
    **dict.fromkeys(
        ("gradient_accumulation_steps", "grad_accum", "accumulate_grad_batches"),
        "train.micro_batch_size, the batch divided by the number of accumulation steps",
    ),
    **dict.fromkeys(("max_iters", "max_steps", "num_steps", "steps", "n_steps", "train_steps"), "budget.steps"),
    **dict.fromkeys(("num_iterations", "iterations", "total_steps", "train_iters"), "budget.steps"),
    **dict.fromkeys(("max_tokens", "train_tokens", "num_tokens", "total_tokens"), "budget.tokens"),
    **dict.fromkeys(
        ("epochs", "num_epochs", "max_epochs", "num_train_epochs", "n_epochs"),
        "budget.steps or budget.tokens, with data.sampling=epoch if every window is to be read once",
    ),
    **dict.fromkeys(("dropout", "dropout_rate", "resid_pdrop", "attention_dropout", "p_dropout"), "train.dropout"),
    **dict.fromkeys(("grad_clip", "max_grad_norm", "clip_grad", "gradient_clip_val", "max_norm"), "train.grad_clip"),
    **dict.fromkeys(("eval_interval", "eval_every", "eval_steps", "val_interval", "val_every"), "eval.every"),
    **dict.fromkeys(("eval_iters", "eval_tokens", "val_tokens"), "eval.tokens, a number of tokens"),
    **dict.fromkeys(("log_interval", "log_every", "logging_steps"), "train.log_every"),
    **dict.fromkeys(("save_interval", "save_steps", "save_every", "checkpoint_interval"), "train.checkpoint_every"),
    **dict.fromkeys(("init_from", "pretrained", "load_from", "checkpoint"), "train.init_from"),
    **dict.fromkeys(("dtype", "torch_dtype", "mixed_precision"), "precision"),
    **dict.fromkeys(("random_seed", "manual_seed"), "seed"),
    **dict.fromkeys(("out_dir", "output_dir", "save_dir", "log_dir"), "runs_dir"),
    **dict.fromkeys(("run_name", "experiment", "experiment_name", "exp_name"), "name"),
    **dict.fromkeys(("wandb_project", "project"), "wandb.project"),
    # data
    **dict.fromkeys(("shuffle", "shuffle_data"), "data.sampling; windows come in random order whatever its value"),
    **dict.fromkeys(("dataset", "dataset_name", "corpus"), "data"),
    **dict.fromkeys(("data_path", "data_dir", "train_file", "text_file", "input_file"), "data.path"),
}

# slot -> a name, as `_normalised` writes it -> the option here. Other spellings of an option need no line.
OPTIONS = {
    "norm": {"ln": "layernorm", "rms": "rmsnorm", "bn": "batchnorm", "dynamictanh": "dyt", "identity": "none"},
    "position": {
        **dict.fromkeys(("rotary", "rotaryembedding", "rotaryembeddings", "rotarypositionembedding"), "rope"),
        **dict.fromkeys(("absolute", "learnedabsolute", "wpe", "embedding", "learnable"), "learned"),
        **dict.fromkeys(("sincos", "sin", "sine", "fixed", "sinusoid"), "sinusoidal"),
        "nope": "none",
    },
    "ffn": {
        **dict.fromkeys(("mlp", "gelumlp", "dense", "gptneoxmlp"), "gelu"),
        **dict.fromkeys(("llamamlp", "swiglumlp", "siluglu"), "swiglu"),
        **dict.fromkeys(("gelunew", "gelupytorchtanh", "geluapproximate"), "gelu_tanh"),
        **dict.fromkeys(("relusquared", "squaredrelu", "sqrelu"), "relu2"),
        "swish": "silu",
    },
    "attention": dict.fromkeys(("mha", "full", "causal", "selfattention", "sdpa", "flash", "multihead"), "softmax"),
    "placement": {
        **dict.fromkeys(("prenorm", "preln"), "pre"),
        **dict.fromkeys(("postnorm", "postln"), "post"),
        **dict.fromkeys(("sandwich", "sandwichnorm", "peri", "periln"), "double"),
    },
    "block": {"sequential": "serial", "gptj": "parallel"},
    "optimizer": {},
    "schedule": {
        **dict.fromkeys(("cosineannealing", "cosinewithwarmup", "cosinedecay"), "cosine"),
        **dict.fromkeys(("warmupstabledecay", "trapezoidal"), "wsd"),
        **dict.fromkeys(("lineardecay", "linearwithwarmup"), "linear"),
        **dict.fromkeys(("constantwithwarmup", "none"), "constant"),
    },
    "tokenizer": {
        "character": "char",
        "characters": "char",
        "bytelevel": "byte",
        "utf8": "byte",
    },
    "data": {**dict.fromkeys(("shakespeare", "shakespearechar"), "tinyshakespeare"), "hf": "huggingface"},
    "size": {
        "gpt2small": "gpt2-124m",
        "gpt2medium": "gpt2-355m",
        "gpt2large": "gpt2-774m",
        "gpt2xl": "gpt2-1558m",
    },
    "precision": {
        **dict.fromkeys(("bfloat16", "amp", "bf16mixed", "torch.bfloat16"), "bf16"),
        **dict.fromkeys(("fp32", "float", "32", "torch.float32"), "float32"),
        "bf16true": "bf16_weights",
    },
}


def _normalised(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def setting_for(name: str, value: str) -> str | None:
    """Return gptlab's override for `name=value` of another code base, or an explanation, or None."""
    ours = SETTINGS.get(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace("-", "_").lower())
    if ours is None or "=" in ours or " " in ours:
        return ours
    if ours in OPTIONS:
        value = OPTIONS[ours].get(_normalised(value), _normalised(value))
    return f"{ours}={value}"


def options_for(slot: str, name: str, options: Iterable[str]) -> list[str]:
    """Return the options that `name` may mean in other code bases: one, or all that begin with it."""
    options, wanted = list(options), _normalised(name)
    if known := OPTIONS.get(slot, {}).get(wanted):
        return [known]
    if spelled := [option for option in options if _normalised(option) == wanted]:
        return spelled
    family = [option for option in options if wanted and _normalised(option.partition("-")[0]) == wanted]
    return sorted(family, key=lambda option: (len(option), option))  # gpt2-355m before gpt2-1558m
