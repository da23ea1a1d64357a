"""Weights under the names and in the layouts of transformers and of gptlab. Numbers are moved, never changed.

A table has one line per module of transformers, with `{}` for each number in its path:
"h.{}.mlp.c_fc": "blocks.{}.ffn.up". The right side is the path of gptlab's module, a tuple of paths of which the model
has one, or a Layout.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PARAMETERS = {"weight": ("weight", "gain", "table"), "bias": ("bias",)}  # names in transformers -> names in gptlab
Order = Callable[[int, int, int], Tensor]  # n_head, n_kv_head, head_dim -> for each of their rows, the row of our stack


@dataclass(frozen=True)
class Layout:
    """One matrix of transformers that holds one or several of gptlab's matrices, stacked by rows."""

    parts: tuple[str, ...]
    transposed: bool = False  # theirs is (n_in, n_out), as in transformers' Conv1D
    order: Order | None = None  # None: gptlab's parts one after the other
    each_row: bool = False  # each of their rows is one of our vectors; the part's path has another {} for it


Entry = str | tuple[str, ...] | Layout
Table = Mapping[str, Entry]
QKV = ("attention.q", "attention.k", "attention.v")


def transposed(*parts: str) -> Layout:
    """Return the layout of a Conv1D that holds these parts."""
    return Layout(parts, transposed=True)


def by_group(n_head: int, n_kv_head: int, head_dim: int) -> Tensor:
    """Order rows by key/value head: its queries, its key, its value."""
    widths = [n_head * head_dim, n_kv_head * head_dim, n_kv_head * head_dim]
    q, k, v = torch.split(torch.arange(sum(widths)), widths)
    groups = [rows.view(n_kv_head, -1) for rows in (q, k, v)]
    return torch.cat(groups, 1).flatten()


def by_quarter(n_head: int, n_kv_head: int, head_dim: int) -> Tensor:
    """Order rows by quarter of the heads: queries, values, keys. CodeGen was trained on four devices."""
    q, k, v = torch.arange(3 * n_head * head_dim).view(3, 4, -1)
    return torch.cat([q, v, k], 1).flatten()


@dataclass(frozen=True)
class TensorMap:
    """Converts one tensor of transformers to the gptlab tensors of the given names, and back."""

    names: tuple[str, ...]
    layout: Layout
    order: Tensor | None

    def to_ours(self, theirs: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Return gptlab's tensors by name; `shapes` has the shapes of all of them."""
        rows = theirs.T if self.layout.transposed and theirs.ndim == 2 else theirs
        if self.layout.each_row:
            return dict(zip(self.names, rows.unbind(0), strict=True))
        if self.order is not None:
            rows = rows[self.order.argsort()]
        return dict(zip(self.names, torch.split(rows, [shapes[n][0] for n in self.names]), strict=True))

    def to_theirs(self, ours: Mapping[str, Tensor]) -> Tensor:
        """Return the tensor of transformers, made of gptlab's tensors by name."""
        parts = [ours[n] for n in self.names]
        if self.layout.each_row:
            return torch.stack(parts)
        rows = torch.cat(parts) if len(parts) > 1 else parts[0]
        if self.order is not None:
            rows = rows[self.order]
        return (rows.T if self.layout.transposed and rows.ndim == 2 else rows).contiguous()


def map_tensors(
    table: Table, theirs: list[str], ours: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, TensorMap]:
    """Return a TensorMap for each name of transformers, such that each tensor of either side is in exactly one.

    Raises:
        KeyError: A tensor has no counterpart; its argument is the name.
    """
    patterns = {re.compile(re.escape(path).replace(r"\{\}", r"(\d+)")): entry for path, entry in table.items()}
    heads = settings["size.n_head"], settings["attention.n_kv_head"], settings["attention.head_dim"]
    maps = {name: _tensor_map(patterns, name, ours, heads) for name in theirs}
    used = [name for tensor_map in maps.values() for name in tensor_map.names]
    if left := set(ours).symmetric_difference(used) or {name for name in used if used.count(name) > 1}:
        raise KeyError(f"{min(left)} of gptlab")
    return maps


def _tensor_map(
    patterns: Mapping[re.Pattern[str], Entry], theirs: str, ours: Mapping[str, Any], heads: tuple[int, int, int]
) -> TensorMap:
    module, _, parameter = theirs.rpartition(".")
    match, entry = next(((m, e) for pattern, e in patterns.items() if (m := pattern.fullmatch(module))), (None, ()))
    for choice in entry if isinstance(entry, tuple) else (entry,):
        layout = choice if isinstance(choice, Layout) else Layout((choice,))
        paths = _paths(layout, match.groups() if match else (), ours, max(heads))
        candidates = [[f"{path}.{name}" for name in PARAMETERS[parameter]] for path in paths]
        names = [name for names in candidates for name in names if name in ours]
        if names and len(names) == len(paths):
            return TensorMap(tuple(names), layout, layout.order(*heads) if layout.order else None)
    raise KeyError(f"{theirs} of transformers")


def _paths(layout: Layout, numbers: tuple[str, ...], ours: Mapping[str, Any], most_rows: int) -> list[str]:
    """Return the paths of gptlab's modules, with the numbers of transformers' path filled in."""
    if not layout.each_row:
        return [part.format(*numbers) for part in layout.parts]
    rows = (layout.parts[0].format(*numbers, row) for row in range(most_rows))
    return [path for path in rows if f"{path}.gain" in ours]
