"""Translation between flags of a transformers config and settings of gptlab: a Field reads flags and writes them.

Flags are a config's own names and values, {"n_embd": 768}. A FlatConfig has gptlab's settings, {"size.dim": 768}:
`read` returns overrides of the baseline, and `write` gets the resolved settings of canonical.py.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gptlab.config import ConfigError

Flags = dict[str, Any]
FlatConfig = dict[str, Any]

# The names of activations in transformers -> the option of ffn, plain or gated. Several names are one function.
PLAIN = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "relu2": "relu2",
}
GATED = {
    "silu": "swiglu",
    "swish": "swiglu",
    "gelu": "geglu",
    "gelu_python": "geglu",
    "gelu_pytorch_tanh": "geglu_tanh",
    "gelu_new": "geglu_tanh",
    "gelu_fast": "geglu_tanh",
    "gelu_python_tanh": "geglu_tanh",
    "relu": "reglu",
    "sigmoid": "glu",
    "linear": "bilinear",
}


class Unsupported(ConfigError):
    """A flag, or a composition of components, that the other side cannot express."""


def refuse(flag: str, value: Any, reason: str) -> Unsupported:
    """Return the error for a flag whose value gptlab cannot express."""
    return Unsupported(f"{flag}={value}: {reason}")


@dataclass(frozen=True)
class Field:
    """Flags of a config, and how they translate. `read` may raise Unsupported, and `write` KeyError."""

    flags: tuple[str, ...]
    read: Callable[[Flags], FlatConfig]
    write: Callable[[FlatConfig], Flags]


def same(flag: str, *settings: str, null: Callable[[Flags], Any] | None = None) -> Field:
    """Return a field that copies a flag's value to one setting, or the same value to several.

    Args:
        flag: The flag.
        settings: The settings; the first one is written back.
        null: The value that the flag's null stands for.
    """

    def read(c: Flags) -> FlatConfig:
        value = null(c) if c[flag] is None and null else c[flag]
        return dict.fromkeys(settings, value)

    return Field((flag,), read, lambda s: {flag: s[settings[0]]})


def choice(flag: str, setting: str, table: dict[Any, Any]) -> Field:
    """Return a field that translates values by a table. If several values mean the same, it writes the first."""

    def read(c: Flags) -> FlatConfig:
        if c[flag] not in table:
            raise refuse(flag, c[flag], f"not among {', '.join(map(str, table))}")
        return {setting: table[c[flag]]}

    def write(s: FlatConfig) -> Flags:
        values = [flag_value for flag_value, value in table.items() if value == s[setting]]
        return {flag: values[0]} if values else {}  # a missing one is noticed when the config is read back

    return Field((flag,), read, write)


def either(flag: str, yes: FlatConfig, no: FlatConfig) -> Field:
    """Return a field for a boolean that stands for several settings; `yes` and `no` have the same keys."""

    def read(c: Flags) -> FlatConfig:
        return dict(yes if c[flag] else no)

    def write(s: FlatConfig) -> Flags:
        return {flag: all(s.get(k) == v for k, v in yes.items())}

    return Field((flag,), read, write)


def biases(flag: str, *settings: str) -> Field:
    """Return a field for a boolean that switches these biases on."""
    return either(flag, dict.fromkeys(settings, True), dict.fromkeys(settings, False))


def only(flag: str, *values: Any, why: str = "only {} is supported") -> Field:
    """Return a field for a flag that must have one of `values`, which mean the same; it writes the first."""

    def read(c: Flags) -> FlatConfig:
        if flag in c and c[flag] not in values:
            raise refuse(flag, c[flag], why.format(" or ".join(map(str, values))))
        return {}

    return Field((flag,), read, lambda s: {flag: values[0]})


def activation(flag: str, *, gated: bool) -> Field:
    """Return a field for the name of an activation."""
    return choice(flag, "ffn", GATED if gated else PLAIN)


def head_dim(flag: str = "head_dim") -> Field:
    """Return a field for the width of a head; null stands for the model's width divided by the heads."""
    return Field((flag,), lambda c: {"attention.head_dim": c.get(flag)}, lambda s: {flag: s["attention.head_dim"]})


def kv_heads(flag: str = "num_key_value_heads") -> Field:
    """Return a field for the number of key/value heads."""
    return Field((flag,), lambda c: {"attention.n_kv_head": c[flag]}, lambda s: {flag: s["attention.n_kv_head"]})


def padding(flag: str = "pad_token_id") -> Field:
    """Return a field for classes whose embedding has a padding_idx: the row of that token gets no gradient."""

    def read(c: Flags) -> FlatConfig:
        if c[flag] is not None and c[flag] < 0:
            raise refuse(flag, c[flag], "must be a token or null")
        return {"embedding.padding_idx": c[flag]}

    return Field((flag,), read, lambda s: {flag: s["embedding.padding_idx"]})


def windows(flag: str = "sliding_window", types: str | None = "layer_types", *, switch: str | None = None) -> Field:
    """Return a field for sliding windows.

    Args:
        flag: The flag of the window's width.
        types: The flag that lists the type of each layer; None if all layers have the window.
        switch: The flag that switches windows on; None if there is none.
    """
    letters = {"sliding_attention": "L", "full_attention": "G"}

    def read(c: Flags) -> FlatConfig:
        layers = (c.get(types) if types else None) or ["sliding_attention"]
        if unknown := set(layers) - set(letters):
            raise refuse(types or "", unknown.pop(), f"not among {', '.join(letters)}")
        pattern = shortest_unit([letters[t] for t in layers])
        if (switch and not c[switch] and not c.get(types or "")) or "L" not in pattern:
            return {"attention.window": None}
        if c[flag] is None:
            if types and c.get(types):
                raise refuse(flag, None, f"{types} has sliding_attention, which needs a width")
            return {"attention.window": None}
        return {"attention.window": c[flag], "attention.pattern": pattern}

    def write(s: FlatConfig) -> Flags:
        width = max((w for w in s["attention.windows"] if w is not None), default=None)
        # Where `types` says it for each layer, the width must not be null, even if no layer has a window.
        flags: Flags = {} if width is None and types else {flag: width}
        if types:
            flags[types] = [("full" if w is None else "sliding") + "_attention" for w in s["attention.windows"]]
        if switch:
            flags[switch] = width is not None
        return flags

    return Field(tuple(f for f in (flag, types, switch) if f), read, write)


def shortest_unit(letters: Sequence[str]) -> str:
    """Return the shortest pattern that gives `letters` when it is repeated over the layers and cut: LGLGL -> LG."""
    n = len(letters)
    unit = next(u for u in range(1, n + 1) if all(letters[i] == letters[i % u] for i in range(n)))
    return "".join(letters[:unit])


def flags_of(fields: Iterable[Field]) -> set[str]:
    """Return the flags that these fields know."""
    return {flag for field in fields for flag in field.flags}
