"""torch.compile for many runs in one process.

All models share the code of their forward pass and of the loss, and flex_attention is shared too. Dynamo keeps a
limited number of compiled versions of a function, and runs it uncompiled from then on, without a word. So versions of
other architectures are dropped when a run starts, and a run that reaches the limit all the same fails.
"""

from typing import Any

from gptlab.config import ARCHITECTURE, Settings, plain
from gptlab.model.attention_kernels import note_kernel

MAX_VERSIONS = 64  # of one function within runs of one architecture; torch has 8
SHAPES = {
    "data": ("window",),
    "train": ("batch_size", "micro_batch_size", "loss_chunk", "dropout"),
    "eval": ("lengths",),
}
_compiled_for: list[Any] = []  # the architecture whose versions Dynamo holds; at most one


def prepare_compiler(cfg: Settings, precision: str) -> int:
    """Make room for the compiled functions of a run; return how many graphs this process has compiled before it."""
    import torch
    import torch._dynamo  # it takes seconds, which runs that compile nothing need not spend
    from torch._dynamo import config

    tree = plain(cfg)
    key = [precision, *(tree[name] for name in ("model", "size", *ARCHITECTURE))]
    key += [tree[section][name] for section, names in SHAPES.items() for name in names]
    if _compiled_for != [key]:
        torch._dynamo.reset()
        _compiled_for[:] = [key]
    torch.compiler.assume_constant_result(note_kernel)  # marks it; its effect must not be part of a graph
    config.recompile_limit = MAX_VERSIONS
    config.fail_on_recompile_limit_hit = True
    return compiled_graphs()


def compiled_graphs() -> int:
    """Return the number of graphs that this process has compiled, those of failed compilations included."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
