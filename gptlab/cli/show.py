"""`gptlab show`: a config, its block and its costs, without training it."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from gptlab.config import ARCHITECTURE, SLOTS, ConfigError, Settings, flatten, registry
from gptlab.config.compose import load_config
from gptlab.config.diff import diff_from_baseline
from gptlab.config.overrides import typed
from gptlab.model.build import build_init, slots_used
from gptlab.model.cost import (
    cache_bytes,
    flops_per_token,
    meta_model,
    non_embedding,
    parameters_by_part,
    state_bytes,
)
from gptlab.model.diagram import draw_block
from gptlab.model.gpt import LanguageModel


def show(overrides: Iterable[str], console: Console) -> dict[str, Any]:
    """Print the differences from the baseline, the block, parameters by part, FLOPs and bytes; return them as data."""
    cfg = load_config(overrides)
    if cfg.model.vocab_size is None:
        raise ConfigError(
            f"model.vocab_size=null: tokenizer={cfg.tokenizer.name} learns it from the text; add model.vocab_size=65"
        )
    described = _describe(cfg)
    console.print(_differences_table(described["differences"]))
    console.print()
    console.print(described["block"], highlight=False, markup=False, soft_wrap=True)
    if described["init"]:
        console.print(f"init: {described['init']}\n", markup=False, highlight=False, soft_wrap=True)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for part, n in described["parameters"].items():
        table.add_row(f"parameters, {part}", f"{n:,}")
    table.add_row("parameters without embeddings", f"{described['parameters_non_embedding']:,}")
    table.add_row(f"FLOPs per training token, window {described['window']:,}", f"{described['flops_per_token']:.4g}")
    for kind, n_bytes in described["bytes"].items():
        table.add_row(f"bytes of {kind}", _bytes(n_bytes))
    table.add_row("bytes of KV cache per token", _bytes(described["cache_bytes"]["per_token"]))
    if described["cache_bytes"]["fixed"]:
        table.add_row("bytes of recurrent state", _bytes(described["cache_bytes"]["fixed"]))
    console.print(table)
    return described


def _describe(cfg: Settings) -> dict[str, Any]:
    model = meta_model(cfg)
    baseline = flatten(load_config())
    init = build_init(cfg)
    fixed, per_token = cache_bytes(model)
    return {
        "differences": {key: {"value": v, "baseline": baseline.get(key)} for key, v in diff_from_baseline(cfg).items()},
        "init": init.describe() if hasattr(init, "describe") else None,
        "parameters": parameters_by_part(model),
        "parameters_non_embedding": non_embedding(model),
        "window": cfg.data.window,
        "flops_per_token": flops_per_token(model, cfg.data.window),
        "bytes": state_bytes(model, registry.build("optimizer", cfg.optimizer)),
        "cache_bytes": {"per_token": per_token, "fixed": fixed},
        "block": _drawing(model, cfg),  # last: drawing replaces the block's parts by symbols
    }


def _drawing(model: LanguageModel, cfg: Settings) -> str:
    """Draw the model from tokens to logits, or describe it in words if it has no slot `block`."""
    used = slots_used(cfg)
    if "block" not in used:
        components = [f"{slot}={cfg[slot].name}" for slot in ARCHITECTURE if slot in SLOTS and slot in used]
        summary = f"model={cfg.model.name}: {registry.entry('model', cfg.model.name).summary}"
        return "\n".join([summary, *([f"with {', '.join(components)}"] if components else []), ""])
    block = "\n".join(f"    {row}" for row in draw_block(model.blocks[0]).splitlines())
    return (
        f"tokens -> {_embedding(model, cfg)}, position={cfg.position.name}\n\n{block}\n\n    x {_layers(cfg)}"
        f"\n\n-> {_head(model, cfg)} -> logits\n"
    )


def _embedding(model: LanguageModel, cfg: Settings) -> str:
    """Describe the path of a token to the first block. A user's own embedding may lack any of these attributes."""
    table = model.embedding
    scale = getattr(table, "scale", 1)
    scaled = isinstance(scale, float | int) and scale != 1
    norm = [] if getattr(table, "norm", None) is None else _norm(cfg)
    return " -> ".join([f"embedding x {scale:.4g}" if scaled else "embedding", *norm, *_projection(table)])


def _layers(cfg: Settings) -> str:
    """Describe the number of layers, the kinds that a pattern mixes, and the norm of queries and keys."""
    n, details = cfg.size.n_layer, []
    for slot in ("attention", "position"):
        pattern = cfg[slot].get("pattern") or "-"
        kinds = Counter(pattern[i % len(pattern)] for i in range(n))
        if len(kinds) > 1:
            details.append(f"{slot}.pattern: " + " ".join(f"{count} {kind}" for kind, count in kinds.items()))
    if cfg.qk_norm.name != "none":
        details.append(f"q, k -> {cfg.qk_norm.name} over {cfg.attention.get('qk_norm_over', 'head')}")
    return "; ".join([f"{n} layers", *details])


def _head(model: LanguageModel, cfg: Settings) -> str:
    steps = [] if isinstance(model.norm, nn.Identity) else _norm(cfg)
    scale, softcap = getattr(model.head, "scale", 1), cfg.head.get("softcap")
    matrix = f"head ({'tied' if cfg.head.get('tied') else 'untied'})"
    steps += [*_projection(model.head), matrix if scale == 1 else f"{matrix} x {scale:.4g}"]
    return " -> ".join(steps + ([f"softcap {softcap:g}"] if softcap else []))


def _norm(cfg: Settings) -> list[str]:
    return [] if cfg.norm.name == "none" else [cfg.norm.name]


def _projection(part: nn.Module) -> list[str]:
    """Describe the projection between the width of a table and that of the stream."""
    project = getattr(part, "project", None)
    return [f"{project.in_features} to {project.out_features}"] if isinstance(project, nn.Linear) else []


def _differences_table(differences: dict[str, dict[str, Any]]) -> Table | str:
    table = Table(box=None, pad_edge=False)
    for column in ("setting", "here", "baseline"):
        table.add_column(column)
    baseline = flatten(load_config())
    for key, values in differences.items():
        cells = (key, typed(values["value"]), typed(values["baseline"]) if key in baseline else "-")
        table.add_row(*map(Text, cells))  # a list in brackets is no markup
    return table if table.row_count else "the baseline"


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:,.4g} {unit}"
        n /= 1024
    return f"{n:,.4g} TiB"
