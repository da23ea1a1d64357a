"""Measurements of one eager pass of a model over a probe batch.

The pass changes nothing: neither weights, gradients, random streams nor any module's training mode. Its hooks need only
what every model has, `blocks`, and in each block `attention` and `ffn`, so that all wirings and users' own components
are measured. A measurement is NaN where a model lacks the part. Values by layer are lists.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gptlab.model.attention_kernels import ScoreRule, observe_attention, scores
from gptlab.model.gpt import LanguageModel
from gptlab.model.loss import cross_entropy
from gptlab.model.roles import role_of

BRANCHES = ("attention", "ffn")
BINS, REACH = 64, 4.0  # a histogram goes from -REACH to REACH root mean squares; values beyond are counted at its ends
SILENT = 0.01  # times the layer's root mean square: a unit below it passes on next to nothing
SATURATED = 0.97  # a tanh output beyond this lets hardly any gradient through
QUERIES = 512  # queries whose attention scores are in memory at once
NAN = float("nan")

Snapshot = dict[str, Any]


def probe_activations(
    model: LanguageModel, inputs: Tensor, targets: Tensor, autocast: AbstractContextManager[Any], *, full: bool = False
) -> Snapshot:
    """Measure a pass over inputs and targets, (B, T) int64; L is the number of blocks.

    stream_rms               root mean square of the stream before the first block and after each: L + 1 values
    attention_rms, ffn_rms   root mean square of a branch's output, before any norm or scale that follows
    logits/max               the largest logit
    logits/entropy           mean entropy of the prediction, nats

    `full` adds the measurements of `_with_gradients`.
    """
    with ExitStack() as stack:
        stack.enter_context(_evaluating(model))
        hooks = stack.enter_context(_Hooks(model, keep_tensors=full))
        stack.enter_context(torch.set_grad_enabled(full))
        stack.enter_context(autocast)
        logits = model.logits(model.stream(inputs)).flatten(0, 1)  # (B T, V)
        snapshot: Snapshot = {"stream_rms": _floats(map(rms, hooks.stream))}
        snapshot |= {f"{name}_rms": _floats(map(rms, hooks.branches[name])) for name in BRANCHES}
        log_p = logits.detach().float().log_softmax(-1)
        largest, entropy = _floats([logits.max(), -(log_p.exp() * log_p).sum(-1).mean()])
        snapshot |= {"logits/max": largest, "logits/entropy": entropy}
        if full:
            loss, extra = cross_entropy(logits, targets.flatten()), model.auxiliary_loss(logits)
            snapshot |= _with_gradients(model, hooks, loss if extra is None else loss + extra)
    return snapshot


def _with_gradients(model: LanguageModel, hooks: "_Hooks", loss: Tensor) -> Snapshot:
    """Return the measurements that need whole tensors or the gradients of `loss`, which training minimises.

    stream_grad_rms            root mean square of the loss's gradient with respect to the stream: L + 1 values
    stream_effective_rank      exp of the entropy of its normalised singular values (Roy & Vetterli 2007): L + 1 values
    attention_entropy          nats by layer and head, mean over the queries
    attention_logit_max        by layer and head, after scale and soft cap
    ffn_silent, ffn_dead       share of hidden values close to zero, and of units close to zero for every token
    tanh_saturated             share of a block's tanh outputs beyond 0.97, in norms, soft caps or activations
    probe/grad_norm            norm of the gradient of each block's parameters
    probe/residual_grad_norm   the same for the matrices that write into the stream
    histogram/...              of stream, stream_grad, weights and grads, for each block
    """
    saturated = _floats(_saturated(end, start) for start, end in zip(hooks.stream, hooks.stream[1:], strict=False))
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    tensors = [*hooks.stream, *params.values()]
    gradients = [
        torch.zeros_like(t) if g is None else g
        for t, g in zip(
            tensors, torch.autograd.grad(loss, tensors, allow_unused=True), strict=True
        )  # leaves .grad alone
    ]
    of_stream, of_params = gradients[: len(hooks.stream)], gradients[len(hooks.stream) :]
    norms = dict(zip(params, _floats(torch._foreach_norm(of_params)), strict=True))
    weights = _matrices(model, list(params.values()), params)
    grads = _matrices(model, of_params, params)
    return {
        "stream_grad_rms": _floats(map(rms, of_stream)),
        "stream_effective_rank": [effective_rank(x) for x in hooks.stream],
        "attention_entropy": [_listed(x) for x in hooks.entropy],
        "attention_logit_max": [_listed(x) for x in hooks.largest],
        "ffn_silent": _floats(map(_share_silent, hooks.hidden)),
        "ffn_dead": _floats(map(_share_dead, hooks.hidden)),
        "tanh_saturated": saturated,
        "probe/grad_norm": by_layer(norms, len(model.blocks)),
        "probe/residual_grad_norm": residual_by_layer(norms, model),
        "histogram/stream": [histogram(x) for x in hooks.stream[1:]],
        "histogram/stream_grad": [histogram(x) for x in of_stream[1:]],
        "histogram/weights": [histogram(x) for x in weights],
        "histogram/grads": [histogram(x) for x in grads],
    }


class _Hooks:
    """Forward hooks that record a pass: tensors if `keep_tensors`, else only their root mean squares."""

    def __init__(self, model: LanguageModel, *, keep_tensors: bool):
        n = len(model.blocks)
        self.blocks: list[Any] = list(model.blocks)
        self.keep_tensors = keep_tensors
        self.layer = 0  # the block that is being computed
        self.stream: list[Tensor] = []
        self.branches: dict[str, list[Tensor | None]] = {name: [None] * n for name in BRANCHES}
        self.hidden: list[Tensor | None] = [None] * n  # the input of the FFN's last matrix
        self.entropy: list[Tensor | None] = [None] * n  # (H,)
        self.largest: list[Tensor | None] = [None] * n  # (H,)
        self._stack = ExitStack()

    def __enter__(self) -> "_Hooks":
        for layer, block in enumerate(self.blocks):
            self._on(block.register_forward_pre_hook(partial(self._enter_block, layer)))
            self._on(block.register_forward_hook(self._leave_block))
            for name in BRANCHES:
                if isinstance(branch := getattr(block, name, None), nn.Module):
                    self._on(branch.register_forward_hook(partial(self._leave_branch, name)))
            for last in _residual_layers(getattr(block, "ffn", None)) if self.keep_tensors else ():
                self._on(last.register_forward_pre_hook(self._enter_last))
        if self.keep_tensors:
            self._stack.enter_context(observe_attention(self._attend))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _on(self, handle: Any) -> None:
        self._stack.callback(handle.remove)

    def _keep(self, x: Tensor) -> Tensor:
        return x if self.keep_tensors else rms(x)

    def _enter_block(self, layer: int, block: nn.Module, args: tuple[Any, ...]) -> None:
        self.layer = layer
        if layer == 0:
            self.stream = [self._keep(args[0])]

    def _leave_block(self, block: nn.Module, args: Any, x: Any) -> None:
        self.stream.append(self._keep(x[0] if isinstance(x, tuple) else x))  # a recurrent block also returns its state

    def _leave_branch(self, name: str, branch: nn.Module, args: Any, y: Tensor) -> None:
        self.branches[name][self.layer] = self._keep(y)

    def _enter_last(self, last: nn.Module, args: tuple[Any, ...]) -> None:
        self.hidden[self.layer] = args[0].detach()

    @torch.no_grad()
    def _attend(self, q: Tensor, k: Tensor, rule: ScoreRule) -> None:
        """Compute the attention scores of all heads, QUERIES queries at a time; q (B, H, T, D), k (B, H_kv, T, D)."""
        entropies, largest = [], []
        for end in range(QUERIES, q.shape[-2] + QUERIES, QUERIES):
            s = scores(q[..., end - QUERIES : end, :].float(), k[..., :end, :].float(), rule)  # (B, H, ., .)
            entropies.append(torch.special.entr(s.softmax(-1)).sum(-1))
            largest.append(s.amax((0, 2, 3)))
        self.entropy[self.layer] = torch.cat(entropies, -1).mean((0, 2))
        self.largest[self.layer] = torch.stack(largest).amax(0)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Turn dropout off, and afterwards put each module back into its mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def rms(x: Tensor | None) -> Tensor:
    """Return the root mean square; NaN for None. A single value that is one already stays the same."""
    return torch.tensor(NAN) if x is None else x.detach().float().square().mean().sqrt()


def by_layer(norms: dict[str, float], n_layer: int) -> list[float]:
    """Combine norms of single parameters, by name, into one norm for each block."""
    squares = [0.0] * n_layer
    for name, norm in norms.items():
        if (layer := layer_of(name)) is not None:
            squares[layer] += norm**2
    return [math.sqrt(x) for x in squares]


def residual_by_layer(norms: dict[str, float], model: LanguageModel) -> list[float]:
    """Combine the norms of the matrices that write into the stream, as arXiv:2002.04745 compares layers.

    NaN for a model without such matrices.
    """
    roles = {name: role_of(p) for name, p in model.named_parameters()}
    if "residual" not in roles.values():
        return [NAN] * len(model.blocks)
    return by_layer({k: v for k, v in norms.items() if roles[k] == "residual"}, len(model.blocks))


def layer_of(name: str) -> int | None:
    """Return the layer of a parameter in a block, and None for other parameters."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blocks" else None


def _residual_layers(ffn: object) -> list[nn.Module]:
    """Return the layers of an FFN that write into the stream."""
    modules = ffn.modules() if isinstance(ffn, nn.Module) else ()
    return [m for m in modules if isinstance(w := getattr(m, "weight", None), Tensor) and role_of(w) == "residual"]


def _matrices(model: LanguageModel, tensors: list[Tensor], params: dict[str, nn.Parameter]) -> list[Tensor]:
    """Return for each block its matrices, or their gradients, flattened into one vector."""
    parts: list[list[Tensor]] = [[] for _ in model.blocks]
    for (name, p), t in zip(params.items(), tensors, strict=True):
        if (layer := layer_of(name)) is not None and p.ndim >= 2:
            parts[layer].append(t.detach().flatten())
    return [torch.cat(part) if part else torch.full((1,), NAN) for part in parts]


def histogram(x: Tensor) -> dict[str, Any]:
    """Count the finite values in BINS equal bins from `low` to `high`."""
    x = x.detach().float().flatten()
    x = x[x.isfinite()]
    end = REACH * float(x.square().mean().sqrt()) if len(x) else 0.0
    if not 0 < end < math.inf:
        end = REACH
    counts = torch.histc(x.clamp(-end, end), BINS, -end, end).long()
    return {"low": -end, "high": end, "counts": counts.tolist()}


def effective_rank(x: Tensor) -> float:
    """Return the number of directions over which the tokens of x (B, T, C) spread, from 1 to C."""
    flat = x.detach().flatten(0, -2).cpu().double()
    gram = flat @ flat.T if flat.shape[0] < flat.shape[1] else flat.T @ flat
    if not gram.isfinite().all():
        return NAN
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    return float(torch.special.entr(singular / singular.sum()).sum().exp())


def _silent(h: Tensor) -> Tensor:
    return h.float().abs() <= SILENT * rms(h)


def _share_silent(h: Tensor | None) -> Tensor:
    return torch.tensor(NAN) if h is None else _silent(h).float().mean()


def _share_dead(h: Tensor | None) -> Tensor:
    return torch.tensor(NAN) if h is None else _silent(h).flatten(0, -2).all(0).float().mean()


def _saturated(end: Tensor, start: Tensor) -> Tensor:
    """Return the share of saturated tanh outputs between a block's end and its start, found in autograd's graph."""
    outputs: list[Tensor] = []
    visited, pending = {start.grad_fn}, [end.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if node.name() == "TanhBackward0":
            outputs.append(node._saved_result.flatten())  # type: ignore[attr-defined]
        pending += [earlier for earlier, _ in node.next_functions]
    return (torch.cat(outputs).abs() > SATURATED).float().mean() if outputs else torch.tensor(NAN)


def _floats(tensors: Any) -> list[float]:
    """Return single-element tensors as numbers, with one wait for the device instead of one for each."""
    values = [t.detach().float() for t in tensors]
    device = next((t.device for t in values if t.device.type != "cpu"), torch.device("cpu"))
    return torch.stack([t.to(device) for t in values]).tolist() if values else []


def _listed(x: Tensor | None) -> list[float]:
    return [] if x is None else x.tolist()
