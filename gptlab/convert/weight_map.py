"""Weights under the names and in the layout of transformers, and of gptlab. Every number is moved, none is changed.

A table has one line per module of theirs, `{}` for each number in its path: "h.{}.mlp.c_fc": "blocks.{}.ffn.up".
The right side is the path of our module, a tuple of paths of which the model has one, or a Layout.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

OURS = {"weight": ("weight", "gain", "table"), "bias": ("bias",)}  # their word for a parameter -> ours
Order = Callable[[int, int, int], Tensor]  # n_head, n_kv_head, head_dim -> for each of their rows, the row of our stack


@dataclass(frozen=True)
class Layout:
    """One matrix of theirs as one or several of ours, rows upon rows."""

    parts: tuple[str, ...]
    transposed: bool = False  # theirs is (n_in, n_out), as transformers' Conv1D
    order: Order | None = None  # null: our parts one after the other
    each_row: bool = False  # each row of theirs is a vector of ours; the one part ends in a {} more


Table = Mapping[str, str | tuple[str, ...] | Layout]


def transposed(*parts: str) -> Layout:
    return Layout(parts, transposed=True)


QKV = tuple(f"blocks.{{}}.attention.{x}" for x in "qkv")


def by_group(n_head: int, n_kv_head: int, head_dim: int) -> Tensor:
    """For each key/value head: its query heads, the key, the value."""
    q, k, v = torch.arange((n_head + 2 * n_kv_head) * head_dim).split(
        [n_head * head_dim, n_kv_head * head_dim, n_kv_head * head_dim]
    )
    groups = [x.view(n_kv_head, -1) for x in (q, k, v)]
    return torch.cat(groups, 1).flatten()


@dataclass(frozen=True)
class Place:
    """Where one tensor of theirs has its numbers with us."""

    names: tuple[str, ...]
    layout: Layout
    order: Tensor | None

    def to_ours(self, theirs: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        t = theirs.T if self.layout.transposed and theirs.ndim == 2 else theirs
        if self.layout.each_row:
            return dict(zip(self.names, t.unbind(0), strict=True))
        if self.order is not None:
            t = t[self.order.argsort()]
        return dict(zip(self.names, t.split([shapes[n][0] for n in self.names]), strict=True))

    def to_theirs(self, ours: Mapping[str, Tensor]) -> Tensor:
        parts = [ours[n] for n in self.names]
        if self.layout.each_row:
            return torch.stack(parts)
        t = torch.cat(parts) if len(parts) > 1 else parts[0]
        if self.order is not None:
            t = t[self.order]
        return (t.T if self.layout.transposed and t.ndim == 2 else t).contiguous()


def places(table: Table, theirs: list[str], ours: Mapping[str, Any], settings: dict[str, Any]) -> dict[str, Place]:
    """For each name of theirs its Place; each weight of either side is in just one. Raises KeyError with its name."""
    patterns = {re.compile(re.escape(k).replace(r"\{\}", r"(\d+)")): v for k, v in table.items()}
    heads = tuple(settings[k] for k in ("size.n_head", "attention.n_kv_head", "attention.head_dim"))
    found = {name: _place(patterns, name, ours, heads) for name in theirs}
    used = [n for place in found.values() for n in place.names]
    if left := set(ours).symmetric_difference(used) or {n for n in used if used.count(n) > 1}:
        raise KeyError(f"{min(left)} of gptlab")
    return found


def _place(patterns: dict[re.Pattern, Any], name: str, ours: Mapping[str, Any], heads: tuple[int, ...]) -> Place:
    module, _, word = name.rpartition(".")
    match, entry = next(((m, v) for k, v in patterns.items() if (m := k.fullmatch(module))), (None, ()))
    if match is None:
        raise KeyError(f"{name} of transformers")
    ways = (entry,) if isinstance(entry, str | Layout) else entry
    layouts = [way if isinstance(way, Layout) else Layout((way,)) for way in ways]
    for layout in layouts:
        paths = [p.format(*match.groups(), "{}") for p in layout.parts]
        if layout.each_row:
            paths = [paths[0].format(i) for i in range(max(heads))]
            paths = [p for p in paths if f"{p}.gain" in ours]
        names = [next((n for w in OURS[word] if (n := f"{p}.{w}") in ours), None) for p in paths]
        if names and all(names):
            return Place(tuple(n for n in names if n), layout, layout.order(*heads) if layout.order else None)
    raise KeyError(f"{name} of transformers")
