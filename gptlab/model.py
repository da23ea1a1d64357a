"""A decoder-only language model out of components: embedding -> blocks -> norm -> head.

Letters in shapes, here and in components/: B batch, T tokens, C width of the stream, H heads, D width of a head,
F width of the FFN, V vocabulary, L layers.
"""

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gptlab import registry
from gptlab.components.attention import KVCache
from gptlab.components.parameters import role_of
from gptlab.config import ARCHITECTURE, SLOTS, ConfigError, plain


class GPT(nn.Module):
    """Tokens (B, T), int64 -> logits (B, T, V)."""

    cfg: Any  # what build_model made it from
    hf_config: Any = None  # of the transformers model that it was converted from

    def __init__(
        self,
        max_len: int,
        dropout: float,
        *,
        embedding: nn.Module,
        position: nn.Module,
        blocks: list[nn.Module],
        norm: nn.Module,
        head: nn.Module,
    ):
        super().__init__()
        self.max_len = max_len
        self.embedding: Any = embedding
        self.dropout = nn.Dropout(dropout)
        self.position: Any = position
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.head = head

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """With a cache, `tokens` follow those seen in earlier calls, and logits are those of the new ones."""
        return self.logits(self.stream(tokens, cache))

    def stream(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """What the head reads: (B, T) -> (B, T, C)."""
        start = cache.length(0) if cache else 0
        if start + tokens.shape[1] > self.max_len:
            raise ValueError(f"{start + tokens.shape[1]} tokens: the model was built for at most {self.max_len}")
        x = self.dropout(self.position.embed(self.embedding(tokens), start))  # (B, T, C)
        for block in self.blocks:
            x = block(x, self.position, cache)
        return self.norm(x)

    def logits(self, x: Tensor) -> Tensor:
        """What the head makes of the stream: (..., C) -> (..., V)."""
        return self.head(x, self.embedding.weight)

    def head_parameters(self) -> list[nn.Parameter]:
        """All that `logits` can depend on; the token table is among them even where the head does not read it."""
        return [p for p in dict.fromkeys([*self.head.parameters(), self.embedding.weight]) if p.requires_grad]

    def new_cache(self) -> KVCache:
        return KVCache(len(self.blocks))

    def auxiliary_loss(self, logits: Tensor) -> Tensor | None:
        """The sum of what components add to the training loss, in nats; None if none does."""
        losses = [x for x in (m.auxiliary_loss(logits) for m in self._with_auxiliary_loss()) if x is not None]
        return sum(losses[1:], losses[0]) if losses else None

    def has_auxiliary_loss_outside_head(self) -> bool:
        return any(m is not self.head for m in self._with_auxiliary_loss())

    def _with_auxiliary_loss(self) -> list[Any]:
        return [m for m in self.modules() if m is not self and hasattr(m, "auxiliary_loss")]


def build_model(cfg: Any) -> GPT:
    """The model that `cfg` describes, its weights drawn from `cfg.seed`. Shapes only, inside `torch.device("meta")`."""
    tree = plain(cfg)
    if tree["model"]["vocab_size"] is None:
        name = tree["tokenizer"]["name"]
        raise ConfigError(f"model.vocab_size=null: tokenizer={name} learns it from the text; set it, such as 65")
    tree = with_switches(tree)
    context = _context(tree)
    make = partial(_make, tree, context)
    placement = make("placement")
    model = GPT(
        context["max_len"],
        context["dropout"],
        embedding=make("embedding"),
        position=make("position"),
        blocks=[_block(tree, context, i) for i in range(context["n_layer"])],
        norm=make("norm") if placement.final_norm else nn.Identity(),
        head=make("head"),
    )
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
    return registry.build("init", tree["init"], _context(tree))


def _with_one_bias_switch(tree: dict[str, Any]) -> dict[str, Any]:
    """With bias=false every component's `bias` or `..._bias` knob is off; what is off by default is refused if on."""
    if tree["bias"]:
        return tree
    if tree["head"].get("bias"):
        raise ConfigError("head.bias=true: bias=false leaves no bias anywhere; set one of them otherwise")
    slots = [slot for slot in ARCHITECTURE if slot in SLOTS]
    off = {slot: {knob: False for knob in tree[slot] if knob == "bias" or knob.endswith("_bias")} for slot in slots}
    return {**tree, **{slot: {**tree[slot], **knobs} for slot, knobs in off.items()}}


def _context(tree: dict[str, Any]) -> dict[str, Any]:
    """What components can ask for by name, as far as it is the same in all layers."""
    size, attention = tree["size"], tree["attention"]
    head_dim = attention.get("head_dim")
    if head_dim is None and size["dim"] % size["n_head"]:
        raise ConfigError(
            f"size.n_head={size['n_head']}: must divide size.dim={size['dim']}; or set attention.head_dim"
        )
    if head_dim is not None and head_dim < 1:
        raise ConfigError(f"attention.head_dim={head_dim}: must be at least 1")
    table, matrix = (tree[slot].get("width") or size["dim"] for slot in ("embedding", "head"))
    if tree["head"].get("tied") and table != matrix:
        raise ConfigError(f"head.width={matrix}: is tied to the token table; set it to embedding.width={table}")
    if attention.get("qk_norm_over", "head") != "head" and tree["qk_norm"]["name"] == "none":
        raise ConfigError(f"attention.qk_norm_over={attention['qk_norm_over']}: there is no norm; choose a qk_norm")
    context = {
        **size,
        "head_dim": head_dim or size["dim"] // size["n_head"],
        "max_len": _longest(tree),
        "vocab_size": tree["model"]["vocab_size"],
        "bias": tree["bias"],
        "dropout": tree["train"]["dropout"],
    }
    for slot in ("norm", "qk_norm"):
        context[slot] = partial(_norm, tree, context, slot)
    return context


def _longest(tree: dict[str, Any]) -> int:
    """Tokens that the model must be able to read at once, in training or in an evaluation."""
    window, lengths = tree["data"]["window"], tree["eval"]["lengths"]
    position = registry.entry("position", tree["position"]["name"])
    if max(lengths) > 1 and not getattr(position.cls, "extrapolates", True):
        raise ConfigError(
            f"eval.lengths={lengths}: position={position.name} knows no position beyond data.window={window}; set [1]"
        )
    return window * max(lengths)


def _norm(tree: dict[str, Any], context: Mapping[str, Any], slot: str, dim: int | None = None) -> nn.Module:
    return _make(tree, {**context, "dim": dim or context["dim"]}, slot)


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
