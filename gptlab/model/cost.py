"""What a model costs: parameters, FLOPs, bytes. Counted on the meta device, where no weight takes memory.

Counting takes a twentieth of a second, and the thousands of cells of a sweep have few architectures: each is counted
once in a process.
"""

import copy
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

from gptlab.config import ARCHITECTURE, SLOTS, AnyConfig, plain, registry
from gptlab.config.compose import edit
from gptlab.model.build import build_model
from gptlab.model.gpt import LanguageModel
from gptlab.model.roles import role_of

FEW = 1e11  # FLOPs of a window that are counted by doing them
PARTS = ("embedding", "position", "attention", "ffn", "hidden", "input", "state")  # words of parameters' names
FIGURES = ("parameters", "parameters_non_embedding", "flops_per_token")


def meta_model(cfg: Any) -> LanguageModel:
    with torch.device("meta"):
        return build_model(cfg)


def flops_per_token(model: LanguageModel, window: int) -> float:
    """FLOPs of forward and backward per training token, of all matrix products, counted as they run.

    `model` is on the meta device. Attention counts as the full T x T, mask or not, as in arXiv:2204.02311, appendix B.
    Blocks with parameters of the same shapes are counted once and multiplied.
    """
    if 6 * window * sum(p.numel() for p in model.parameters()) < FEW:
        with suppress(Exception):  # of a user's component, which training is to meet; of an operation without formula
            return _counted_by_blocks(_of_zeros(model), window)
    return _counted_by_blocks(model, window)


def _counted_by_blocks(model: LanguageModel, window: int) -> float:
    blocks = list(model.blocks)
    alike = Counter(tuple((n, p.shape) for n, p in block.named_parameters()) for block in blocks)
    one_of = {tuple((n, p.shape) for n, p in block.named_parameters()): block for block in blocks}
    outside = _flops(model, [], window)
    inside = sum(n * (_flops(model, [one_of[shapes]], window) - outside) for shapes, n in alike.items())
    return (outside + inside) / window


def _of_zeros(model: LanguageModel) -> LanguageModel:
    """The model in memory: its arithmetic takes less time than the meta device's first, which imports a compiler."""
    return copy.deepcopy(model)._apply(lambda t: torch.zeros(t.shape, dtype=t.dtype, device="cpu"))


def _flops(model: LanguageModel, blocks: list[nn.Module], window: int) -> int:
    """Of one window through the model with these blocks alone."""
    kept, model.blocks = model.blocks, nn.ModuleList(blocks)
    tokens = torch.zeros(1, window, dtype=torch.long, device=model.embedding.weight.device)
    try:
        random = torch.random.fork_rng(devices=[])  # dropout draws, and nothing may come of that
        with random, sdpa_kernel(SDPBackend.MATH), _FlopCounter() as counter:  # separate products, which have formulas
            F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        return counter.total
    finally:
        model.blocks = kept
        model.zero_grad()


class _FlopCounter(TorchDispatchMode):
    """torch's formulas, added up. Its own FlopCounterMode imports torch's compiler, a second before the first step."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # torch's name; false: nothing here needs protection from a compiler
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "mkldnn" in func.name():  # a whole RNN in one, say
            raise NotImplementedError(func.name())
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Parameters of each part: embedding, attention, norms, ..., as far as the model has them; and `total`."""
    parts = dict.fromkeys((*PARTS, "norms", "head", "other"), 0)
    for name, p in model.named_parameters():
        words = name.split(".")
        part = next((w for w in words if w in (*PARTS, "head")), None)
        if "norm" in name and part != "ffn":
            part = "norms"
        parts[part or "other"] += p.numel()
    parts = {k: n for k, n in parts.items() if n}
    return {**parts, "total": sum(parts.values())}


def non_embedding(model: nn.Module) -> int:
    """Parameters without the tables of tokens and positions and without an output matrix of its own."""
    return sum(p.numel() for p in model.parameters() if role_of(p) not in ("embedding", "position", "head"))


def state_bytes(model: nn.Module, optimizer: Any) -> dict[str, int]:
    """Bytes that training holds beside activations: float32 weights, gradients and optimizer state."""
    return _state_bytes(_kinds(model), optimizer)


def _kinds(model: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """One parameter of each kind, that is shape and role, and how many numbers all of its kind have."""
    alike: dict[str, list[nn.Parameter]] = defaultdict(list)
    for p in model.parameters():
        alike[f"{tuple(p.shape)} {sorted(vars(p).items())}"].append(p)
    return [(ps[0], sum(p.numel() for p in ps)) for ps in alike.values()]


def _state_bytes(kinds: list[tuple[nn.Parameter, int]], optimizer: Any) -> dict[str, int]:
    n = sum(numbers for _, numbers in kinds)
    slots = sum(optimizer.slots(p) * numbers for p, numbers in kinds)
    return {"weights": 4 * n, "gradients": 4 * n, "optimizer": 4 * slots}


def kv_bytes_per_token(cfg: AnyConfig) -> int:
    """Bytes of float32 keys and values that one more token of generation keeps; 0 where a state of fixed size does."""
    model = meta_model(edit(cfg, size__n_layer=1)).eval()
    cache, sizes = model.new_cache(), []
    for _ in range(2):
        model(torch.zeros(1, 1, dtype=torch.long, device="meta"), cache)
        sizes.append(cache.n_bytes())
    return cfg["size"]["n_layer"] * (sizes[1] - sizes[0])


def cost(cfg: AnyConfig) -> dict[str, float]:
    """The figures of the record: parameters, parameters without embeddings, FLOPs per token, bytes of state."""
    counted = architecture(cfg)
    optimizer = registry.build("optimizer", cfg["optimizer"])
    figures = {name: getattr(counted, name) for name in FIGURES}
    return figures | {"state_bytes": sum(_state_bytes(counted.kinds, optimizer).values())}


def figure(cfg: AnyConfig, name: str) -> float:
    """One of FIGURES."""
    return getattr(architecture(cfg), name)


class Architecture:
    """What is counted of a model: parameters at once, FLOPs, which take longest, when they are asked for."""

    def __init__(self, components: tuple[type, ...], settings: str):
        self._described = components, settings
        model = _last_model(*self._described)
        self.parameters = sum(p.numel() for p in model.parameters())
        self.parameters_non_embedding = non_embedding(model)
        self.kinds = _kinds(model)

    @functools.cached_property
    def flops_per_token(self) -> float:
        _, settings = self._described
        return flops_per_token(_last_model(*self._described), json.loads(settings)["data"]["window"])


def architecture(cfg: AnyConfig) -> Architecture:
    """The same for all configs that differ in nothing that a model is made of."""
    tree = plain(cfg)
    components = tuple(registry.entry(k, tree[k]["name"]).cls for k in ("model", *ARCHITECTURE) if k in SLOTS)
    read = {key: tree[key] for key in (*ARCHITECTURE, "size", "model")}  # by build_model, but for the seed
    for section, key in (("data", "window"), ("eval", "lengths"), ("train", "dropout"), ("tokenizer", "name")):
        read[section] = {key: tree[section][key]}
    return _counted(components, json.dumps(read | {"seed": 0}, sort_keys=True))


@functools.cache
def _counted(components: tuple[type, ...], settings: str) -> Architecture:
    """The names in `settings` alone would not do: another file of the user's may have another component of a name."""
    return Architecture(components, settings)


@functools.lru_cache(maxsize=1)  # for the FLOPs that are asked for next
def _last_model(components: tuple[type, ...], settings: str) -> LanguageModel:
    return meta_model(json.loads(settings))
