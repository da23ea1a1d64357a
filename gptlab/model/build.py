"""Build a model and its initial weights from a config: components ask for sizes and other components by name."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from gptlab.config import ARCHITECTURE, SLOTS, ConfigError, Settings, as_settings, drawing_seed, plain, registry
from gptlab.config.diff import diff_from_baseline
from gptlab.config.overrides import typed
from gptlab.config.user_files import blaming
from gptlab.model.gpt import LanguageModel
from gptlab.model.init import initialise, seed_number
from gptlab.model.roles import HIDDEN, role_of
from gptlab.model.untold_roles import complete_roles


def build_model(cfg: Any) -> LanguageModel:
    """Return the model that `cfg` describes, with the weights that its seed and train.seed_offset give.

    Inside `torch.device("meta")` it has shapes alone. Raises ConfigError for settings that contradict each other.
    """
    cfg = as_settings(cfg)
    tree = plain(cfg)
    if tree["model"]["vocab_size"] is None:
        name = tree["tokenizer"]["name"]
        raise ConfigError(f"model.vocab_size=null: tokenizer={name} learns it from the text; set it, such as 65")
    used = slots_used(tree)
    _reject_settings_of_missing_slots(tree, used)
    _reject_leaks(tree, used)
    tree = with_switches(tree)
    model, init = _make(tree, _context(tree, used), "model"), build_init(tree)
    classes = {registry.entry(slot, tree[slot]["name"]).cls: slot for slot in ("model", *sorted(SLOTS.keys() & used))}
    names = {slot: f"{slot}={tree[slot]['name']}" for slot in classes.values()}
    with blaming():
        complete_roles(model, classes, names, bias=tree["bias"])
    _reject_unknown_gains(model, init, tree["init"]["name"])
    initialise(model, init, drawing_seed(tree))
    model.cfg = cfg
    return model


def with_switches(tree: dict[str, Any]) -> dict[str, Any]:
    """Apply the settings that change several components: bias=false, and an `init` that scales other components."""
    tree = _with_one_bias_switch(tree)
    init = build_init(tree)
    return init.with_settings(tree) if hasattr(init, "with_settings") else tree


def build_init(tree: dict[str, Any]) -> Any:
    """Return the `init` component of a config whose vocabulary size is known."""
    return registry.build("init", tree["init"], _context(tree, slots_used(tree)))


def slots_used(tree: Mapping[str, Any]) -> set[str]:
    """Return all names that the model and its components ask the builder for: slots, sizes and flags."""
    used: set[str] = set()
    slots = ["model"]
    while slots:
        slot = slots.pop()
        new = {*registry.entry(slot, tree[slot]["name"]).wants} - used
        used |= new
        slots += new & SLOTS.keys()
    return used


def slots_missing(used: set[str]) -> list[str]:
    """Return the architecture's slots that a model does not have, given its `slots_used`."""
    return [slot for slot in ARCHITECTURE if slot in SLOTS and slot not in (*used, "init")]


def _reject_settings_of_missing_slots(tree: dict[str, Any], used: set[str]) -> None:
    """Reject settings that differ from the baseline in slots that the model does not have. Unused sizes are ignored."""
    name = tree["model"]["name"]
    for key, value in diff_from_baseline(Settings.of({slot: tree[slot] for slot in slots_missing(used)})).items():
        raise ConfigError(f"{key}={typed(value)}: model={name} has no {key.partition('.')[0]}; leave it out")
    if tree["train"]["dropout"] and "dropout" not in used:
        raise ConfigError(f"train.dropout={tree['train']['dropout']}: model={name} has no dropout; leave it out")


def _reject_leaks(tree: dict[str, Any], used: set[str]) -> None:
    """Reject a norm that lets a token see later ones in training, unless `allow_leak` or the model permits it."""
    if getattr(registry.entry("model", tree["model"]["name"]).cls, "allows_leak", False):
        return
    for slot in {"norm", "qk_norm"} & used:
        if getattr(registry.entry(slot, tree[slot]["name"]).cls, "leaks", False) and not tree[slot]["allow_leak"]:
            raise ConfigError(
                f"{slot}={tree[slot]['name']}: in training its statistics let a token see later ones; "
                f"set {slot}.allow_leak=true to use it in model={tree['model']['name']} all the same"
            )


def _reject_unknown_gains(model: nn.Module, init: Any, name: str) -> None:
    """Reject an init that scales by the gain of a non-linearity if a component does not say it for its matrices."""
    if not getattr(init, "uses_gain", False):
        return
    for path, p in model.named_parameters():
        if not getattr(p, "is_told", True) and role_of(p) in HIDDEN:
            raise ConfigError(
                f"init={name}: scales {path} by the gain of the non-linearity before it, which nobody says; use "
                f'tag(parameter, "{role_of(p)}", gain=1.0) of gptlab.model.roles with the right gain, or another init'
            )


def _with_one_bias_switch(tree: dict[str, Any]) -> dict[str, Any]:
    """Turn off every component's `bias` and `..._bias` if bias=false. Reject head.bias=true then."""
    if tree["bias"]:
        return tree
    if tree["head"].get("bias"):
        raise ConfigError("head.bias=true: bias=false leaves no bias anywhere; change one of them")
    slots = [slot for slot in ARCHITECTURE if slot in SLOTS]
    off = {slot: {key: False for key in tree[slot] if key == "bias" or key.endswith("_bias")} for slot in slots}
    return {**tree, **{slot: {**tree[slot], **settings} for slot, settings in off.items()}}


def _context(tree: dict[str, Any], used: set[str]) -> dict[str, Any]:
    """Return what components can ask for by name, except what depends on the layer."""
    size, attention = tree["size"], tree["attention"]
    head_dim = attention.get("head_dim")
    if "attention" in used:
        _check_heads(tree, head_dim)
    context = {
        **size,
        "head_dim": head_dim or size["dim"] // size["n_head"],
        "max_len": _max_len(tree, used),
        "vocab_size": tree["model"]["vocab_size"],
        "bias": tree["bias"],
        "dropout": tree["train"]["dropout"],
    }
    for slot in ("norm", "qk_norm", "head"):
        context[slot] = partial(_make_of_width, tree, context, slot)
    for slot in ("embedding", "position", "placement"):
        context[slot] = partial(_make, tree, context, slot)
    context["block"] = partial(_make_block, tree, context)
    return context


def _check_heads(tree: dict[str, Any], head_dim: int | None) -> None:
    size, over = tree["size"], tree["attention"].get("qk_norm_over", "head")
    if head_dim is None and size["dim"] % size["n_head"]:
        raise ConfigError(
            f"size.n_head={size['n_head']}: must divide size.dim={size['dim']}; or set attention.head_dim"
        )
    if head_dim is not None and head_dim < 1:
        raise ConfigError(f"attention.head_dim={head_dim}: must be at least 1")
    if over != "head" and tree["qk_norm"]["name"] == "none":
        raise ConfigError(f"attention.qk_norm_over={over}: needs a norm; choose a qk_norm")


def _max_len(tree: dict[str, Any], used: set[str]) -> int:
    """Return the most tokens that the model must read at once, in training or in an evaluation."""
    window, lengths = tree["data"]["window"], tree["eval"]["lengths"]
    position = registry.entry("position", tree["position"]["name"])
    if max(lengths) > 1 and "position" in used and not getattr(position.cls, "extrapolates", True):
        raise ConfigError(
            f"eval.lengths={lengths}: position={position.name} has no positions beyond data.window={window};"
            " set eval.lengths=[1]"
        )
    return window * max(lengths)


def _make_of_width(tree: dict[str, Any], context: Mapping[str, Any], slot: str, dim: int | None = None) -> nn.Module:
    """Return a norm or a head that reads vectors of width `dim`; None is the stream's width."""
    dim = dim or context["dim"]
    if slot == "head" and tree["head"].get("tied"):
        table, matrix = tree["embedding"].get("width") or context["dim"], tree["head"].get("width") or dim
        if table != matrix:
            raise ConfigError(f"head.width={matrix}: is tied to the token table; set it to embedding.width={table}")
    return _make(tree, {**context, "dim": dim}, slot)


def _make_block(tree: dict[str, Any], context: Mapping[str, Any], layer_idx: int) -> nn.Module:
    inner = {**context, "layer_idx": layer_idx}
    factories = {slot: partial(_make, tree, inner, slot) for slot in ("attention", "ffn", "placement")}
    block = _make(tree, {**inner, **factories}, "block")
    for p in block.parameters():
        p.layer_idx = layer_idx
    return block


def _make(tree: dict[str, Any], context: Mapping[str, Any], slot: str) -> Any:
    """Return one component. Random numbers drawn in its constructor depend on (seed, slot, layer) alone."""
    with torch.random.fork_rng(devices=[]):
        number = seed_number(drawing_seed(tree), f"{slot}.{context.get('layer_idx', '')}")
        torch.default_generator.manual_seed(number)
        return registry.build(slot, tree[slot], context)
