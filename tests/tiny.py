"""Tiny models, tiny runs, and the choices that tests are parametrised over.

A choice is a string of overrides, such as "norm=rmsnorm bias=false".
"""

import dataclasses
import zlib
from functools import cache
from itertools import product

import torch
from torch import nn

from gptlab import build_model, load_config
from gptlab.config import COMMON, SLOTS, flatten, registry
from gptlab.config.compose import fixed_vocab_size
from gptlab.config.overrides import typed
from gptlab.model.roles import role_of

VOCAB, WINDOW, LAYERS = 11, 12, 2
TINY = (
    f"size.dim=16 size.n_head=4 size.n_layer={LAYERS} data.window={WINDOW} tokenizer=char model.vocab_size={VOCAB}"
).split()
# A run or a sweep that lacks only its text and its budget.
TINY_RUN = ["size=tiny", "data.window=16", "train.batch_size=2", "eval.tokens=64", "eval.final_tokens=64"]
TINY_RUN += ["wandb.mode=disabled", "device=cpu", "eval.sample_tokens=0"]

PARTS = ("block", "placement", "norm", "qk_norm", "attention", "position", "ffn", "embedding", "head")
MODEL_SLOTS = ("model", *PARTS, "init")


def options(slot):
    """Return the choices of a slot's options, with the permission that a leaking norm needs in a GPT."""
    entries = registry.entries(SLOTS[slot])
    allowed = {e.name: f" {slot}.allow_leak=true" for e in entries if getattr(e.cls, "leaks", False)}
    return [f"{slot}={e.name}{allowed.get(e.name, '')}" for e in entries]


OPTIONS = [option for slot in MODEL_SLOTS for option in options(slot)]
MODELS = [
    *options("model"),
    "model=bigram_pos position=sinusoidal",
    "model=mlp model.context=3 model.hidden=24 head.tied=false",
    "model=mlp model.hidden=24 embedding.width=16 head.width=16",
    "model=mlp norm=batchnorm",
    "model=rnn model.cell=lstm",
    "model=rnn model.cell=tanh norm=none",
    "model=rnn norm=batchnorm norm.allow_leak=true",
]
BLOCKS = [f"block={name}" for name in registry.names("block")] + ["block=parallel block.shared_norm=false"]
PLACEMENTS = [f"placement={name}" for name in registry.names("placement")]
BRANCH_NORMS = [f"placement={e.name}" for e in registry.entries("placement") if e.cls.norms_branch]
WIRINGS = [f"{b} {p}" for b in BLOCKS for p in (BRANCH_NORMS if "shared_norm=false" in b else PLACEMENTS)]
PLAIN_POSITIONS = [f"position={name}" for name in registry.names("position")]
POSITIONS = PLAIN_POSITIONS + [
    "position=rope position.pairing=interleaved",
    "position=rope position.fraction=0.5",
    "position=rope position.pattern=NR",
    "position=rope position.pattern=LR position.local_theta=100",
    "position=rope position.scaling=linear position.factor=4",
    "position=rope position.scaling=llama3 position.original_window=64",
    "position=learned position.offset=2",
    "position=sinusoidal position.layout=halves position.inclusive=true position.offset=2",
    "position=alibi position.scale=0.5 position.bf16=true",
]
ALL_OF_ATTENTION = "attention.n_kv_head=2 attention.window=3 attention.softcap=2 qk_norm=rmsnorm"
PLAIN_ATTENTIONS = [f"attention={name}" for name in registry.names("attention")] + [
    "attention.n_kv_head=2",
    "attention.window=3",
    "attention.softcap=2",
]
ATTENTIONS = PLAIN_ATTENTIONS + [
    "attention.n_kv_head=1",
    "attention.head_dim=8",
    "attention.window=3 attention.pattern=LG",
    ALL_OF_ATTENTION,
    "attention.scale=0.3 attention.inverse_layer_scale=true",
    "attention.clip_qkv=0.5",
    "attention.qkv_bias=false",
    "attention.out_bias=false",
    "qk_norm=layernorm attention.qk_norm_over=width",
    "qk_norm=rmsnorm attention.qk_norm_over=each_head attention.n_kv_head=2",
]
# Every plain position with every plain attention; each variant with two partners that rotate, bias or mask.
POSITIONS_WITH_ATTENTIONS = [
    *product(PLAIN_POSITIONS, PLAIN_ATTENTIONS),
    *product(POSITIONS[len(PLAIN_POSITIONS) :], ["attention=softmax", ALL_OF_ATTENTION]),
    *product(["position=rope", "position=alibi"], ATTENTIONS[len(PLAIN_ATTENTIONS) :]),
]
OTHER_KNOBS = [
    "norm.zero_centered=true",
    "norm.learnable=false",
    "norm.bias=false",
    "norm=rmsnorm norm.zero_centered=true",
    "norm=dyt norm.bias=false",
    "qk_norm=layernorm qk_norm.bias=false",
    "qk_norm=rmsnorm qk_norm.zero_centered=true",
    "ffn.bias=false",
    "ffn=swiglu ffn.hidden=24",
    "embedding.scale=3",
    "embedding.scale_by_width=true",
    "embedding.normed=true",
    "embedding.padding_idx=1",
    "embedding.width=8 head.width=8",
    "embedding.width=8 head.width=8 embedding.normed=true",
    "head.scale=0.1",
    "head.tied=false head.width=8",
    "block.branch_scale=0.3",
    "block=parallel block.branch_scale=0.3",
]
CHOICES = list(dict.fromkeys(OPTIONS + MODELS + POSITIONS + ATTENTIONS + OTHER_KNOBS))  # each alone


@cache
def tiny_config(*choices):
    return configure(_baseline(), *choices)


@cache
def _baseline():
    return load_config(TINY)


def configure(cfg, *choices):
    """Return `cfg` with overrides; a component that is chosen comes with its own defaults."""
    overrides = " ".join(choices).split()
    chosen = dict(override.split("=", 1) for override in overrides)
    replaced = {slot for slot in SLOTS if chosen.get(slot, cfg[slot].name) != cfg[slot].name}
    shared = {
        f"{slot}.{f.name}" for slot in SLOTS if SLOTS[slot] in COMMON for f in dataclasses.fields(COMMON[SLOTS[slot]])
    }
    kept = {k: v for k, v in flatten(cfg).items() if k.split(".")[0] not in replaced or k in shared}
    if {"tokenizer", "data"} & replaced and cfg.model.vocab_size == fixed_vocab_size(cfg):
        kept["model.vocab_size"] = None  # it followed from the tokenizer that is replaced
    return load_config([*(f"{k}={typed(v)}" for k, v in kept.items()), *overrides])


def tiny_model(*choices):
    """Return a tiny model with the weights that a run starts from."""
    return build_model(tiny_config(*choices))


@cache
def telling_model(*choices):
    """Return a float64 model with weights so large that each shows in the logits. Equal names get equal weights."""
    model = tiny_model(*choices).double().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator(name), dtype=p.dtype)
            p.copy_(0.4 * noise + (1.0 if role_of(p) == "gain" else 0.0))
    return model


def generator(name):
    return torch.Generator().manual_seed(zlib.crc32(str(name).encode()))


def tokens(batch=2, length=WINDOW):
    return torch.randint(VOCAB, (batch, length), generator=generator("tokens"))


def noise(*shape):
    """Return N(0, 1) noise in float64, the same for every call with this shape."""
    return torch.randn(shape, generator=generator(shape), dtype=torch.float64)


def component(slot, name, **context):
    """Return one component with its default settings and the sizes of a tiny model, unless `context` has others."""
    sizes = {"dim": 16, "head_dim": 4, "n_head": 4, "n_layer": LAYERS, "layer_idx": 0, "max_len": WINDOW}
    flags = {"vocab_size": VOCAB, "bias": True, "dropout": 0.0, "qk_norm": lambda dim: nn.Identity()}
    knobs = dataclasses.asdict(registry.entry(slot, name).schema())
    given = {k: context.pop(k) for k in list(context) if k in knobs}
    return registry.build(slot, knobs | given, {**sizes, **flags, **context})
