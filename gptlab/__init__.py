"""A lab for architecture ablations of decoder-only language models.

from gptlab import build_model, load_config, train
"""

from typing import Any

__all__ = ["build_model", "load_config", "register", "train"]
_MODULES = {
    "load_config": "config.compose",
    "build_model": "model.build",
    "train": "training.train",
    "register": "config.registry",
}


def __getattr__(name: str) -> Any:  # imported on first use: torch takes seconds
    if name not in _MODULES:
        raise AttributeError(f"module 'gptlab' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"gptlab.{_MODULES[name]}"), name)
