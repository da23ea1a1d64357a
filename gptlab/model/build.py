"""From a config to a model with its initial weights: what components ask for by name is handed out here."""

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from gptlab.config import ARCHITECTURE, SLOTS, ConfigError, Settings, as_settings, plain, registry
from gptlab.config.compose import typed
from gptlab.config.diff import diff_from_baseline
from gptlab.model.gpt import LanguageModel
from gptlab.model.roles import role_of


def build_model(cfg: Any) -> LanguageModel:
    """The model that `cfg` describes, its weights drawn from `cfg.seed`. Shapes only, inside `torch.device("meta")`."""
    cfg = as_settings(cfg)
    tree = plain(cfg)
    if tree["model"]["vocab_size"] is None:
        name = tree["tokenizer"]["name"]
        raise ConfigError(f"model.vocab_size=null: tokenizer={name} learns it from the text; set it, such as 65")
    read = reads(tree)
    _refuse_unread(tree, read)
    _refuse_leak(tree, read)
    tree = with_switches(tree)
    model = _make(tree, _context(tree, read), "model")
    initialise(model, build_init(tree), tree["seed"])
    model.cfg = cfg
    return model


def with_switches(tree: dict[str, Any]) -> dict[str, Any]:
    """With what one setting says of several parts: bias=false, and an `init` that goes with settings of other parts."""
    tree = _with_one_bias_switch(tree)
    init = build_init(tree)
    return init.with_settings(tree) if hasattr(init, "with_settings") else tree


def build_init(tree: dict[str, Any]) -> Any:
    """The `init` of a config that says the vocabulary's size."""
    return registry.build("init", tree["init"], _context(tree, reads(tree)))


def reads(tree: Mapping[str, Any]) -> set[str]:
    """What the model asks for, itself or by components that it asks for: slots, sizes and flags of the context."""
    found: set[str] = set()
    slots = ["model"]
    while slots:
        slot = slots.pop()
        new = {*registry.entry(slot, tree[slot]["name"]).wants} - found
        found |= new
        slots += new & SLOTS.keys()
    return found


def lacks(read: set[str]) -> list[str]:
    """The slots that a model has not, by what it reads."""
    return [slot for slot in ARCHITECTURE if slot in SLOTS and slot not in (*read, "init")]


def _refuse_unread(tree: dict[str, Any], read: set[str]) -> None:
    """A slot that the model has not, set to what is not the baseline's. Of a size a model takes what it has."""
    name = tree["model"]["name"]
    for key, value in diff_from_baseline(Settings.of({slot: tree[slot] for slot in lacks(read)})).items():
        raise ConfigError(f"{key}={typed(value)}: model={name} has no {key.partition('.')[0]}; leave it out")
    if tree["train"]["dropout"] and "dropout" not in read:
        raise ConfigError(f"train.dropout={tree['train']['dropout']}: model={name} has no dropout; leave it out")


def _refuse_leak(tree: dict[str, Any], read: set[str]) -> None:
    if getattr(registry.entry("model", tree["model"]["name"]).cls, "allows_leak", False):
        return
    for slot in {"norm", "qk_norm"} & read:
        if getattr(registry.entry(slot, tree[slot]["name"]).cls, "leaks", False) and not tree[slot]["allow_leak"]:
            raise ConfigError(
                f"{slot}={tree[slot]['name']}: in training it shows a token those after it, by their statistics; "
                f"set {slot}.allow_leak=true to have it in model={tree['model']['name']}"
            )


def _with_one_bias_switch(tree: dict[str, Any]) -> dict[str, Any]:
    """With bias=false every component's `bias` or `..._bias` knob is off; what is off by default is refused if on."""
    if tree["bias"]:
        return tree
    if tree["head"].get("bias"):
        raise ConfigError("head.bias=true: bias=false leaves no bias anywhere; set one of them otherwise")
    slots = [slot for slot in ARCHITECTURE if slot in SLOTS]
    off = {slot: {knob: False for knob in tree[slot] if knob == "bias" or knob.endswith("_bias")} for slot in slots}
    return {**tree, **{slot: {**tree[slot], **knobs} for slot, knobs in off.items()}}


def _context(tree: dict[str, Any], read: set[str]) -> dict[str, Any]:
    """What components can ask for by name, as far as it is the same in all layers."""
    size, attention = tree["size"], tree["attention"]
    head_dim = attention.get("head_dim")
    if "attention" in read:
        _check_heads(tree, head_dim)
    context = {
        **size,
        "head_dim": head_dim or size["dim"] // size["n_head"],
        "max_len": _longest(tree, read),
        "vocab_size": tree["model"]["vocab_size"],
        "bias": tree["bias"],
        "dropout": tree["train"]["dropout"],
    }
    for slot in ("norm", "qk_norm", "head"):
        context[slot] = partial(_sized, tree, context, slot)
    for slot in ("embedding", "position", "placement"):
        context[slot] = partial(_make, tree, context, slot)
    context["block"] = partial(_block, tree, context)
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
        raise ConfigError(f"attention.qk_norm_over={over}: there is no norm; choose a qk_norm")


def _longest(tree: dict[str, Any], read: set[str]) -> int:
    """Tokens that the model must be able to read at once, in training or in an evaluation."""
    window, lengths = tree["data"]["window"], tree["eval"]["lengths"]
    position = registry.entry("position", tree["position"]["name"])
    if max(lengths) > 1 and "position" in read and not getattr(position.cls, "extrapolates", True):
        raise ConfigError(
            f"eval.lengths={lengths}: position={position.name} knows no position beyond data.window={window}; set [1]"
        )
    return window * max(lengths)


def _sized(tree: dict[str, Any], context: Mapping[str, Any], slot: str, dim: int | None = None) -> nn.Module:
    """A norm or a head that reads a width of `dim`; None: the stream's."""
    dim = dim or context["dim"]
    if slot == "head" and tree["head"].get("tied"):
        table, matrix = tree["embedding"].get("width") or context["dim"], tree["head"].get("width") or dim
        if table != matrix:
            raise ConfigError(f"head.width={matrix}: is tied to the token table; set it to embedding.width={table}")
    return _make(tree, {**context, "dim": dim}, slot)


def _block(tree: dict[str, Any], context: Mapping[str, Any], layer_idx: int) -> nn.Module:
    inner = {**context, "layer_idx": layer_idx}
    factories = {slot: partial(_make, tree, inner, slot) for slot in ("attention", "ffn", "placement")}
    block = _make(tree, {**inner, **factories}, "block")
    for p in block.parameters():
        p.layer_idx = layer_idx
    return block


def _make(tree: dict[str, Any], context: Mapping[str, Any], slot: str) -> Any:
    """One component. What its constructor draws at random depends on (seed, slot, layer) alone as well."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_number(tree["seed"], f"{slot}.{context.get('layer_idx', '')}"))
        return registry.build(slot, tree[slot], context)


def initialise(model: nn.Module, init: Any, seed: int) -> None:
    """Draw every weight from (seed, its name) alone, so that no weight depends on what other parts there are.

    A component that has `init_weights(generator)` draws its own parameters; `init` draws the others by role, and may
    scale the learning rates of all.
    """
    if hasattr(init, "lr_scale"):
        for p in model.parameters():
            p.lr_scale = init.lr_scale(role_of(p))  # type: ignore[attr-defined]
    for path, module in model.named_modules():
        if hasattr(module, "init_weights"):
            module.init_weights(_generator(seed, path))
            continue
        for name, p in module.named_parameters(path, recurse=False):
            if p.is_meta:
                continue
            with torch.no_grad():
                init.draw(p, role_of(p), getattr(p, "gain", 1.0), _generator(seed, name))


def _generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed_number(seed, name))


def seed_number(seed: int, name: str) -> int:
    """A number below 2^63 that (seed, name) decides."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1
