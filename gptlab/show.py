"""`gptlab show`: what a config comes to, without training it."""

from collections.abc import Iterable

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from gptlab import registry
from gptlab.compose import differences, load_config, plain, typed
from gptlab.config import ConfigError, flatten
from gptlab.drawing import draw_block
from gptlab.measure import (
    flops_per_token,
    kv_bytes_per_token,
    meta_model,
    non_embedding,
    parameters_by_part,
    state_bytes,
)


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
    position, n_layer = cfg.position.name, cfg.size.n_layer
    console.print(f"tokens -> embedding, position={position}\n", highlight=False)
    parts, free = parameters_by_part(model), non_embedding(model)
    flops = flops_per_token(model, cfg.data.window)
    state = state_bytes(model, registry.build("optimizer", cfg.optimizer))
    final = type(model.norm).__name__
    console.print("\n".join(f"    {row}" for row in draw_block(model.blocks[0]).splitlines()), highlight=False)
    console.print(f"\n    x {n_layer} layers", highlight=False)
    norm = "" if final == "Identity" else f"{cfg.norm.name} -> "
    console.print(f"\n-> {norm}head ({'tied' if cfg.head.get('tied') else 'untied'}) -> logits\n", highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for part, n in parts.items():
        table.add_row(f"parameters, {part}", f"{n:,}")
    table.add_row("parameters without embeddings", f"{free:,}")
    table.add_row(f"FLOPs per training token, window {cfg.data.window:,}", f"{flops:.4g}")
    for kind, n_bytes in state.items():
        table.add_row(f"bytes of {kind}", _bytes(n_bytes))
    table.add_row("bytes of KV cache per token", _bytes(kv_bytes_per_token(cfg)))
    console.print(table)


def _differences(cfg: DictConfig) -> Table | str:
    baseline = flatten(plain(load_config()))
    table = Table(box=None, pad_edge=False)
    for column in ("setting", "here", "baseline"):
        table.add_column(column)
    for key, value in differences(cfg).items():
        table.add_row(key, typed(value), typed(baseline[key]) if key in baseline else "-")
    return table if table.row_count else "the baseline"


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:,.4g} {unit}"
        n /= 1024
    return f"{n:,.4g} TiB"
