"""One eager pass of a model over a probe batch, and what is seen in it. It changes nothing: neither weights, gradients,
the streams of random numbers nor who is in training mode.

Hooks hang on what every block has, `blocks` in the model and in each of them `attention` and `ffn`, so that all wirings
and users' own components are measured; what a component has no such part for is NaN. Values by layer are lists.
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
BINS, REACH = 64, 4.0  # of a histogram, which goes from -REACH to REACH root mean squares; what is beyond, at its ends
SILENT = 0.01  # of the layer's root mean square: a unit below it passes nothing on
SATURATED = 0.97  # of a tanh: hardly any gradient comes through
QUERIES = 512  # that have attention scores at once
NAN = float("nan")

Look = dict[str, Any]


def measure(
    model: LanguageModel, inputs: Tensor, targets: Tensor, autocast: AbstractContextManager, *, full: bool = False
) -> Look:
    """Of inputs and targets (B, T), int64.

    stream_rms      root mean square of the stream before the first block and after each: L + 1 values
    attention_rms, ffn_rms   of what the branch gives, before whatever norm or scale comes after it
    logits/max, logits/entropy   the largest; the mean entropy of the prediction, in nats
    """
    with ExitStack() as stack:
        stack.enter_context(_evaluating(model))
        seen = stack.enter_context(_Hooks(model, whole=full))
        stack.enter_context(torch.set_grad_enabled(full))
        stack.enter_context(autocast)
        logits = model.logits(model.stream(inputs)).flatten(0, 1)  # (B T, V)
        look: Look = {"stream_rms": _floats(map(rms, seen.stream))}
        look |= {f"{name}_rms": _floats(map(rms, seen.branches[name])) for name in BRANCHES}
        log_p = logits.detach().float().log_softmax(-1)
        largest, entropy = _floats([logits.max(), -(log_p.exp() * log_p).sum(-1).mean()])
        look |= {"logits/max": largest, "logits/entropy": entropy}
        if full:
            loss, extra = cross_entropy(logits, targets.flatten()), model.auxiliary_loss(logits)
            look |= _full(model, seen, loss if extra is None else loss + extra)
    return look


def _full(model: LanguageModel, seen: "_Hooks", loss: Tensor) -> Look:
    """With the gradients of `loss`, which training minimises, as means over the probe's tokens.

    stream_grad_rms          of the loss's gradient with respect to the stream: L + 1 values
    stream_effective_rank    exp of the entropy of its singular values as shares (Roy & Vetterli 2007): L + 1 values
    attention_entropy, attention_logit_max   by layer and head: nats, mean over the queries; after scale and soft cap
    ffn_silent, ffn_dead     share of hidden values that are next to nothing, and of units that are so for every token
    tanh_saturated           share of a block's tanh outputs beyond 0.97, in norms, soft caps or activations
    probe/grad_norm, probe/residual_grad_norm   of the parameters' gradient, as `by_layer` and `residual_by_layer`
    histogram/...            stream, stream_grad, weights and grads, for each block
    """
    saturated = _floats(_saturated(end, start) for start, end in zip(seen.stream, seen.stream[1:], strict=False))
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    wanted = [*seen.stream, *params.values()]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)  # into no parameter's .grad
    gradients = [torch.zeros_like(t) if g is None else g for t, g in zip(wanted, found, strict=True)]
    of_stream, of_params = gradients[: len(seen.stream)], gradients[len(seen.stream) :]
    norms = dict(zip(params, _floats(torch._foreach_norm(of_params)), strict=True))
    weights = _matrices(model, list(params.values()), params)
    grads = _matrices(model, of_params, params)
    return {
        "stream_grad_rms": _floats(map(rms, of_stream)),
        "stream_effective_rank": [effective_rank(x) for x in seen.stream],
        "attention_entropy": [_listed(x) for x in seen.entropy],
        "attention_logit_max": [_listed(x) for x in seen.largest],
        "ffn_silent": _floats(map(_share_silent, seen.hidden)),
        "ffn_dead": _floats(map(_share_dead, seen.hidden)),
        "tanh_saturated": saturated,
        "probe/grad_norm": by_layer(norms, len(model.blocks)),
        "probe/residual_grad_norm": residual_by_layer(norms, model),
        "histogram/stream": [histogram(x) for x in seen.stream[1:]],
        "histogram/stream_grad": [histogram(x) for x in of_stream[1:]],
        "histogram/weights": [histogram(x) for x in weights],
        "histogram/grads": [histogram(x) for x in grads],
    }


class _Hooks:
    """What forward hooks see of a pass. Whole tensors where `whole`, else only their root mean squares."""

    def __init__(self, model: LanguageModel, *, whole: bool):
        n = len(model.blocks)
        self.blocks: list[Any] = list(model.blocks)
        self.whole = whole
        self.layer = 0  # the block we are in
        self.stream: list[Tensor] = []
        self.branches: dict[str, list[Tensor | None]] = {name: [None] * n for name in BRANCHES}
        self.hidden: list[Tensor | None] = [None] * n  # of the FFN, what its last matrix reads
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
            for last in _writers(getattr(block, "ffn", None)) if self.whole else ():
                self._on(last.register_forward_pre_hook(self._enter_last))
        if self.whole:
            self._stack.enter_context(observe_attention(self._attend))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _on(self, handle: Any) -> None:
        self._stack.callback(handle.remove)

    def _keep(self, x: Tensor) -> Tensor:
        return x if self.whole else rms(x)

    def _enter_block(self, layer: int, block: nn.Module, args: tuple[Any, ...]) -> None:
        self.layer = layer
        if layer == 0:
            self.stream = [self._keep(args[0])]

    def _leave_block(self, block: nn.Module, args: Any, x: Any) -> None:
        self.stream.append(self._keep(x[0] if isinstance(x, tuple) else x))  # a recurrent one gives its state too

    def _leave_branch(self, name: str, branch: nn.Module, args: Any, y: Tensor) -> None:
        self.branches[name][self.layer] = self._keep(y)

    def _enter_last(self, last: nn.Module, args: tuple[Any, ...]) -> None:
        self.hidden[self.layer] = args[0].detach()

    @torch.no_grad()
    def _attend(self, q: Tensor, k: Tensor, rule: ScoreRule) -> None:
        """q (B, H, T, D), k (B, H_kv, T, D): the scores of all heads, by the equation, some queries at a time."""
        entropies, largest = [], []
        for end in range(QUERIES, q.shape[-2] + QUERIES, QUERIES):
            s = scores(q[..., end - QUERIES : end, :].float(), k[..., :end, :].float(), rule)  # (B, H, ., .)
            entropies.append(torch.special.entr(s.softmax(-1)).sum(-1))
            largest.append(s.amax((0, 2, 3)))
        self.entropy[self.layer] = torch.cat(entropies, -1).mean((0, 2))
        self.largest[self.layer] = torch.stack(largest).amax(0)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout; afterwards each module is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def rms(x: Tensor | None) -> Tensor:
    """Root mean square, of a root mean square itself; NaN of nothing."""
    return torch.tensor(NAN) if x is None else x.detach().float().square().mean().sqrt()


def by_layer(norms: dict[str, float], n_layer: int) -> list[float]:
    """For each block the norm of all its parameters together, from the norm of each by name."""
    squares = [0.0] * n_layer
    for name, norm in norms.items():
        if (layer := layer_of(name)) is not None:
            squares[layer] += norm**2
    return [math.sqrt(x) for x in squares]


def residual_by_layer(norms: dict[str, float], model: LanguageModel) -> list[float]:
    """The same of the matrices that write into the stream, which arXiv:2002.04745 compares layers by; NaN of none."""
    roles = {name: role_of(p) for name, p in model.named_parameters()}
    found = by_layer({k: v for k, v in norms.items() if roles[k] == "residual"}, len(model.blocks))
    return found if "residual" in roles.values() else [NAN] * len(found)


def layer_of(name: str) -> int | None:
    """Of a parameter in a block; None of the others."""
    words = name.split(".")
    return int(words[1]) if words[0] == "blocks" else None


def _writers(ffn: object) -> list[nn.Module]:
    """The layers within it that write into the stream."""
    modules = ffn.modules() if isinstance(ffn, nn.Module) else ()
    return [m for m in modules if isinstance(w := getattr(m, "weight", None), Tensor) and role_of(w) == "residual"]


def _matrices(model: LanguageModel, tensors: list[Tensor], params: dict[str, nn.Parameter]) -> list[Tensor]:
    """For each block its matrices, or their gradients, flat and one after the other."""
    parts: list[list[Tensor]] = [[] for _ in model.blocks]
    for (name, p), t in zip(params.items(), tensors, strict=True):
        if (layer := layer_of(name)) is not None and p.ndim >= 2:
            parts[layer].append(t.detach().flatten())
    return [torch.cat(part) if part else torch.full((1,), NAN) for part in parts]


def histogram(x: Tensor) -> dict[str, Any]:
    """Counts of the finite values in BINS equal bins from `low` to `high`."""
    x = x.detach().float().flatten()
    x = x[x.isfinite()]
    end = REACH * float(x.square().mean().sqrt()) if len(x) else 0.0
    if not 0 < end < math.inf:
        end = REACH
    counts = torch.histc(x.clamp(-end, end), BINS, -end, end).long()
    return {"low": -end, "high": end, "counts": counts.tolist()}


def effective_rank(x: Tensor) -> float:
    """Of (B, T, C): from 1 to C, how many directions the tokens spread over."""
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
    """From the results that autograd keeps of each tanh between a block's end and its start."""
    outputs: list[Tensor] = []
    seen, waiting = {start.grad_fn}, [end.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "TanhBackward0":
            outputs.append(node._saved_result.flatten())  # type: ignore[attr-defined]
        waiting += [before for before, _ in node.next_functions]
    return (torch.cat(outputs).abs() > SATURATED).float().mean() if outputs else torch.tensor(NAN)


def _floats(tensors: Any) -> list[float]:
    """One wait for the device, not one for each."""
    own = [t.detach().float() for t in tensors]
    there = next((t.device for t in own if t.device.type != "cpu"), torch.device("cpu"))
    return torch.stack([t.to(there) for t in own]).tolist() if own else []


def _listed(x: Tensor | None) -> list[float]:
    return [] if x is None else x.tolist()
