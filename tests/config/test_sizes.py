"""Published sizes have the parameters that transformers' classes and their authors count."""

import pytest
import torch

from gptlab.config.compose import edit
from gptlab.model.cost import meta_model
from published import PUBLISHED, sized


def theirs(kind, n_layer, n_head, dim, **more):
    """A checkpoint's config as its authors published it, for transformers' class."""
    return kind, {"num_hidden_layers": n_layer, "num_attention_heads": n_head, "hidden_size": dim, **more}


def llama(n_layer, n_head, dim, hidden, n_kv_head=None, vocab_size=32000, **more):
    more |= {"intermediate_size": hidden, "num_key_value_heads": n_kv_head, "vocab_size": vocab_size}
    return theirs("llama", n_layer, n_head, dim, **more)


def neox(n_layer, n_head, dim, vocab_size=50304):
    return theirs("gpt_neox", n_layer, n_head, dim, intermediate_size=4 * dim, vocab_size=vocab_size)


def olmo2(n_layer, n_head, dim, hidden, n_kv_head=None):
    more = {"intermediate_size": hidden, "num_key_value_heads": n_kv_head, "vocab_size": 100352}
    return theirs("olmo2", n_layer, n_head, dim, **more)


def gemma2(n_layer, n_head, dim, hidden, n_kv_head, head_dim):
    more = {"intermediate_size": hidden, "num_key_value_heads": n_kv_head, "head_dim": head_dim}
    return theirs("gemma2", n_layer, n_head, dim, **more)


def qwen3(n_layer, n_head, dim, hidden, tied=True):
    more = {"intermediate_size": hidden, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": tied}
    return theirs("qwen3", n_layer, n_head, dim, **more)


def cohere(n_layer, n_head, dim, hidden, n_kv_head, use_qk_norm=False):
    more = {"intermediate_size": hidden, "num_key_value_heads": n_kv_head, "use_qk_norm": use_qk_norm}
    return theirs("cohere", n_layer, n_head, dim, **more)


def opt(n_layer, n_head, dim, **more):
    return theirs("opt", n_layer, n_head, dim, ffn_dim=4 * dim, **{"word_embed_proj_dim": dim, **more})


def xglm(n_layer, n_head, dim, hidden):
    return "xglm", {"num_layers": n_layer, "attention_heads": n_head, "d_model": dim, "ffn_dim": hidden}


def starcoder2(n_layer, n_head, dim, n_kv_head, tied=True):
    more = {"intermediate_size": 4 * dim, "num_key_value_heads": n_kv_head, "tie_word_embeddings": tied}
    return theirs("starcoder2", n_layer, n_head, dim, **more)


def bloom(n_layer, n_head, dim):
    return "bloom", {"n_layer": n_layer, "n_head": n_head, "hidden_size": dim, "vocab_size": 250880}


def nanochat(n_layer, n_head, dim):
    return theirs("nanochat", n_layer, n_head, dim, intermediate_size=4 * dim, vocab_size=65536)


THEIRS = {
    "gpt2-124m": theirs("gpt2", 12, 12, 768),
    "gpt2-355m": theirs("gpt2", 24, 16, 1024),
    "gpt2-774m": theirs("gpt2", 36, 20, 1280),
    "gpt2-1558m": theirs("gpt2", 48, 25, 1600),
    "llama-7b": llama(32, 32, 4096, 11008),
    "llama-13b": llama(40, 40, 5120, 13824),
    "llama-33b": llama(60, 52, 6656, 17920),
    "llama-65b": llama(80, 64, 8192, 22016),
    "llama2-7b": llama(32, 32, 4096, 11008),
    "llama2-13b": llama(40, 40, 5120, 13824),
    "llama2-70b": llama(80, 64, 8192, 28672, 8),
    "llama3-8b": llama(32, 32, 4096, 14336, 8, 128256),
    "llama3-70b": llama(80, 64, 8192, 28672, 8, 128256),
    "llama3.1-8b": llama(32, 32, 4096, 14336, 8, 128256),
    "llama3.1-70b": llama(80, 64, 8192, 28672, 8, 128256),
    "llama3.1-405b": llama(126, 128, 16384, 53248, 8, 128256),
    "llama3.2-1b": llama(16, 32, 2048, 8192, 8, 128256, head_dim=64, tie_word_embeddings=True),
    "llama3.2-3b": llama(28, 24, 3072, 8192, 8, 128256, head_dim=128, tie_word_embeddings=True),
    "pythia-70m": neox(6, 8, 512),
    "pythia-160m": neox(12, 12, 768),
    "pythia-410m": neox(24, 16, 1024),
    "pythia-1b": neox(16, 8, 2048),
    "pythia-1.4b": neox(24, 16, 2048),
    "pythia-2.8b": neox(32, 32, 2560),
    "pythia-6.9b": neox(32, 32, 4096, 50432),
    "pythia-12b": neox(36, 40, 5120, 50688),
    "gpt-neox-20b": neox(44, 64, 6144, 50432),
    "gptj-6b": theirs("gptj", 28, 16, 4096),
    "olmo-1b": theirs("olmo", 16, 16, 2048, intermediate_size=8192, tie_word_embeddings=True),
    "olmo-7b": theirs("olmo", 32, 32, 4096, intermediate_size=11008),
    "olmo2-1b": olmo2(16, 16, 2048, 8192),
    "olmo2-7b": olmo2(32, 32, 4096, 11008),
    "olmo2-13b": olmo2(40, 40, 5120, 13824),
    "olmo2-32b": olmo2(64, 40, 5120, 27648, 8),
    "gemma2-2b": gemma2(26, 8, 2304, 9216, 4, 256),
    "gemma2-9b": gemma2(42, 16, 3584, 14336, 8, 256),
    "gemma2-27b": gemma2(46, 32, 4608, 36864, 16, 128),
    "qwen3-0.6b": qwen3(28, 16, 1024, 3072),
    "qwen3-1.7b": qwen3(28, 16, 2048, 6144),
    "qwen3-4b": qwen3(36, 32, 2560, 9728),
    "qwen3-8b": qwen3(36, 32, 4096, 12288, tied=False),
    "qwen3-14b": qwen3(40, 40, 5120, 17408, tied=False),
    "qwen3-32b": qwen3(64, 64, 5120, 25600, tied=False),
    "aya-23-8b": cohere(32, 32, 4096, 14336, 8),
    "command-r-35b": cohere(40, 64, 8192, 22528, 64),
    "command-r-plus-104b": cohere(64, 96, 12288, 33792, 8, use_qk_norm=True),
    "falcon-7b": theirs("falcon", 32, 71, 4544),
    "falcon-40b": theirs("falcon", 60, 128, 8192, new_decoder_architecture=True, num_kv_heads=8),
    "falcon-180b": theirs("falcon", 80, 232, 14848, new_decoder_architecture=True, num_kv_heads=8),
    "falcon-rw-1b": theirs(
        "falcon", 24, 32, 2048, vocab_size=50304, alibi=True, bias=True, multi_query=False, parallel_attn=False
    ),
    "opt-125m": opt(12, 12, 768),
    "opt-350m": opt(24, 16, 1024, word_embed_proj_dim=512, do_layer_norm_before=False),
    "opt-1.3b": opt(24, 32, 2048),
    "opt-2.7b": opt(32, 32, 2560),
    "opt-6.7b": opt(32, 32, 4096),
    "opt-13b": opt(40, 40, 5120),
    "opt-30b": opt(48, 56, 7168),
    "opt-66b": opt(64, 72, 9216),
    "openai-gpt-117m": theirs("openai-gpt", 12, 12, 768),
    "xglm-564m": xglm(24, 16, 1024, 4096),
    "xglm-1.7b": xglm(24, 16, 2048, 8192),
    "xglm-2.9b": xglm(48, 16, 2048, 8192),
    "xglm-4.5b": xglm(48, 16, 2048, 16384),
    "xglm-7.5b": xglm(32, 32, 4096, 16384),
    "phi-1": theirs("phi", 24, 32, 2048, intermediate_size=8192),
    "phi-1.5": theirs("phi", 24, 32, 2048, intermediate_size=8192),
    "phi-2": theirs("phi", 32, 32, 2560, intermediate_size=10240),
    "starcoder2-3b": starcoder2(30, 24, 3072, 2),
    "starcoder2-7b": starcoder2(32, 36, 4608, 4),
    "starcoder2-15b": starcoder2(40, 48, 6144, 4, tied=False),
    "bloom-560m": bloom(24, 16, 1024),
    "bloom-1b1": bloom(24, 16, 1536),
    "bloom-1b7": bloom(24, 16, 2048),
    "bloom-3b": bloom(30, 32, 2560),
    "bloom-7b1": bloom(30, 32, 4096),
    "bloom-176b": bloom(70, 112, 14336),
    "nanochat-d20": nanochat(20, 10, 1280),
    "nanochat-d32": nanochat(32, 16, 2048),
}

# What the authors, or the files of the checkpoints, say of the sizes; rounded ones have no class in transformers.
KNOWN = {
    "gpt2-124m": 124_439_808,
    "gpt2-1558m": 1_557_611_200,
    "llama-7b": 6_738_415_616,
    "llama3-8b": 8_030_261_248,
    "llama3.1-405b": 405_853_388_800,
    "pythia-70m": 70_426_624,
    "gpt-neox-20b": 20_554_567_680,
    "gptj-6b": 6_050_882_784,
    "olmo2-7b": 7_298_617_344,
    "gemma2-2b": 2_614_341_888,
    "qwen3-8b": 8_190_735_360,
    "starcoder2-15b": 15_957_889_024,
    "bloom-560m": 559_214_592,
    "openai-gpt-117m": 116_534_784,
    "gpt3-125m": 125e6,
    "gpt3-350m": 356e6,
    "gpt3-760m": 760e6,
    "gpt3-1.3b": 1.315e9,
    "gpt3-2.7b": 2.65e9,
    "gpt3-6.7b": 6.66e9,
    "gpt3-13b": 12.85e9,
    "gpt3-175b": 174_604_259_328,
    "palm-8b": 8.63e9,
    "palm-62b": 62.50e9,
    "palm-540b": 540.35e9,
    "chinchilla-70b": 70.06e9 - 80 * 8192**2,  # without the matrices of relative positions
    "grok1": 64 * (2 * 6144 * (6144 + 1024) + 3 * 6144 * 32768 + 4 * 6144) + 131072 * 6144 + 6144,  # by hand
    "modded-nanogpt-124m": 124e6 + 50304 * 768 - 1024 * 768,  # the head is untied, and there is no position table
    "vaswani-base": 6 * (12 * 512**2 + 9 * 512) + 37000 * 512,
    "vaswani-big": 6 * (12 * 1024**2 + 9 * 1024) + 37000 * 1024,
}


def parameters(build, n_layer):
    """Count a model of `n_layer` equal layers from two small ones, which saves minutes; build(n) has n layers."""
    one, two = (sum(p.numel() for p in build(n).parameters()) for n in (1, 2))
    return one + (n_layer - 1) * (two - one)


def our_parameters(size):
    cfg = sized(size)
    return parameters(lambda n: meta_model(edit(cfg, size__n_layer=n)), cfg.size.n_layer)


@pytest.mark.parametrize("size", THEIRS)
def test_a_published_size_has_the_parameters_of_transformers_class(size):
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, published = THEIRS[size]
    places = ("num_hidden_layers", "num_layers", "n_layer")
    [(place, n_layer)] = [(place, published[place]) for place in places if place in published]

    def build(n):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **published | {place: n}))
        model.tie_weights()
        return model

    assert our_parameters(size) == parameters(build, n_layer)


@pytest.mark.parametrize("size", KNOWN)
def test_a_published_size_has_the_parameters_its_authors_say(size):
    expected = KNOWN[size] if isinstance(KNOWN[size], int) else pytest.approx(KNOWN[size], rel=4e-3)
    assert our_parameters(size) == expected


@pytest.mark.parametrize("size", ["gpt2-124m", "opt-350m", "gemma2-2b", "llama3-8b"])
def test_layers_are_alike(size):
    assert sum(p.numel() for p in meta_model(sized(size)).parameters()) == our_parameters(size)


def test_every_published_size_is_counted_by_others():
    assert PUBLISHED.keys() == THEIRS.keys() | KNOWN.keys()
