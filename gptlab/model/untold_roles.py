"""Roles that a component does not give to its parameters: those that follow from torch's own layers, or from a trace.

A component may be written with plain nn.Linear, nn.LayerNorm, nn.Embedding and nn.Dropout. It is then as fair to other
arms as one of gptlab's own:

bias        a vector whose name has "bias" in it. That of an nn.Linear starts at 0. `bias=false` removes it from an
            nn.Linear or an nn.LayerNorm; where it is in anything else, the component must do so.
gain        any other vector or scalar
embedding   the weight of an nn.Embedding; position in the slot `position`
residual    the weight of an nn.Linear in an attention, an FFN, a block or a placement if what it gives reaches the
            component's output by sums, reshapes and scales alone: it is the last matrix before the residual stream
head        the weight of an nn.Linear in the head that is the last before the logits
input       the weight of any other nn.Linear

What the output is made of is read from the graph that torch records for the gradients of one forward pass. A matrix
whose place stays unclear, such as one behind a non-linearity, and a matrix that is not in one of these layers must be
given a role: ConfigError. An nn.Dropout gets the random draws of gptlab's.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gptlab.config import ConfigError
from gptlab.model.dropout import Dropout
from gptlab.model.roles import Role, tag

TO_STREAM = ("attention", "ffn", "block", "placement")  # slots whose output becomes part of the residual stream
BIAS_IS_OPTIONAL = (nn.Linear, nn.LayerNorm)  # layers of torch whose bias may be None
MEND = "tag(parameter, role) and Linear(n_in, n_out, bias, role=...) in gptlab.model.roles say it"
N_TOKENS = 4  # of the forward pass
# Nodes of the graph, without "Backward" and a number.
SUMS = ("Add", "Sub", "Sum", "Mean", "Neg", "Cat", "Stack", "IndexAdd", "NativeDropout")
SHAPES = (
    *("View", "UnsafeView", "ReshapeAlias", "Reshape", "Transpose", "Permute", "T", "Expand", "Squeeze", "Unsqueeze"),
    *("Clone", "Slice", "Select", "Split", "SplitWithSizes", "Chunk", "Unbind", "ToCopy", "Alias", "Index", "Repeat"),
)
SCALES = ("Mul", "Div")  # linear if only one factor depends on the input
PRODUCTS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "Mv", "Addmv")
Node = Any  # of torch.autograd.graph


def complete_roles(model: Any, slots: Mapping[type, str], names: Mapping[str, str], *, bias: bool) -> None:
    """Give a role to every parameter of `model` without one, and remove what `bias=false` switches off.

    Args:
        model: a language model; on the meta device it has shapes alone.
        slots: the slot of each component's class.
        names: for each slot, how an error names it, such as `ffn=my_ffn`.
        bias: the switch of the config.

    Raises:
        ConfigError: for a parameter whose role is needed and cannot be told.
    """
    owners = dict(_owners(model, slots))
    for path, module in model.named_modules():
        if type(module) is nn.Dropout:
            module.__class__ = Dropout
        for name, p in list(module.named_parameters(path, recurse=False)):
            if not hasattr(p, "role"):
                _tag_by_layer(module, name, p, owners[path][0])
            if not bias and getattr(p, "role", "") == "bias":
                _drop_bias(module, name, names[owners[path][0]])
    untold = {name: p for name, p in model.named_parameters() if not hasattr(p, "role")}
    if untold:
        _tag_by_trace(model, untold, owners, names)


def _owners(model: nn.Module, slots: Mapping[type, str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield for the path of each module the slot and the path of the component that it belongs to."""

    def walk(module: nn.Module, path: str, owner: tuple[str, str]) -> Iterator[tuple[str, tuple[str, str]]]:
        if type(module) in slots:
            owner = slots[type(module)], path
        yield path, owner
        for name, child in module.named_children():
            yield from walk(child, f"{path}.{name}".lstrip("."), owner)

    return walk(model, "", ("model", ""))


def _tag_by_layer(module: nn.Module, name: str, p: nn.Parameter, slot: str) -> None:
    """Tag a vector, or the table of an nn.Embedding."""
    if p.ndim < 2:
        is_bias = "bias" in name.rpartition(".")[2]
        tag(p, "bias" if is_bias else "gain")
        if is_bias and isinstance(module, nn.Linear):
            nn.init.zeros_(p)
            p.fan_in = module.in_features  # type: ignore[attr-defined]
    elif isinstance(module, nn.Embedding):
        tag(p, "position" if slot == "position" else "embedding")


def _drop_bias(module: nn.Module, name: str, component: str) -> None:
    if not isinstance(module, BIAS_IS_OPTIONAL):
        raise ConfigError(
            f"bias=false: {name} of {component} is a bias; make it depend on a setting `bias: bool = True` after `*`"
        )
    module.register_parameter("bias", None)


def _tag_by_trace(
    model: Any,
    untold: Mapping[str, nn.Parameter],
    owners: Mapping[str, tuple[str, str]],
    names: Mapping[str, str],
) -> None:
    """Tag matrices by whether they are the last before the output of their component."""
    owner_of = {name: owners[name.rpartition(".")[0]] for name in untold}
    modules = dict(model.named_modules())
    for name in untold:
        slot = owner_of[name][0]
        if slot == "model" or not isinstance(modules[name.rpartition(".")[0]], nn.Linear):
            raise ConfigError(f"{names[slot]}: {name} is a matrix whose role is not said; {MEND}")
    traced = {path for slot, path in owner_of.values() if slot in (*TO_STREAM, "head")}
    last, unclear = _trace(model, traced) if traced else (set(), set())
    for name, p in untold.items():
        slot = owner_of[name][0]
        if slot in TO_STREAM and name in unclear:
            raise ConfigError(
                f"{names[slot]}: whether what {name} gives is added to the residual stream cannot be told; say its "
                f"role, residual if it is, else input: {MEND}"
            )
        role: Role = "input"
        if slot in TO_STREAM and name in last:
            role = "residual"
        elif slot == "head" and name in last | unclear:
            role = "head"
        tag(p, role).is_told = False  # type: ignore[attr-defined]


def _trace(model: Any, paths: set[str]) -> tuple[set[str], set[str]]:
    """Run the model once; return the names of the matrices that are the last before the output of a module in `paths`.

    The second set has those of which it is unclear.
    """
    running = zeros_like(model) if next(model.parameters()).is_meta else model
    modules = dict(running.named_modules())
    names = {id(p): name for name, p in running.named_parameters()}
    found: list[_LastMatrices] = []

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found.append(_LastMatrices(output, [x for x in inputs if isinstance(x, Tensor)]))

    hooks = [modules[path].register_forward_hook(look) for path in paths]
    was_training = running.training
    try:
        tokens = torch.zeros(1, min(running.max_len, N_TOKENS), dtype=torch.long)
        with torch.enable_grad(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
            running.eval()(tokens)
    finally:
        running.train(was_training)
        for hook in hooks:
            hook.remove()
    last = {names[id(p)] for each in found for p in each.last if id(p) in names}
    return last, {names[id(p)] for each in found for p in each.unclear if id(p) in names}


def zeros_like(model: Any) -> Any:
    """Return a model of the meta device in memory, with weights of 0.

    Running it is faster than importing the meta device's compiler.
    """
    return copy.deepcopy(model)._apply(lambda t: torch.zeros(t.shape, dtype=t.dtype, device="cpu"))


class _LastMatrices:
    """The matrices that are the last before an output, found by walking back through the graph of its gradients."""

    def __init__(self, output: Tensor, inputs: list[Tensor]) -> None:
        self.last: set[nn.Parameter] = set()  # their products are added up to the output
        self.unclear: set[nn.Parameter] = set()  # something else than a sum happens to their products
        self._inputs = {x.grad_fn for x in inputs if x.grad_fn is not None}
        self._depends: dict[Node, bool] = {}  # whether a node depends on the inputs
        todo, seen = [(output.grad_fn, True)], set()
        while todo:
            step = node, clear = todo.pop()
            if step not in seen and node is not None and self._on_input(node):
                seen.add(step)
                todo += self._before(node, clear)

    def _before(self, node: Node, clear: bool) -> list[tuple[Node, bool]]:
        """Return the nodes to look at next, and whether their values are only added up on the way to the output."""
        if node in self._inputs:
            return []
        kind = type(node).__name__.partition("Backward")[0]
        dependent = [child for child, _ in node.next_functions if child is not None and self._on_input(child)]
        matrices = [p for child, _ in node.next_functions for p in self._parameters(child) if p.ndim >= 2]
        if kind in PRODUCTS and matrices and len(dependent) == 1:
            (self.last if clear else self.unclear).update(matrices)
            return []
        is_linear = kind in (*SUMS, *SHAPES) or (kind in SCALES and len(dependent) == 1)
        return [(child, clear and is_linear) for child in dependent]

    def _on_input(self, node: Node) -> bool:
        """Return whether a node depends on the inputs; the graph may be deep, so this does not call itself."""
        todo = [node]
        while todo:
            at = todo[-1]
            children = [child for child, _ in at.next_functions if child is not None]
            if at in self._inputs:
                self._depends[at] = True
            elif unknown := [child for child in children if child not in self._depends]:
                todo += unknown
                continue
            else:
                self._depends[at] = any(self._depends[child] for child in children)
            todo.pop()
        return self._depends[node]

    def _parameters(self, node: Node) -> list[nn.Parameter]:
        """Return the parameters that a factor is made of, if it does not depend on the inputs."""
        if node is None or self._on_input(node):
            return []
        found, todo, seen = [], [node], {node}
        while todo:
            at = todo.pop()
            if hasattr(at, "variable"):
                found.append(at.variable)
            children = {child for child, _ in at.next_functions if child is not None} - seen
            seen |= children
            todo += children
        return found
