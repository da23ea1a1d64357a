"""The cost of a model: parameters, FLOPs, bytes. Counted on the meta device, where weights take no memory.

Counting takes about 50 ms. The thousands of cells of a sweep have few architectures, so each architecture is counted
once per process.
"""

import functools
import json
from collections import Counter, defaultdict
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gptlab.config import ARCHITECTURE, SLOTS, Settings, plain, registry
from gptlab.config.user_files import blaming, source_hash
from gptlab.model.build import build_model
from gptlab.model.gpt import LanguageModel
from gptlab.model.roles import role_of
from gptlab.model.try_components import try_components
from gptlab.model.untold_roles import zeros_like

MAX_FLOPS_TO_RUN = 1e11  # FLOPs of a window; below, real tensors are counted, above, shapes on the meta device
PARTS = ("embedding", "position", "attention", "ffn", "hidden", "input", "state")  # as they occur in parameters' names
FIGURES = ("parameters", "parameters_non_embedding", "flops_per_token")


def meta_model(cfg: Any) -> LanguageModel:
    """Return the model of a config on the meta device, with shapes alone."""
    with torch.device("meta"):
        return build_model(cfg)


def flops_per_token(model: LanguageModel, window: int) -> float:
    """Return the FLOPs of all matrix products per training token, forward and backward, counted as they run.

    `model` is on the meta device. Attention counts as the full T x T, mask or not, as in arXiv:2204.02311, appendix B.
    Blocks whose parameters have the same shapes are counted once and multiplied. If a block cannot run alone, because
    it reads what another one has left, such as the values of the first layer, the whole model is counted.
    """
    in_memory = [zeros_like(model)] if _is_small(model, window) else []
    for count in (_count_by_blocks, _count_whole):
        for counted in (*in_memory, model):
            with suppress(Exception):  # no formula, or no block alone, or a fault of a user's component, raised below
                return count(counted, window)
    return _count_whole(model, window)


def _is_small(model: nn.Module, window: int) -> bool:
    return 6 * window * sum(p.numel() for p in model.parameters()) < MAX_FLOPS_TO_RUN


def _count_whole(model: LanguageModel, window: int) -> float:
    return _flops(model, list(model.blocks), window) / window


def _count_by_blocks(model: LanguageModel, window: int) -> float:
    blocks = list(model.blocks)
    count_by_shapes = Counter(tuple((n, p.shape) for n, p in block.named_parameters()) for block in blocks)
    one_of = {tuple((n, p.shape) for n, p in block.named_parameters()): block for block in blocks}
    outside = _flops(model, [], window)
    inside = sum(n * (_flops(model, [one_of[shapes]], window) - outside) for shapes, n in count_by_shapes.items())
    return (outside + inside) / window


def _flops(model: LanguageModel, blocks: list[nn.Module], window: int) -> int:
    """Return the FLOPs of one window through the model with only these blocks."""
    all_blocks, model.blocks = model.blocks, nn.ModuleList(blocks)
    tokens = torch.zeros(1, window, dtype=torch.long, device=model.embedding.weight.device)
    try:
        random = torch.random.fork_rng(devices=[])  # dropout must not advance the generator
        with random, sdpa_kernel(SDPBackend.MATH), _FlopCounter() as counter:  # attention as products with formulas
            F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        return counter.total
    finally:
        model.blocks = all_blocks
        model.zero_grad()


class _FlopCounter(TorchDispatchMode):
    """Adds up torch's FLOP formulas. torch's own FlopCounterMode imports its compiler, which takes a second."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # torch asks; true would import the compiler
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "mkldnn" in func.name():  # fused operations, such as a whole RNN, have no formula
            raise NotImplementedError(func.name())
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Return the number of parameters in each part of the model, such as embedding and norms, and in `total`."""
    parts = dict.fromkeys((*PARTS, "norms", "head", "other"), 0)
    for name, p in model.named_parameters():
        part = next((module for module in name.split(".") if module in (*PARTS, "head")), None)
        if "norm" in name and part != "ffn":
            part = "norms"
        parts[part or "other"] += p.numel()
    parts = {k: n for k, n in parts.items() if n}
    return {**parts, "total": sum(parts.values())}


def non_embedding(model: nn.Module) -> int:
    """Return the number of parameters outside the tables of tokens and positions and an untied output matrix."""
    return sum(p.numel() for p in model.parameters() if role_of(p) not in ("embedding", "position", "head"))


def state_bytes(model: nn.Module, optimizer: Any) -> dict[str, int]:
    """Return the bytes that training holds besides activations: float32 weights, gradients and optimizer state."""
    return _state_bytes(_kinds(model), optimizer)


def _kinds(model: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """Return one parameter of each kind (shape and role), and the number of elements in all parameters of that kind."""
    by_kind: dict[str, list[nn.Parameter]] = defaultdict(list)
    for p in model.parameters():
        by_kind[f"{tuple(p.shape)} {sorted(vars(p).items())}"].append(p)
    return [(ps[0], sum(p.numel() for p in ps)) for ps in by_kind.values()]


def _state_bytes(kinds: list[tuple[nn.Parameter, int]], optimizer: Any) -> dict[str, int]:
    n = sum(numel for _, numel in kinds)
    slots = sum(optimizer.slots(p) * numel for p, numel in kinds)
    return {"weights": 4 * n, "gradients": 4 * n, "optimizer": 4 * slots}


def cache_bytes(model: LanguageModel) -> tuple[int, int]:
    """Return the bytes that generation keeps for one text: a fixed number, and a number per token.

    `model` is on the meta device. Its caches must grow by the same number of bytes with every token.
    """
    model.eval()
    cache, sizes = model.new_cache(), []
    for _ in range(2):
        model(torch.zeros(1, 1, dtype=torch.long, device="meta"), cache)
        sizes.append(cache.n_bytes())
    per_token = sizes[1] - sizes[0]
    return sizes[0] - per_token, per_token


def cost(cfg: Settings) -> dict[str, float]:
    """Return the costs in a run's record: parameters, with and without embeddings, FLOPs per token, bytes of state."""
    counted = architecture(cfg)
    optimizer = registry.build("optimizer", cfg["optimizer"])
    figures = {name: getattr(counted, name) for name in FIGURES}
    return figures | {"state_bytes": sum(_state_bytes(counted.kinds, optimizer).values())}


def figure(cfg: Settings, name: str) -> float:
    """Return one of FIGURES."""
    return getattr(architecture(cfg), name)


class Architecture:
    """The counts of one architecture. FLOPs, which take longest, are counted when they are first asked for."""

    def __init__(self, settings: dict[str, Any]):
        self._settings = settings
        self._model = meta_model(settings)
        self._try_components()
        self.parameters = sum(p.numel() for p in self._model.parameters())
        self.parameters_non_embedding = non_embedding(self._model)
        self.kinds = _kinds(self._model)

    def _try_components(self) -> None:
        """Run the model once if a component is the user's, so that its errors are found before a run is planned."""
        slots = [slot for slot in ("model", *ARCHITECTURE) if slot in SLOTS]
        entries = {slot: registry.entry(slot, self._settings[slot]["name"]) for slot in slots}
        own = {e.cls: (slot, f"{slot}={e.name}") for slot, e in entries.items() if source_hash(e.cls)}
        if own:
            with blaming():
                is_small = _is_small(self._model, self._settings["data"]["window"])
                try_components(self._model, own, in_memory=is_small)

    @functools.cached_property
    def parameters_by_part(self) -> dict[str, int]:
        """The number of parameters in each part of the model, without their total."""
        return {part: n for part, n in parameters_by_part(self._model).items() if part != "total"}

    @functools.cached_property
    def flops_per_token(self) -> float:
        with blaming():
            return flops_per_token(self._model, self._settings["data"]["window"])


def architecture(cfg: Settings) -> Architecture:
    """Return the counts of a config's architecture, computed once for all configs that build the same model."""
    tree = plain(cfg)
    components = tuple(registry.entry(k, tree[k]["name"]).cls for k in ("model", *ARCHITECTURE) if k in SLOTS)
    used = {key: tree[key] for key in (*ARCHITECTURE, "size", "model")}  # what build_model reads, without the seed
    for section, key in (("data", "window"), ("eval", "lengths"), ("train", "dropout"), ("tokenizer", "name")):
        used[section] = {key: tree[section][key]}
    return _counted(components, json.dumps(used | {"seed": 0}, sort_keys=True))


@functools.cache
def _counted(components: tuple[type, ...], settings: str) -> Architecture:
    """Memoise by the classes too: two user files may define different components under one name."""
    return Architecture(json.loads(settings))
