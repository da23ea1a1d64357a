"""What a class registered as each kind must have. It is checked when a config chooses the class."""

import inspect
from types import NoneType
from typing import Any

from gptlab.config.schema import ConfigError

Methods = dict[str, tuple[tuple[str, ...], str]]  # name -> its arguments, and what it does

METHODS: dict[str, Methods] = {
    "model": {"stream": (("tokens", "cache"), "returns the input of the head, (B, T, C)")},
    "block": {"forward": (("x", "position", "cache"), "takes and returns the stream, (B, T, C)")},
    "placement": {
        "branch": (("x", "f"), "returns what the sublayer contributes"),
        "merge": (("x", "y"), "returns the stream afterwards"),
        "forward": (("x", "f"), "joins the sublayer f to the stream"),
    },
    "norm": {"forward": (("x",), "takes and returns (..., C)")},
    "attention": {"forward": (("x", "position", "cache"), "takes and returns (B, T, C)")},
    "position": {
        "embed": (("x", "start"), "returns the changed embeddings"),
        "rotate": (("x", "start", "layer_idx"), "returns the changed queries or keys"),
    },
    "ffn": {"forward": (("x",), "takes and returns (B, T, C)")},
    "embedding": {"forward": (("tokens",), "returns (B, T, C) for tokens (B, T)")},
    "head": {"forward": (("x", "embedding"), "returns the logits (B, T, V)")},
    "init": {"draw": (("p", "role", "gain", "generator"), "fills the parameter p in place")},
    "optimizer": {
        "build": (("parameters",), "returns a list of torch.optim.Optimizer"),
        "slots": (("p",), "returns how many numbers of state each number of p costs"),
    },
    "schedule": {"factor": (("t", "peak"), "returns the share of the peak, from 0 to 1")},
    "data": {"text": ((), "returns the whole text")},
    "tokenizer": {
        "fit": (("train", "val"), "returns a Tokenizer"),
        "from_json": (("state",), "returns the Tokenizer that to_json described"),
    },
}
TASK: Methods = {
    "slices": (("window",), "returns the names of the difficulties"),
    "training": (("rng", "n", "window"), "returns the Examples of a step"),
    "validation": (("rng", "n", "window"), "returns Examples"),
}
MODULES = ("model", "block", "placement", "norm", "attention", "position", "ffn", "embedding", "head")
SETTINGS = {"optimizer": ("lr",)}  # settings that a component must have, since others read them
# Attributes of the object that the class makes, with their types.
ATTRIBUTES: dict[str, dict[str, tuple[type, ...]]] = {
    "tokenizer": {"cache_key": (str,), "fixed_vocab_size": (int, NoneType)},
    "optimizer": {"lr": (int, float)},
    "match": {"figure": (str,)},
}


def check_class(kind: str, name: str, cls: type, settings: list[str]) -> None:
    """Check that a class has what its kind needs. Raises ConfigError, one line with the mend."""
    if kind in MODULES and not any(c.__module__ == "torch.nn.modules.module" for c in cls.__mro__):
        raise ConfigError(f"{kind}={name}: {cls.__name__} is no torch module; derive it from {_base(kind)}")
    if kind in SETTINGS and (missing := [s for s in SETTINGS[kind] if s not in settings]):
        raise ConfigError(f"{kind}={name}: {cls.__name__} has no setting {missing[0]!r}; write it after * in __init__")
    is_task = kind == "data" and getattr(cls, "makes_tokens", False)
    check_methods(f"{kind}={name}", cls, TASK if is_task else METHODS.get(kind, {}), _base(kind))


def _base(kind: str) -> str:
    return {
        "model": "gptlab.model.gpt.LanguageModel",
        "placement": "gptlab.model.placement.Placement",
        "position": "gptlab.model.position.Position",
    }.get(kind, "nn.Module" if kind in MODULES else "")


def check_methods(place: str, cls: type, methods: Methods, base: str = "") -> None:
    """Check that `cls` has these methods, and that they take their arguments; `place` begins the ConfigError."""
    for name, (arguments, meaning) in methods.items():
        method: Any = getattr(cls, name, None)
        text = f"{name}({', '.join(arguments)})"
        is_missing = not callable(method) or getattr(method, "__isabstractmethod__", False)
        if is_missing or getattr(method, "__name__", "") == "_forward_unimplemented":
            derive = f", or derive it from {base}" if base.startswith("gptlab.") else ""
            raise ConfigError(f"{place}: {cls.__name__} has no {text}, which {meaning}; add it{derive}")
        bound = isinstance(inspect.getattr_static(cls, name), staticmethod | classmethod)
        try:
            inspect.signature(method).bind(*([] if bound else ["self"]), *arguments)
        except TypeError as e:
            raise ConfigError(f"{place}: {cls.__name__}.{name} must take {text} ({e}); correct its arguments") from e
        except ValueError:  # a method that is not written in Python shows no signature
            continue


def check_made(kind: str, name: str, made: Any) -> None:
    """Check the attributes of the object that a component's class has made. Raises ConfigError."""
    task = {"vocab_size": (int,)} if kind == "data" and getattr(made, "makes_tokens", False) else {}
    for attribute, types in (ATTRIBUTES.get(kind, {}) | task).items():
        value = getattr(made, attribute, ...)
        if not isinstance(value, types):
            wanted = " or ".join("None" if t is NoneType else t.__name__ for t in types)
            is_now = "has none" if value is ... else f"has {value!r:.40}"
            raise ConfigError(
                f"{kind}={name}: {type(made).__name__} needs an attribute {attribute}, {wanted}; it {is_now}: set it"
            )
