"""A block's wiring as a text diagram. It cannot be wrong: the block is run on a symbol instead of a tensor."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

from torch import nn

from gptlab.config import registry

LEAVES = ("norm", "attention", "ffn")  # kinds whose components appear by name


class Node:
    """A value of the residual stream: an operation and its inputs."""

    def __init__(self, label: str, *inputs: Node):
        self.label, self.inputs = label, inputs

    def __add__(self, other: Node) -> Node:
        return Node("+", self, other)

    def __mul__(self, factor: Any) -> Node:
        return Node(f"x {factor:g}" if isinstance(factor, float | int) else "scale", self)

    __rmul__ = __mul__


class Leaf(nn.Module):
    """Stand-in for a component that only records the call."""

    def __init__(self, label: str):
        super().__init__()
        self.label = label

    def forward(self, x: Node, *_: Any) -> Node:
        return Node(self.label, x)


def draw_block(block: nn.Module) -> str:
    """Return the diagram of a block, from its input x at the top to its output. The block is unusable afterwards."""
    names = {e.cls: e.name for kind in LEAVES for e in registry.entries(kind)}
    attention = {e.cls for e in registry.entries("attention")}
    replaced: list[str] = []
    for path, module in list(block.named_modules()):
        within_leaf = path.startswith(tuple(f"{leaf}." for leaf in replaced))  # such as the norms of queries and keys
        if type(module) in names and path and not within_leaf:
            parent, _, child = path.rpartition(".")
            label = "attention" if type(module) in attention else names[type(module)]
            setattr(block.get_submodule(parent), child, Leaf(label))
            replaced.append(path)
    x = Node("x")
    try:
        return dedent("\n".join(row.rstrip() for row in _column(block(x, None), x)))
    except (TypeError, AttributeError):  # a user's block that does more than call, add and scale
        return f"{type(block).__name__}: {type(block).__doc__ or ''}".strip()


def _column(node: Node, base: Node) -> list[str]:
    """Return the operations between `base` and `node` as centred rows of one width."""
    if node is base:
        return ["│"]
    if len(node.inputs) == 1:
        below = [] if node.label == "none" else [node.label]
        return _centred([*_column(node.inputs[0], base), *below])
    terms = _terms(node)
    fork = _fork(terms)
    return _centred([*_column(fork, base), *_side_by_side([_column(t, fork) for t in terms])])


def _terms(node: Node) -> list[Node]:
    """Return the terms of a sum: x + (a + b) as x, a, b if all three leave the stream at the same value."""
    left, right = node.inputs
    if right.label == "+" and _fork(_terms(right)) is _fork([left, right]):
        return [left, *_terms(right)]
    return [left, right]


def _fork(terms: list[Node]) -> Node:
    """Return the last value that all terms depend on."""
    return next(n for n in _ancestors(terms[0]) if all(n in _ancestors(t) for t in terms))


def _ancestors(node: Node) -> list[Node]:
    """Return the nodes that every path to `node` passes, from `node` backwards."""
    if not node.inputs:
        return [node]
    paths = [_ancestors(i) for i in node.inputs]
    return [node, *(n for n in paths[0] if all(n in path for path in paths))]


def _side_by_side(columns: list[list[str]]) -> list[str]:
    """Draw the branches of a fork side by side, joined by a sum under the first."""
    height = max(map(len, columns))
    blocks = [_centred([*c, *["│"] * (height - len(c))]) for c in columns]
    widths = [max(len(b[0]) + 4, 9) for b in blocks]
    rows = ["".join(b[i].center(w) for b, w in zip(blocks, widths, strict=True)) for i in range(height)]
    middles = [sum(widths[:i]) + len("x".center(w).split("x")[0]) for i, w in enumerate(widths)]

    def bar(first: str, between: str, last: str) -> str:
        marks = dict.fromkeys(range(middles[0], middles[-1]), "─") | dict.fromkeys(middles, between)
        marks |= {middles[0]: first, middles[-1]: last}
        return "".join(marks.get(i, " ") for i in range(sum(widths)))

    return _shifted([bar("├", "┬", "┐"), *rows, bar("+", "┴", "┘")], middles[0])


def _shifted(rows: list[str], axis: int) -> list[str]:
    """Pad rows until column `axis` is in the middle."""
    width = len(rows[0])
    left, right = max(0, width - 1 - 2 * axis), max(0, 2 * axis + 1 - width)
    return [" " * left + row + " " * right for row in rows]


def _centred(rows: list[str]) -> list[str]:
    width = max(map(len, rows))
    width += 1 - width % 2
    return [(row if len(row) % 2 else row + " ").center(width) for row in rows]
