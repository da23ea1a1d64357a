"""Names that other code bases use are answered with gptlab's own, which must work."""

import re

import pytest

from gptlab import build_model, load_config, train
from gptlab.config import SLOTS, ConfigError, flatten, plain, registry
from gptlab.config.foreign_names import OPTIONS, SETTINGS

# what is typed -> what the error says instead
ANSWERS = {
    "learning_rate=3e-4": "optimizer.lr=3e-4",
    "optimizer.learning_rate=3e-4": "optimizer.lr=3e-4",
    "block_size=256": "data.window=256",
    "context_length=256": "data.window=256",
    "n_embd=384": "size.dim=384",
    "model.hidden_size=384": "size.dim=384",
    "numHiddenLayers=6": "size.n_layer=6",
    "num_heads=6": "size.n_head=6",
    "vocab_size=50304": "model.vocab_size=50304",
    "batch_size=32": "train.batch_size=32",
    "max_iters=500": "budget.steps=500",
    "train.max_steps=500": "budget.steps=500",
    "weight_decay=0.1": "optimizer.weight_decay=0.1",
    "warmup_iters=100": "schedule.warmup=100",
    "model.dropout=0.1": "train.dropout=0.1",
    "grad-clip=1.0": "train.grad_clip=1.0",
    "eval_interval=100": "eval.every=100",
    "activation=SwiGLU": "ffn=swiglu",
    "mlp=gelu": "ffn=gelu",
    "rotary=true": "position=rope",
    "tie_weights=false": "head.tied=false",
    "dtype=bfloat16": "precision=bf16",
    "optim=AdamW": "optimizer=adamw",
    "ffn=SwiGLU": "ffn=swiglu",
    "norm=LayerNorm": "norm=layernorm",
    "norm=rms_norm": "norm=rmsnorm",
    "position=rotary": "position=rope",
    "position=RoPE": "position=rope",
    "optimizer=AdamW": "optimizer=adamw",
    "placement=pre-norm": "placement=pre",
    "size=gpt2-xl": "size=gpt2-1558m",
    "preset=GPT2": "preset=gpt2",
}


def answer(override):
    with pytest.raises(ConfigError) as e:
        load_config([override])
    line = str(e.value)
    assert line.startswith(f"{override}: ") and "\n" not in line
    return re.search(r" \(in gptlab: (.*?)\)", line)[1]


@pytest.mark.parametrize("override", ANSWERS)
def test_a_foreign_name_is_answered_with_the_right_one(override):
    ours = answer(override)
    assert ours == ANSWERS[override]
    load_config([ours])


def test_a_family_of_sizes_is_answered_with_its_members():
    assert answer("size=gpt2") == "size=gpt2-124m, size=gpt2-355m, size=gpt2-774m, size=gpt2-1558m"


def test_what_has_no_counterpart_is_explained():
    assert answer("epochs=3").startswith("budget.steps or budget.tokens, with data.sampling=epoch")


@pytest.mark.parametrize("name", SETTINGS)
def test_every_name_of_the_table_leads_to_a_setting(name):
    slots = {f"{slot}.{f.name}" for slot, kind in SLOTS.items() for e in registry.entries(kind) for f in e.settings}
    assert re.match(r"[\w.]+", answer(f"{name}=1"))[0] in slots | set(flatten(load_config()))


@pytest.mark.parametrize("slot", [slot for slot in OPTIONS if slot not in ("optimizer", "precision")])
def test_every_option_of_the_table_exists(slot):
    for foreign, ours in OPTIONS[slot].items():
        assert answer(f"{slot}={foreign}") == f"{slot}={ours}"
        load_config([f"{slot}={ours}", "preset=gpt2"] if slot == "size" else [f"{slot}={ours}"])


def test_a_dict_and_an_omegaconf_object_are_configs_too():
    from omegaconf import OmegaConf

    tree = plain(load_config(["size=tiny", "size.dim=16"]))
    for cfg in (tree, OmegaConf.create(tree)):
        assert build_model(cfg).cfg == load_config(["size=tiny", "size.dim=16"])
    for function in (build_model, train):
        with pytest.raises(ConfigError, match=r"^config='norm=rmsnorm': must be a config; load_config\("):
            function("norm=rmsnorm")
