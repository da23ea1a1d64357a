"""How flags of a transformers config and settings of gptlab say the same thing: one Field reads them and writes them.

Flags are a config's own names and values, {"n_embd": 768}; settings are ours, {"size.dim": 768}. What `read` gives are
overrides of the baseline; what `write` gets are the resolved settings of settings.py.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gptlab.config import ConfigError

Flags = dict[str, Any]
Settings = dict[str, Any]

# transformers' names of activations -> ffn, plain and gated.  Several names are one function.
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
    """A flag whose meaning no component has."""


def refuse(flag: str, value: Any, reason: str) -> Unsupported:
    return Unsupported(f"{flag}={value}: {reason}")


@dataclass(frozen=True)
class Field:
    """Some flags of a config, and what they are in settings. `read` raises Unsupported, `write` KeyError."""

    flags: tuple[str, ...]
    read: Callable[[Flags], Settings]
    write: Callable[[Settings], Flags]


def same(flag: str, *settings: str, null: Callable[[Flags], Any] | None = None) -> Field:
    """One value under another name; under several, which must agree. `null`: what the flag's null stands for."""

    def read(c: Flags) -> Settings:
        value = null(c) if c[flag] is None and null else c[flag]
        return dict.fromkeys(settings, value)

    return Field((flag,), read, lambda s: {flag: s[settings[0]]})


def choice(flag: str, setting: str, table: dict[Any, Any]) -> Field:
    """A flag's values translated; of several that mean the same, the first is written."""

    def read(c: Flags) -> Settings:
        if c[flag] not in table:
            raise refuse(flag, c[flag], f"not among {', '.join(map(str, table))}")
        return {setting: table[c[flag]]}

    def write(s: Settings) -> Flags:
        names = [k for k, v in table.items() if v == s[setting]]
        return {flag: names[0]} if names else {}  # then it shows when read back

    return Field((flag,), read, write)


def either(flag: str, yes: Settings, no: Settings) -> Field:
    """A boolean that stands for several settings. `yes` and `no` have the same keys."""

    def read(c: Flags) -> Settings:
        return dict(yes if c[flag] else no)

    def write(s: Settings) -> Flags:
        return {flag: all(s.get(k) == v for k, v in yes.items())}

    return Field((flag,), read, write)


def biases(flag: str, *settings: str) -> Field:
    """A boolean that gives these places a bias."""
    return either(flag, dict.fromkeys(settings, True), dict.fromkeys(settings, False))


def only(flag: str, *values: Any, why: str = "only {} is supported") -> Field:
    """A flag that must have one of `values`, which all mean the same here; the first is written."""

    def read(c: Flags) -> Settings:
        if flag in c and c[flag] not in values:
            raise refuse(flag, c[flag], why.format(" or ".join(map(str, values))))
        return {}

    return Field((flag,), read, lambda s: {flag: values[0]})


def activation(flag: str, *, gated: bool) -> Field:
    return choice(flag, "ffn", GATED if gated else PLAIN)


def head_dim(flag: str = "head_dim") -> Field:
    """Null: the width divided by the heads."""
    return Field((flag,), lambda c: {"attention.head_dim": c.get(flag)}, lambda s: {flag: s["attention.head_dim"]})


def kv_heads(flag: str = "num_key_value_heads") -> Field:
    return Field((flag,), lambda c: {"attention.n_kv_head": c[flag]}, lambda s: {flag: s["attention.n_kv_head"]})


def padding(flag: str = "pad_token_id") -> Field:
    """For classes whose embedding has a padding_idx: that row gets no gradient."""

    def read(c: Flags) -> Settings:
        if c[flag] is not None and c[flag] < 0:
            raise refuse(flag, c[flag], "must be a token or null")
        return {"embedding.padding_idx": c[flag]}

    return Field((flag,), read, lambda s: {flag: s["embedding.padding_idx"]})


def windows(flag: str = "sliding_window", types: str | None = "layer_types", *, switch: str | None = None) -> Field:
    """Sliding windows: in all layers, or in those that `types` calls sliding_attention."""
    names = {"sliding_attention": "L", "full_attention": "G"}

    def read(c: Flags) -> Settings:
        layers = (c.get(types) if types else None) or ["sliding_attention"]
        if unknown := set(layers) - set(names):
            raise refuse(types or "", unknown.pop(), f"not among {', '.join(names)}")
        pattern = shortest_unit([names[t] for t in layers])
        if (switch and not c[switch] and not c.get(types or "")) or "L" not in pattern:
            return {"attention.window": None}
        if c[flag] is None:
            if types and c.get(types):
                raise refuse(flag, None, f"{types} has sliding_attention, which needs a width")
            return {"attention.window": None}
        return {"attention.window": c[flag], "attention.pattern": pattern}

    def write(s: Settings) -> Flags:
        width = max((w for w in s["attention.windows"] if w is not None), default=None)
        # Where `types` says it of each layer, the width may not be null, even if no layer has one.
        flags: Flags = {} if width is None and types else {flag: width}
        if types:
            flags[types] = [("full" if w is None else "sliding") + "_attention" for w in s["attention.windows"]]
        if switch:
            flags[switch] = width is not None
        return flags

    return Field(tuple(f for f in (flag, types, switch) if f), read, write)


def shortest_unit(letters: Sequence[str]) -> str:
    """The shortest pattern that, repeated over the layers and cut, gives `letters`: LGLGL -> LG."""
    n = len(letters)
    unit = next(u for u in range(1, n + 1) if all(letters[i] == letters[i % u] for i in range(n)))
    return "".join(letters[:unit])


def flags_of(fields: Iterable[Field]) -> set[str]:
    return {flag for field in fields for flag in field.flags}
