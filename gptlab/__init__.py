"""A lab for architecture ablations of decoder-only language models.

from gptlab import build_model, load_config, train
"""

from typing import Any

__all__ = ["build_model", "load_config", "register", "train"]
_HOMES = {
    "load_config": "config.compose",
    "build_model": "model.build",
    "train": "training.train",
    "register": "config.registry",
}


def __getattr__(name: str) -> Any:  # torch is imported only by whoever needs it
    if name not in _HOMES:
        raise AttributeError(f"module 'gptlab' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"gptlab.{_HOMES[name]}"), name)
