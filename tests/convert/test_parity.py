"""Every family of transformers computes the same in gptlab, and what gptlab cannot compute is refused by name.

`make parity` prints the same comparisons as a table.
"""

import dataclasses
import math

import pytest
import torch

from gptlab import build_model, load_config
from gptlab.config import ConfigError
from tiny import TINY, configure

pytest.importorskip("transformers")
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.activations import ACT2FN

import parity
import parity_configs as tiny_configs
from gptlab.config import registry
from gptlab.convert import from_hf, to_hf
from gptlab.convert.config_fields import GATED, PLAIN, flags_of
from gptlab.convert.families import FAMILIES
from gptlab.convert.models import read_config
from gptlab.model.generate import generate
from parity import CONFIGS, GRADIENTS, LOGITS, SILENT, WINDOW, furthest, greedy, measure, random_tokens, redrawn
from parity_configs import FALCON, FALCON_2, GEMMA, GPT, LLAMA, NEOX, OPT, PHI, TIED, UNTIED, XGLM, layers, rope

# Families without a preset reuse what the sixteen others prove, so one config of each is enough for the fast tests.
CASES = [
    pytest.param(family, i, marks=[pytest.mark.slow] if i and family not in tiny_configs.CONFIGS else [])
    for family, i in parity.CASES
]


@pytest.mark.parametrize(("family", "i"), CASES)
def test_a_family_computes_the_same(family, i):
    p = measure(family, CONFIGS[family][i])
    assert p.logits < LOGITS * p.spread
    assert p.gradients < GRADIENTS and p.silent < SILENT
    assert p.round_trip == []
    assert p.written < LOGITS * p.spread
    assert p.generations == [p.generations[0]] * 7


@pytest.mark.parametrize("place", ["logits", "gradients", "silent", "written"])
def test_nan_is_a_disagreement(place):
    agreeing = parity.Parity("", 0.0, 1.0, 0.0, 0.0, [], 0.0, [[1], [1]])
    assert agreeing.good and not dataclasses.replace(agreeing, **{place: math.nan}).good
    for values in ([math.nan, 1.0], [1.0, math.nan, 2.0]):
        assert math.isnan(parity.worst(values))


@pytest.mark.parametrize("at", [0, -1])
def test_a_nan_among_gradients_is_a_disagreement(at):
    theirs, ours = (redrawn("gpt2", GPT) for _ in range(2))
    for p, own in zip(theirs.parameters(), ours.parameters(), strict=True):
        p.grad = own.detach().clone()
    assert parity.compare_gradients(theirs, ours) == (0.0, 0.0)
    with torch.no_grad():
        [*ours.parameters()][at].flatten()[0] = math.nan
    assert not parity.compare_gradients(theirs, ours)[0] < GRADIENTS


@pytest.mark.parametrize("family", tiny_configs.CONFIGS)
def test_tiny_configs_vary_every_flag(family):
    """They vary every flag that the family's table reads, and have both values of each boolean."""
    usual, *configs = (AutoConfig.for_model(family, **flags).to_dict() for flags in [{}, *tiny_configs.CONFIGS[family]])
    for flag in flags_of(FAMILIES[family].fields) - {"add_cross_attention", "vocab_size"}:  # the first is refused
        values = [c.get(flag) for c in configs]
        assert any(v != usual.get(flag) for v in values), flag
        assert not isinstance(usual.get(flag), bool) or {True, False} <= set(values), flag


@pytest.mark.parametrize(("name", "ffn"), [*PLAIN.items(), *GATED.items()])
def test_an_activation_equals_that_of_transformers(name, ffn):
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    ours = registry.entry("ffn", ffn).cls.activation
    assert furthest(ours(x), ACT2FN[name](x)) < 1e-7  # gelu_fast has a rounded constant


FEW = [("llama", LLAMA), ("gemma2", CONFIGS["gemma2"][0]), ("falcon", CONFIGS["falcon"][8]), ("gpt2", GPT)]


@pytest.mark.parametrize(("family", "flags"), FEW)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-6), (torch.bfloat16, 0.05)])
def test_a_model_keeps_its_dtype(family, flags, dtype, limit):
    theirs = redrawn(family, flags).to(dtype)
    with torch.no_grad():
        for p in theirs.parameters():
            p.mul_(1 + 1 / 3)  # digits beyond those of float32
    ours = from_hf(theirs)
    tokens = random_tokens(theirs, 2, WINDOW)
    a, b = theirs(tokens).logits, ours(tokens)
    assert a.dtype == b.dtype == dtype
    assert (a - b).std() < limit * a.std()
    assert parity.different(theirs, to_hf(ours)) == []


def test_a_model_of_two_dtypes_is_refused():
    theirs = redrawn("llama", LLAMA)
    theirs.model.norm.to(torch.bfloat16)
    with pytest.raises(ConfigError, match="dtype=torch.bfloat16: other weights are torch.float32"):
        from_hf(theirs)


def test_a_model_keeps_its_mode_and_shares_no_weights_with_the_original():
    theirs = redrawn("gpt2", GPT).train()
    ours = from_hf(theirs)
    assert ours.training and to_hf(ours).training
    tokens = random_tokens(theirs, 2, WINDOW)
    assert furthest(ours(tokens), theirs.eval()(tokens).logits) < 1e-5  # the converted model has no dropout
    with torch.no_grad():
        ours.embedding.weight.zero_()
    assert theirs.get_input_embeddings().weight.abs().max() > 0


def test_another_class_can_be_requested():
    """A model that came from Llama can become an OLMo only if it is one."""
    ours = from_hf(redrawn("llama", LLAMA))
    with pytest.raises(ConfigError, match="norm=rmsnorm"):
        to_hf(ours, model_type="olmo")
    with pytest.raises(ConfigError, match="model_type=t5: not among gpt2, "):
        to_hf(ours, model_type="t5")


REFUSED = [
    ("llama", LLAMA | rope(100.0, "longrope", factor=4.0, long_factor=[1.0] * 4, short_factor=[2.0] * 4), "rope_type"),
    ("llama", LLAMA | rope(100.0, partial_rotary_factor=0.5), "partial_rotary_factor=0.5"),
    ("llama", LLAMA | {"hidden_act": "mish"}, "hidden_act=mish"),
    ("llama", LLAMA | {"pad_token_id": -1}, "pad_token_id=-1"),
    ("llama", LLAMA | {"is_causal": False}, "is_causal=False"),
    ("llama", LLAMA | {"attention_chunk_size": 3}, "attention_chunk_size=3"),
    ("llama", LLAMA | {"sliding_window": 3}, "sliding_window=3"),  # the class reads it only with a cache
    ("llama", LLAMA | {"chunk_size_feed_forward": 3}, "chunk_size_feed_forward=3"),
    ("gpt2", GPT | {"activation_function": "quick_gelu"}, "activation_function=quick_gelu"),
    ("gpt2", GPT | {"add_cross_attention": True}, "add_cross_attention=True"),
    ("gptj", GPT | {"rotary_dim": 64}, "rotary_dim=64"),
    ("gpt_neox", NEOX | {"is_decoder": True}, "is_decoder=True"),
    ("opt", OPT | {"_remove_final_layer_norm": True}, "_remove_final_layer_norm=True"),
    ("xglm", XGLM | {"pad_token_id": 5}, "pad_token_id=5"),
    ("xglm", XGLM | {"add_cross_attention": True}, "add_cross_attention=True"),
    ("falcon", FALCON_2 | {"parallel_attn": False}, "parallel_attn=False"),
    ("falcon", FALCON | {"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn=2"),
    ("gemma2", GEMMA | {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
    ("gemma2", GEMMA | layers(*3 * ["chunked"]), "layer_types=chunked_attention"),
    ("gemma2", GEMMA | {"sliding_window": None}, "sliding_window=None"),
    ("phi", PHI | rope(9.0, partial_rotary_factor=0.1), "position.fraction=0"),
    ("mixtral", LLAMA | {"num_local_experts": 2}, "model_type=mixtral"),
    ("mamba", {"hidden_size": 32, "num_hidden_layers": 2}, "model_type=mamba"),
]


@pytest.mark.parametrize(("family", "flags", "named"), REFUSED)
def test_a_flag_without_a_component_is_refused_by_name(family, flags, named):
    theirs = redrawn(family, flags)
    with pytest.raises(ConfigError) as e:
        from_hf(theirs)
    assert named in str(e.value).split(": ")[0] and "\n" not in str(e.value)


@pytest.mark.parametrize("kind", ["GPT2Model", "GPT2ForSequenceClassification", "T5ForConditionalGeneration"])
def test_a_class_that_is_not_a_language_model_is_refused(kind):
    import transformers

    cls = getattr(transformers, kind)
    config = cls.config_class(vocab_size=37, num_hidden_layers=1)
    with torch.device("meta"):
        theirs = cls(config)
    with pytest.raises(ConfigError, match="model_type=t5" if kind.startswith("T5") else kind):
        from_hf(theirs)


@pytest.mark.parametrize("flags", [GPT | TIED, GPT | UNTIED])
def test_a_head_that_contradicts_its_config_is_refused(flags):
    theirs = redrawn("gpt2", flags)
    theirs.config.tie_word_embeddings = not theirs.config.tie_word_embeddings
    with pytest.raises(ConfigError, match="tie_word_embeddings"):
        from_hf(theirs)


def test_an_unknown_flag_that_the_class_reads_is_refused():
    theirs = redrawn("llama", LLAMA)
    theirs.config.temperature_of_scores = 2.0
    read_config(theirs.config, source="self.temperature_of_scores = config.temperature_of_scores_too")
    for line in ("config.temperature_of_scores", "getattr(config, 'temperature_of_scores', 1.0)"):
        with pytest.raises(ConfigError, match="temperature_of_scores=2.0"):
            read_config(theirs.config, source=f"self.temperature = {line}")


def test_an_unknown_flag_is_refused_unless_it_has_its_default():
    from transformers import LlamaConfig

    class Other(LlamaConfig):
        residual_scale: float = 1.0

    read_config(Other(**LLAMA))
    with pytest.raises(ConfigError, match="residual_scale=0.5"):
        read_config(Other(**LLAMA, residual_scale=0.5))


def test_an_unknown_weight_is_refused():
    theirs = redrawn("llama", LLAMA)
    theirs.model.layers[0].mlp.gate_proj.bias = torch.nn.Parameter(torch.ones(48))
    with pytest.raises(ConfigError, match="model.layers.0.mlp.gate_proj.bias of transformers"):
        from_hf(theirs)


@pytest.mark.parametrize(
    ("choices", "named"),
    [
        ("norm=dyt", "norm=dyt"),
        ("placement=none", "placement=none"),
        ("norm=rmsnorm position=alibi", "norm=rmsnorm"),
        ("position=none", "position=none"),
        ("position=sinusoidal", "position.inclusive=false"),
        ("ffn=bilinear", "ffn=bilinear"),
        ("attention.softcap=2", "attention.softcap=2"),
        ("head.bias=true", "head.bias=true"),
        ("placement=post position=rope", "placement=post"),
    ],
)
def test_a_composition_without_a_class_is_refused_by_component(choices, named):
    model = build_model(configure(load_config(TINY), choices))
    with pytest.raises(ConfigError) as e:
        to_hf(model)
    assert named in str(e.value).lower() and "no class of transformers has this" in str(e.value)


PRESETS = {family.replace("-", "_"): family for family in tiny_configs.CONFIGS}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_becomes_its_class(preset):
    overrides = f"preset={preset} size=tiny model.vocab_size=37 data.window={WINDOW}"
    model = build_model(load_config(overrides.split())).eval()
    first, requested = to_hf(model), to_hf(model, model_type=PRESETS[preset])
    tokens = random_tokens(first, 2, WINDOW)
    assert requested.config.model_type == PRESETS[preset]
    for theirs in (first, requested):
        assert furthest(model(tokens), theirs(tokens).logits) < 1e-5
    assert parity.different(first, to_hf(from_hf(first))) == []


@pytest.mark.slow
def test_gpt2_of_the_published_size_computes_the_same():
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2")).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            if p.ndim == 1:  # gains and biases, which start at 1 and 0
                p.add_(0.1 * torch.randn_like(p))
    ours = from_hf(theirs)
    tokens = torch.randint(50257, (1, 1024))
    with torch.no_grad():
        a, b = theirs(tokens).logits, ours(tokens)
    assert furthest(a, b) < LOGITS * a.std()
    tokens = tokens[:, :64]
    for logits in (theirs(tokens).logits, ours(tokens)):
        logits.square().mean().backward()
    relative, silent = parity.compare_gradients(theirs, to_hf(parity.gradients_as_weights(ours)))
    assert relative < 1e-3 and silent < SILENT
    prompt = tokens[:, : parity.PROMPT]
    expected = greedy(theirs, prompt, cached=True)[0].tolist()
    for cached in (True, False):
        assert generate(ours, prompt[0].tolist(), WINDOW - parity.PROMPT, temperature=0, cached=cached) == expected
