"""What a model costs: parameters, FLOPs, bytes. Counted on the meta device, where no weight takes memory."""

from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gptlab import registry
from gptlab.components.parameters import role_of
from gptlab.compose import edit
from gptlab.model import GPT, build_model


def meta_model(cfg: Any) -> GPT:
    with torch.device("meta"):
        return build_model(cfg)


def flops_per_token(model: GPT, window: int) -> float:
    """FLOPs of forward and backward per training token, of all matrix products, counted as they run.

    `model` is on the meta device. Attention counts as the full T x T, mask or not, as in arXiv:2204.02311, appendix B.
    Blocks with parameters of the same shapes are counted once and multiplied.
    """
    blocks = list(model.blocks)
    alike = Counter(tuple((n, p.shape) for n, p in block.named_parameters()) for block in blocks)
    one_of = {tuple((n, p.shape) for n, p in block.named_parameters()): block for block in blocks}
    outside = _flops(model, [], window)
    inside = sum(n * (_flops(model, [one_of[shapes]], window) - outside) for shapes, n in alike.items())
    return (outside + inside) / window


def _flops(model: GPT, blocks: list[nn.Module], window: int) -> int:
    """Of one window through the model with these blocks alone."""
    kept, model.blocks = model.blocks, nn.ModuleList(blocks)
    tokens = torch.zeros(1, window, dtype=torch.long, device="meta")
    try:
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        return counter.get_total_flops()
    finally:
        model.blocks = kept
        model.zero_grad()


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Parameters of each part: embedding, position, attention, ffn, norms, head; and `total`."""
    parts = dict.fromkeys(("embedding", "position", "attention", "ffn", "norms", "head", "other"), 0)
    for name, p in model.named_parameters():
        words = name.split(".")
        part = next((w for w in words if w in ("embedding", "position", "attention", "ffn", "head")), None)
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
    n = sum(p.numel() for p in model.parameters())
    return {
        "weights": 4 * n,
        "gradients": 4 * n,
        "optimizer": 4 * sum(optimizer.slots(p) * p.numel() for p in model.parameters()),
    }


def kv_bytes_per_token(cfg: DictConfig) -> int:
    """Bytes of float32 keys and values that one token of generation keeps."""
    model = meta_model(edit(cfg, size__n_layer=1))
    cache = model.new_cache()
    model.eval()(torch.zeros(1, 1, dtype=torch.long, device="meta"), cache)
    return cfg["size"]["n_layer"] * sum(t.numel() * 4 for t in cache.layers[0] or ())


def cost(cfg: Any) -> dict[str, float]:
    """The figures of the record: parameters, parameters without embeddings, FLOPs per token, bytes of state."""
    model = meta_model(cfg)
    optimizer = registry.build("optimizer", cfg["optimizer"])
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters_non_embedding": non_embedding(model),
        "flops_per_token": flops_per_token(model, cfg["data"]["window"]),
        "state_bytes": sum(state_bytes(model, optimizer).values()),
    }
