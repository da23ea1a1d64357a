"""Mutations: plausible mistakes, each with the families of transformers whose parity test must notice it.

A mutation patches behaviour through names that users see too: settings, options of a slot, names of weights, flags of a
family. It therefore survives a renamed local or a function that moves to another module.
"""

import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import gptlab.model
from gptlab.config import registry
from gptlab.convert.families import FAMILIES
from gptlab.convert.weight_map import QKV, Layout


@dataclass(frozen=True)
class Mutation:
    """A mutation, made by `apply(monkeypatch)`, that each of `families` must notice."""

    name: str
    families: tuple[str, ...]
    apply: Callable[[Any], None]


MUTATIONS: list[Mutation] = []


def mutation(families: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Add the decorated function, whose name names the mutation."""

    def add(apply):
        MUTATIONS.append(Mutation(apply.__name__.replace("_", " "), tuple(families.split()), apply))
        return apply

    return add


def option(slot: str, name: str) -> type:
    """Return the class of an option of a slot."""
    return registry.entry(slot, name).cls


# ---------------------------------------------------------------- settings that are ignored or read wrongly


def wrong_setting(name: str, families: str, slot: str, choice: str, **changes: Any) -> None:
    """Add a mutation in which an option gets other settings than it was given.

    A change is a value, or a function of the constructor's arguments by name.
    """
    MUTATIONS.append(Mutation(name, tuple(families.split()), lambda patch: change(patch, slot, choice, changes)))


def change(patch: Any, slot: str, choice: str, changes: Mapping[str, Any]) -> None:
    cls = option(slot, choice)
    original = cls.__init__

    def init(self, *args, **settings):
        given = inspect.signature(original).bind(self, *args, **settings)
        given.apply_defaults()
        arguments = dict(given.arguments)
        new = {k: v(SimpleNamespace(**arguments)) if callable(v) else v for k, v in changes.items()}
        original(self, *args, **settings | new)

    patch.setattr(cls, "__init__", init)


def head_scale(a: Any) -> float:
    return a.scale or (a.head_dim or a.dim // a.n_head) ** -0.5


wrong_setting("LayerNorm ignores eps", "gpt2", "norm", "layernorm", eps=1e-5)
wrong_setting("RMSNorm ignores eps", "llama", "norm", "rmsnorm", eps=1e-6)
wrong_setting("zero_centered ignored", "gemma2", "norm", "rmsnorm", zero_centered=False)

wrong_setting("scores not scaled", "gpt2", "attention", "softmax", scale=lambda a: a.scale or 1.0)
wrong_setting("scores scaled by the model's width", "llama", "attention", "softmax", scale=lambda a: a.dim**-0.5)
wrong_setting("attention.scale ignored", "gpt2 gemma2", "attention", "softmax", scale=None)
wrong_setting("inverse_layer_scale ignored", "gpt2", "attention", "softmax", inverse_layer_scale=False)
wrong_setting(
    *("inverse_layer_scale counts layers from 0", "gpt2", "attention", "softmax"),
    scale=lambda a: head_scale(a) / (max(a.layer_idx, 1) if a.inverse_layer_scale else 1),
    inverse_layer_scale=False,
)
wrong_setting("pattern a layer late", "gemma2", "attention", "softmax", pattern=lambda a: a.pattern[1:] + a.pattern[0])
wrong_setting(
    "window one token too wide", "starcoder2", "attention", "softmax", window=lambda a: a.window and a.window + 1
)
wrong_setting("attention.softcap ignored", "gemma2", "attention", "softmax", softcap=None)
wrong_setting(
    *("scores capped before they are scaled", "gemma2", "attention", "softmax"),
    softcap=lambda a: a.softcap and a.softcap * head_scale(a),
)
wrong_setting("clip_qkv ignored", "olmo", "attention", "softmax", clip_qkv=None)

wrong_setting("channels paired by halves", "gptj", "position", "rope", pairing="half")
wrong_setting("frequencies over the whole head", "gpt_neox", "position", "rope", theta=lambda a: a.theta**a.fraction)
for kind in ("linear", "llama3"):
    wrong_setting(
        *(f"{kind} scaling upside down", "llama", "position", "rope"),
        factor=lambda a, kind=kind: 1 / a.factor if a.scaling == kind else a.factor,
    )
wrong_setting(
    *("llama3 scaling without a ramp", "llama", "position", "rope"), high_freq_factor=lambda a: a.low_freq_factor + 1e-9
)
wrong_setting("sines between cosines", "xglm", "position", "sinusoidal", layout="interleaved")
wrong_setting("lowest frequency left out", "xglm", "position", "sinusoidal", inclusive=False)
wrong_setting("sinusoids from position 0", "xglm", "position", "sinusoidal", offset=0)
wrong_setting("ALiBi ignores scale", "falcon", "position", "alibi", scale=1.0)
wrong_setting("ALiBi not rounded", "falcon", "position", "alibi", bf16=False)

wrong_setting("embedding not scaled", "gemma2", "embedding", "table", scale_by_width=False)
wrong_setting("padding token trained", "opt xglm", "embedding", "table", padding_idx=None)
wrong_setting("logits not scaled", "cohere", "head", "linear", scale=1.0)
wrong_setting("logits not capped", "gemma2", "head", "linear", softcap=None)


# ---------------------------------------------------------------- parts that are left out, swapped or replaced


@contextmanager
def replaced(module: nn.Module, **parts: Any) -> Iterator[None]:
    """Give a module other parts, or None, inside the block."""
    before = {name: getattr(module, name) for name in parts}
    for name, part in parts.items():
        setattr(module, name, part)
    try:
        yield
    finally:
        for name, part in before.items():
            setattr(module, name, part)


def wrong_parts(
    name: str, families: str, cls: type | tuple[str, str], parts: Callable[[Any], Mapping[str, Any]], of: str = ""
) -> None:
    """Add a mutation in which a component computes with other parts: of its own, or of its part `of`."""

    def apply(patch: Any) -> None:
        patched = cls if isinstance(cls, type) else option(*cls)
        method = "stream" if hasattr(patched, "stream") else "forward"
        original = getattr(patched, method)

        def forward(self, *args, **more):
            owner = getattr(self, of) if of else self
            with replaced(owner, **parts(owner)):
                return original(self, *args, **more)

        patch.setattr(patched, method, forward)

    MUTATIONS.append(Mutation(name, tuple(families.split()), apply))


def without(*names: str) -> Callable[[Any], Mapping[str, Any]]:
    return lambda _: dict.fromkeys(names)


wrong_parts("no bias in LayerNorm", "falcon", ("norm", "layernorm"), without("bias"))
wrong_parts("gate and up swapped", "llama", ("ffn", "swiglu"), lambda m: {"gate": m.up, "up": m.gate})
wrong_parts("no bias in up", "bloom", ("ffn", "gelu_tanh"), without("bias"), of="up")
wrong_parts("no bias in down", "opt", ("ffn", "relu"), without("bias"), of="down")
wrong_parts("no bias in q", "gpt2", ("attention", "softmax"), without("bias"), of="q")
wrong_parts("no bias in v", "starcoder2", ("attention", "softmax"), without("bias"), of="v")
wrong_parts("no bias in out", "phi", ("attention", "softmax"), without("bias"), of="out")
wrong_parts("no norm of the embedding", "bloom", ("embedding", "table"), without("norm"))
wrong_parts("no bias in the head", "gptj", ("head", "linear"), without("bias"))
wrong_parts("untied head reads the token table", "gpt_neox", ("head", "linear"), without("weight"))
wrong_parts("no final norm", "gpt2", ("model", "gpt"), lambda m: {"norm": nn.Identity()})
wrong_parts(
    "two norms of a parallel block are one",
    "falcon",
    ("block", "parallel"),
    lambda m: {"ffn_placement": m.ffn_placement and m.placement},
)


@mutation("gpt_neox")
def GELU_by_tanh_for_erf(patch):
    patch.setattr(option("ffn", "gelu"), "activation", staticmethod(option("ffn", "gelu_tanh").activation))


@mutation("gpt2")
def GELU_by_erf_for_tanh(patch):
    patch.setattr(option("ffn", "gelu_tanh"), "activation", staticmethod(option("ffn", "gelu").activation))


# ---------------------------------------------------------------- attention


def model_modules() -> list[ModuleType]:
    return [import_module(f"gptlab.model.{m.name}") for m in pkgutil.iter_modules(gptlab.model.__path__)]


def patch_function(patch: Any, name: str, wrap: Callable[..., Any]) -> None:
    """Replace a function of gptlab.model by `wrap(function)` in every module that has it by this name."""
    modules = [m for m in model_modules() if inspect.isfunction(getattr(m, name, None))]
    assert modules, name
    for module in modules:
        patch.setattr(module, name, wrap(getattr(module, name)))


def patch_sdpa(patch: Any, change: Callable[[torch.Tensor, torch.Tensor, dict[str, Any]], dict[str, Any]]) -> None:
    """Change the keywords with which gptlab, and not transformers, calls torch's attention."""

    class Changed:
        def __getattr__(self, name):
            return getattr(F, name)

        def scaled_dot_product_attention(self, q, k, v, **more):
            return F.scaled_dot_product_attention(q, k, v, **more | change(q, k, more))

    for module in model_modules():
        if getattr(module, "F", None) is F:
            patch.setattr(module, "F", Changed())


@mutation("gpt2")
def no_causal_mask(patch):
    patch_sdpa(patch, lambda q, k, given: {"is_causal": False})


@mutation("bloom")
def one_token_ahead_is_visible(patch):
    def visible(q, k, given):
        mask = given["attn_mask"].clone()
        ahead = torch.arange(mask.shape[-1] - 1)
        if mask.shape[-2] == mask.shape[-1]:
            mask[..., ahead, ahead + 1] = mask[..., ahead, ahead]
        return {"attn_mask": mask}

    patch_sdpa(patch, visible)


@mutation("starcoder2")
def queries_counted_from_0_with_a_cache(patch):
    def from_0(q, k, given):
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        return {"attn_mask": mask} if q.shape[-2] < k.shape[-2] else {}

    patch_sdpa(patch, from_0)


@mutation("gemma2")
def scores_capped_after_the_mask(patch):
    patch_function(patch, "scores", lambda scores: lambda *args, **more: scores(*args, **more).clamp(min=-1.0))


@mutation("llama")
def key_value_heads_tiled(patch):
    original = torch.Tensor.repeat_interleave

    def tiled(x, n, dim=None, **more):
        return x.repeat(1, n, 1, 1) if x.ndim == 4 and dim == 1 else original(x, n, dim, **more)

    patch.setattr(torch.Tensor, "repeat_interleave", tiled)


@mutation("qwen3")
def queries_normed_after_their_rotation(patch):
    cls = option("attention", "softmax")
    original = cls.forward

    def forward(self, x, position, *rest, **more):
        norm = self.q_norm

        class Position:
            norms = iter([norm])  # the queries are rotated first

            def __getattr__(self, name):
                return getattr(position, name)

            def rotate(self, x, *args):
                return next(self.norms, nn.Identity())(position.rotate(x, *args))

        with replaced(self, q_norm=nn.Identity()):
            return original(self, x, Position(), *rest, **more)

    patch.setattr(cls, "forward", forward)


@mutation("olmo2")
def norm_over_each_head_for_the_width(patch):
    from gptlab.model.attention import AllHeads

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], None, self.norm.eps) * self.norm.gain.view(x.shape[1], 1, -1)

    patch.setattr(AllHeads, "forward", forward)


@mutation("cohere")
def heads_share_one_norm(patch):
    from gptlab.model.attention import EachHead

    patch.setattr(EachHead, "forward", lambda self, x: torch.stack([self.norms[0](h) for h in x.unbind(1)], 1))


def patch_cache(patch: Any, method: str, wrap: Callable[..., Any]) -> None:
    from gptlab.model.attention import KVCache

    original = getattr(KVCache, method)
    patch.setattr(KVCache, method, lambda self, *args: wrap(original(self, *args), *args))


@mutation("gpt2")
def new_keys_before_those_of_the_cache(patch):
    patch_cache(patch, "append", lambda kv, *args: (kv[0].roll(args[-1].shape[-2], -2), kv[1]))


@mutation("llama")
def rotation_a_position_early_with_a_cache(patch):
    from gptlab.model.position import RoPE

    rotate = RoPE.rotate
    patch.setattr(RoPE, "rotate", lambda self, x, start=0, *args: rotate(self, x, max(0, start - 1), *args))


@mutation("gpt2")
def learned_positions_from_0_with_a_cache(patch):
    from gptlab.model.position import Learned

    embed = Learned.embed
    patch.setattr(Learned, "embed", lambda self, x, start=0: embed(self, x))


# ---------------------------------------------------------------- positions


def after_init(patch: Any, slot: str, choice: str, mend: Callable[[Any], None]) -> None:
    cls = option(slot, choice)
    original = cls.__init__

    def init(self, *args, **settings):
        original(self, *args, **settings)
        mend(self)

    patch.setattr(cls, "__init__", init)


@mutation("llama cohere")
def rotation_the_other_way(patch):
    after_init(patch, "position", "rope", lambda rope: rope.sin.neg_())


@mutation("phi")
def last_channels_of_a_head_rotated(patch):
    cls = option("position", "rope")
    original = cls.rotate
    patch.setattr(cls, "rotate", lambda self, x, *args: original(self, x.roll(x.shape[-1] // 2, -1), *args))


@mutation("opt")
def learned_positions_ignore_their_offset(patch):
    cls = option("position", "learned")
    original = cls.embed
    patch.setattr(cls, "embed", lambda self, x, start: original(self, x, start - self.offset))


@mutation("bloom")
def ALiBi_the_other_way(patch):
    after_init(patch, "position", "alibi", lambda alibi: alibi.slopes.neg_())


@mutation("bloom")
def ALiBi_slopes_of_the_next_power_of_two_in_a_row(patch):
    def in_a_row(alibi):
        below = 2 ** math.floor(math.log2(len(alibi.slopes)))
        for i in range(len(alibi.slopes) - below):
            alibi.slopes[below + i] = 2 ** (-4 * (i + 1) / below)

    after_init(patch, "position", "alibi", in_a_row)


# ---------------------------------------------------------------- placements and blocks


@mutation("gemma2")
def double_norms_swapped(patch):
    patch.setattr(option("placement", "double"), "branch", lambda self, x, f: self.norm_in(f(self.norm_out(x))))


@mutation("gpt2")
def output_norm_for_pre_norm(patch):
    patch.setattr(option("placement", "pre"), "branch", lambda self, x, f: self.norm(f(x)))


@mutation("olmo2")
def pre_norm_for_output_norm(patch):
    patch.setattr(option("placement", "output"), "branch", lambda self, x, f: f(self.norm(x)))


@mutation("openai-gpt")
def post_norm_on_the_branch(patch):
    patch.setattr(option("placement", "post"), "merge", lambda self, x, y: x + self.norm(y))


@mutation("bloom")
def residual_taken_before_the_norm(patch):
    patch.setattr(option("placement", "pre_residual"), "forward", lambda self, x, f: x + f(self.norm(x)))


@mutation("gpt_neox")
def parallel_FFN_reads_what_attention_wrote(patch):
    def forward(self, *args):
        norms = {"attention_placement": self.placement, "ffn_placement": self.ffn_placement}
        parts = SimpleNamespace(attention=self.attention, ffn=self.ffn, branch_scale=self.branch_scale, **norms)
        return option("block", "serial").forward(parts, *args)

    patch.setattr(option("block", "parallel"), "forward", forward)


@mutation("gptj")
def parallel_FFN_reads_the_raw_stream(patch):
    cls = option("block", "parallel")
    original = cls.forward

    def forward(self, x, *args):
        ffn, raw = self.ffn, nn.Identity()
        raw.forward = lambda _: ffn(x)
        with replaced(self, ffn=raw):
            return original(self, x, *args)

    patch.setattr(cls, "forward", forward)


# ---------------------------------------------------------------- conversion


def wrong_layout(name: str, family: str, change: Callable[[str, Layout], Layout]) -> None:
    """Add a mutation in the layouts of a family's table of weights."""

    def apply(patch: Any) -> None:
        table = {k: change(k, v) if isinstance(v, Layout) else v for k, v in FAMILIES[family].weights.items()}
        patch.setitem(FAMILIES, family, replace(FAMILIES[family], weights=table))

    MUTATIONS.append(Mutation(name, (family,), apply))


def inverted(layout: Layout) -> Layout:
    order = layout.order
    return replace(layout, order=order and (lambda *sizes: order(*sizes).argsort()))


wrong_layout(
    "q, k, v in another order",
    "gpt2",
    lambda _, v: replace(v, parts=v.parts[1::-1] + v.parts[2:]) if len(v.parts) == len(QKV) else v,
)
wrong_layout("groups of q, k, v as one after the other", "bloom", lambda _, v: replace(v, order=None))
wrong_layout("groups of q, k, v the wrong way", "gpt_neox", lambda _, v: inverted(v))
wrong_layout(
    *("square matrices of Conv1D not transposed", "openai-gpt"),
    lambda name, v: replace(v, transposed=v.transposed and not name.endswith("attn.c_proj")),
)


def wrong_reading(name: str, family: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Add a mutation in the settings that the fields of a family read from a config."""

    def apply(patch: Any) -> None:
        fields = tuple(replace(f, read=lambda c, f=f: change(f.read(c))) for f in FAMILIES[family].fields)
        patch.setitem(FAMILIES, family, replace(FAMILIES[family], fields=fields))

    MUTATIONS.append(Mutation(name, (family,), apply))


wrong_reading("q and k norms with their default eps", "qwen3", lambda s: {k: s[k] for k in s if k != "qk_norm.eps"})
wrong_reading(
    *("serial block read as parallel", "gpt_neox"),
    lambda s: {"block": "parallel", "block.shared_norm": False} if "block" in s else s,
)
