"""`gptlab show`: what a config comes to, without training it."""

from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from torch import nn

from gptlab.config import ARCHITECTURE, SLOTS, ConfigError, flatten, plain, registry
from gptlab.config import Settings as DictConfig
from gptlab.config.compose import load_config, typed
from gptlab.config.diff import diff_from_baseline
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


def show(overrides: Iterable[str], console: Console) -> None:
    """Differences from the baseline, the block, parameters by part, FLOPs and bytes."""
    cfg = load_config(overrides)
    if cfg.model.vocab_size is None:
        raise ConfigError(
            f"model.vocab_size=null: tokenizer={cfg.tokenizer.name} learns it from the text; add model.vocab_size=65"
        )
    model = meta_model(cfg)
    console.print(_differences(cfg))
    console.print()
    parts, free = parameters_by_part(model), non_embedding(model)
    flops = flops_per_token(model, cfg.data.window)
    fixed, per_token = cache_bytes(model)
    state = state_bytes(model, registry.build("optimizer", cfg.optimizer))
    console.print(_drawing(model, cfg), highlight=False, soft_wrap=True)
    if hasattr(init := build_init(plain(cfg)), "describe"):
        console.print(f"init: {init.describe()}\n", highlight=False, soft_wrap=True)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for part, n in parts.items():
        table.add_row(f"parameters, {part}", f"{n:,}")
    table.add_row("parameters without embeddings", f"{free:,}")
    table.add_row(f"FLOPs per training token, window {cfg.data.window:,}", f"{flops:.4g}")
    for kind, n_bytes in state.items():
        table.add_row(f"bytes of {kind}", _bytes(n_bytes))
    table.add_row("bytes of KV cache per token", _bytes(per_token))
    if fixed:
        table.add_row("bytes of recurrent state", _bytes(fixed))
    console.print(table)


def _drawing(model: LanguageModel, cfg: DictConfig) -> str:
    """From tokens to logits; a model without the slot `block` is told in words."""
    read = slots_used(plain(cfg))
    if "block" not in read:
        has = [f"{slot}={cfg[slot].name}" for slot in ARCHITECTURE if slot in SLOTS and slot in read]
        what = f"model={cfg.model.name}: {registry.entry('model', cfg.model.name).summary}"
        return "\n".join([what, *([f"with {', '.join(has)}"] if has else []), ""])
    block = "\n".join(f"    {row}" for row in draw_block(model.blocks[0]).splitlines())
    return (
        f"tokens -> {_embedding(model, cfg)}, position={cfg.position.name}\n\n{block}\n\n    x {_layers(cfg)}"
        f"\n\n-> {_head(model, cfg)} -> logits\n"
    )


def _embedding(model: LanguageModel, cfg: DictConfig) -> str:
    """What becomes of a token before the first block; a user's own embedding may have none of it."""
    table = model.embedding
    scale = getattr(table, "scale", 1)
    scaled = isinstance(scale, float | int) and scale != 1
    norm = [] if getattr(table, "norm", None) is None else _norm(cfg)
    return " -> ".join([f"embedding x {scale:.4g}" if scaled else "embedding", *norm, *_projection(table)])


def _layers(cfg: DictConfig) -> str:
    """How many, of each kind where a pattern has several, and what queries and keys go through."""
    n, found = cfg.size.n_layer, []
    for slot in ("attention", "position"):
        pattern = cfg[slot].get("pattern") or "-"
        kinds = Counter(pattern[i % len(pattern)] for i in range(n))
        if len(kinds) > 1:
            found.append(f"{slot}.pattern: " + " ".join(f"{count} {kind}" for kind, count in kinds.items()))
    if cfg.qk_norm.name != "none":
        found.append(f"q, k -> {cfg.qk_norm.name} over {cfg.attention.get('qk_norm_over', 'head')}")
    return "; ".join([f"{n} layers", *found])


def _head(model: LanguageModel, cfg: DictConfig) -> str:
    steps = [] if isinstance(model.norm, nn.Identity) else _norm(cfg)
    scale, softcap = getattr(model.head, "scale", 1), cfg.head.get("softcap")
    matrix = f"head ({'tied' if cfg.head.get('tied') else 'untied'})"
    steps += [*_projection(model.head), matrix if scale == 1 else f"{matrix} x {scale:.4g}"]
    return " -> ".join(steps + ([f"softcap {softcap:g}"] if softcap else []))


def _norm(cfg: DictConfig) -> list[str]:
    return [] if cfg.norm.name == "none" else [cfg.norm.name]


def _projection(part: nn.Module) -> list[str]:
    """From the width of a table to the stream's, or back."""
    project = getattr(part, "project", None)
    return [f"{project.in_features} to {project.out_features}"] if isinstance(project, nn.Linear) else []


def _differences(cfg: DictConfig) -> Table | str:
    baseline = flatten(plain(load_config()))
    table = Table(box=None, pad_edge=False)
    for column in ("setting", "here", "baseline"):
        table.add_column(column)
    for key, value in diff_from_baseline(cfg).items():
        table.add_row(key, typed(value), typed(baseline[key]) if key in baseline else "-")
    return table if table.row_count else "the baseline"


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:,.4g} {unit}"
        n /= 1024
    return f"{n:,.4g} TiB"
