"""A forward pass of the user's components on shapes alone or on zeros, before a run is planned with them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gptlab.config import ConfigError
from gptlab.model.untold_roles import zeros_like

N_TOKENS = 8
SAME_SHAPE = ("block", "attention", "ffn", "norm", "qk_norm")  # slots whose component returns the shape that came in


def try_components(model: Any, components: Mapping[type, tuple[str, str]], *, in_memory: bool) -> None:
    """Run the model once, and check what each of `components` returns.

    Args:
        model: a language model on the meta device.
        components: the user's classes, with their slot and how an error names them, such as `ffn=my_ffn`.
        in_memory: run it on zeros in memory, not on shapes.

    Raises:
        ConfigError: a component returned something else than its kind does.
    """
    running = zeros_like(model) if in_memory else model
    device = next(running.parameters()).device
    tokens = torch.zeros(2, min(running.max_len, N_TOKENS), dtype=torch.long, device=device)
    hooks = [
        module.register_forward_hook(_looking(*components[type(module)], n_tokens=tokens.shape))
        for module in running.modules()
        if type(module) in components
    ]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            running(tokens)
    finally:
        for hook in hooks:
            hook.remove()


def _looking(slot: str, name: str, n_tokens: torch.Size) -> Callable[[nn.Module, Any, Any], None]:
    """Return a forward hook that checks what a component returns."""

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        shape = tuple(output.shape) if isinstance(output, Tensor) else None
        if slot in SAME_SHAPE and inputs and isinstance(inputs[0], Tensor):
            expected, said = tuple(inputs[0].shape), "the shape that came in"
        elif slot in ("model", "embedding", "head"):  # the last dimension is theirs to choose
            expected, said = (*n_tokens, *(shape or (0,))[-1:]), "(B, T, ...) for B rows of T tokens"
        else:
            return
        if shape != expected:
            got = f"a tensor of shape {shape}" if shape is not None else "None" if output is None else type(output)
            raise ConfigError(f"{name}: forward returned {got}, not one of shape {expected}; return {said}")

    return look
