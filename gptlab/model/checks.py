"""Checks of a component inside a tiny model: that it is causal, trainable and fair to the other arms.

A check takes a Subject and returns a remark for the report. It raises CheckFailed with the fault and how to fix it.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gptlab.config import Settings, registry
from gptlab.config.compose import load_config
from gptlab.model.build import build_model
from gptlab.model.cost import flops_per_token, meta_model
from gptlab.model.gpt import LanguageModel
from gptlab.model.roles import ROLES, role_of

VOCAB, WINDOW, LAYERS = 32, 16, 2
TINY_SIZE = (f"size.n_layer={LAYERS}", "size.n_head=4", "size.dim=32")
TINY = (*TINY_SIZE, f"data.window={WINDOW}", "tokenizer=char", f"model.vocab_size={VOCAB}")
ROUNDING = 1e-5  # share of the largest logit that may change where a component computes in float32
NO_GRADIENT = 1e-12
MOST_ERROR_IN_BF16 = 0.1  # share of the logits' norm; gptlab's own components are near 0.01


class CheckFailed(Exception):
    """A fault of a component and how to fix it, in one line."""


@dataclass(frozen=True)
class Subject:
    """A component, the slot that it is tried in, and what else the tiny model is made of."""

    slot: str
    entry: registry.Entry
    overrides: tuple[str, ...] = ()
    base: tuple[str, ...] = TINY

    def config(self, *more: str) -> Settings:
        """Return the config of the tiny model with the component in its slot. It has no dropout."""
        chosen = f"{self.slot}={self.entry.name}"
        return load_config([*self.base, chosen, *self.overrides, *more, "train.dropout=0"])

    def model(self, *more: str) -> LanguageModel:
        """Return the tiny model as a run would start it."""
        return build_model(self.config(*more))

    def telling_model(self) -> LanguageModel:
        """Return the model in float64 with weights so large that each of them shows in the logits."""
        model = self.model().double().eval()
        initial = {name: p.detach().clone() for name, p in model.named_parameters()}
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(0.4 * _noise(name, p.shape) + (1.0 if role_of(p) == "gain" else 0.0))
            if not model(tokens(model)).isfinite().all():  # these weights are outside the component's domain
                for name, p in model.named_parameters():
                    p.copy_(initial[name])
        return model

    def own_modules(self, model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        """Yield the component's modules in the model, by path, without those of components in its own slots."""
        others = {e.cls for e in registry.entries()} - {self.entry.cls}

        def walk(module: nn.Module, path: str, inside: bool) -> Iterator[tuple[str, nn.Module]]:
            inside = isinstance(module, self.entry.cls) or (inside and type(module) not in others)
            if inside:
                yield path, module
            for name, child in module.named_children():
                yield from walk(child, f"{path}.{name}".lstrip("."), inside)

        return walk(model, "", False)

    def own_parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return the component's parameters in the model, by path."""
        parameters = {
            f"{path}.{name}".lstrip("."): p
            for path, module in self.own_modules(model)
            for name, p in module.named_parameters(recurse=False)
        }
        return parameters if self.slot != "init" else dict(model.named_parameters())  # an init draws those of all


def _noise(name: str, shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())), dtype=torch.float64)


def tokens(model: LanguageModel, n_rows: int = 2) -> Tensor:
    """Return random tokens that fill the model's window, (n_rows, T) int64, the same at every call."""
    n_tokens, generator = model.embedding.weight.shape[0], torch.Generator().manual_seed(1)
    return torch.randint(n_tokens, (n_rows, model.max_len), generator=generator)


def builds(subject: Subject) -> str:
    """Check that the model builds, on the meta device too, and returns logits of the right shape."""
    model = subject.model()
    x = tokens(model)
    expected = (*x.shape, subject.config().model.vocab_size)
    for device, made in (("cpu", model), ("meta", meta_model(subject.config()))):
        shape = tuple(made(x.to(device)).shape)
        if shape != expected:
            raise CheckFailed(f"logits have shape {shape} on {device}, not {expected}; return the shape that came in")
    n_own = sum(p.numel() for p in subject.own_parameters(model).values())
    return f"{n_own:,} of the model's {sum(p.numel() for p in model.parameters()):,} parameters"


def has_roles(subject: Subject) -> str:
    """Check that initialisation and weight decay know what each parameter is for."""
    parameters = subject.own_parameters(subject.model())
    for name, p in parameters.items():
        if role_of(p) not in ROLES:
            raise CheckFailed(f"{name} has the role {role_of(p)!r}; choose from {', '.join(ROLES)}")
    by_role = {role: [name for name, p in parameters.items() if role_of(p) == role] for role in ROLES}
    roles = [f"{role}: {_last_names(names)}" for role, names in by_role.items() if names]
    return "; ".join(roles) or "no parameters"


def _last_names(names: Sequence[str]) -> str:
    """Return the parameters of one layer by their last two names: `up.weight, down.weight`."""
    return ", ".join(dict.fromkeys(".".join(name.split(".")[-2:]) for name in names))


def is_causal(subject: Subject) -> str:
    """Check that a token changes no logits before it, nor those of another row, in evaluation and in training."""
    model = subject.telling_model()
    before = tokens(model)
    changed, t = before.clone(), model.max_len // 2
    changed[0, t] = (changed[0, t] + 1) % model.embedding.weight.shape[0]
    leaks = getattr(subject.entry.cls, "leaks", False)
    for mode in ("evaluation",) if leaks else ("evaluation", "training"):
        model.train(mode == "training")
        with torch.no_grad():
            logits, after = model(before), model(changed)
        difference = (logits - after).abs().amax(2) / logits.abs().max()  # (B, T)
        earlier = [i for i in range(t) if difference[0, i] > ROUNDING]
        if earlier:
            raise CheckFailed(
                f"in {mode} a change of token {t} changes the logits at position {earlier[0]}; "
                f"mask what comes after each position"
            )
        if difference[1].max() > ROUNDING:
            raise CheckFailed(
                f"in {mode} a change in one row of the batch changes another row; compute each row on its own"
            )
        if difference[0, t:].max() == 0:
            raise CheckFailed(f"a change of token {t} changes no logits at all; the model does not read its input")
    return "in training it leaks, as `leaks = True` says" if leaks else "in evaluation and in training"


def agrees_with_cache(subject: Subject) -> str:
    """Check that the cache changes no logits when some tokens are read together, then the rest one by one."""
    model = subject.telling_model()
    x = tokens(model)
    cache, n_first = model.new_cache(), model.max_len // 3
    with torch.no_grad():
        whole = model(x)
        parts = [model(x[:, :n_first], cache)]
        parts += [model(x[:, i : i + 1], cache) for i in range(n_first, x.shape[1])]
    difference = ((torch.cat(parts, 1) - whole).abs().amax((0, 2)) / whole.abs().max()).tolist()
    if wrong := [i for i, d in enumerate(difference) if not d <= ROUNDING]:
        start = "the tokens read at once" if wrong[0] < n_first else "a token read alone"
        raise CheckFailed(
            f"with a cache the logits at position {wrong[0]} ({start}) differ by {difference[wrong[0]]:.1g} of the "
            f"largest; keep what later tokens need in the cache, and count positions from the number of cached tokens"
        )
    return f"{len(difference)} positions"


def has_gradients(subject: Subject) -> str:
    """Check that the loss has a gradient in every parameter of the component."""
    model = subject.telling_model().train()
    x = tokens(model)
    logits = model(x)
    loss, extra = F.cross_entropy(logits.flatten(0, 1), x.roll(-1).flatten()), model.auxiliary_loss(logits)
    (loss if extra is None else loss + extra).backward()
    parameters = subject.own_parameters(model)
    for name, p in parameters.items():
        if p.grad is None:
            raise CheckFailed(f"{name} has no gradient; use it in forward, or remove it")
        if not p.grad.isfinite().all():
            raise CheckFailed(f"{name} has a gradient that is not finite; avoid 0/0, sqrt(0) and overflow")
        # A bias may have no effect by design: softmax does not see what is added to all scores of a query.
        if p.grad.abs().max() <= NO_GRADIENT and role_of(p) != "bias":
            raise CheckFailed(f"{name} has a gradient of zero; it does not change the loss: use it, or remove it")
    return f"in all {len(parameters)} parameters" if parameters else "no parameters"


def obeys_bias_switch(subject: Subject) -> str:
    """Check that `bias=false` leaves no bias in the component."""
    model = subject.model("bias=false")
    named = [name for name, p in subject.own_parameters(model).items() if role_of(p) == "bias" or "bias" in name]
    named += [f"{path}.bias" for path, m in subject.own_modules(model) if getattr(m, "bias", None) is not None]
    if named:
        raise CheckFailed(
            f"{named[0].lstrip('.')} is still there; make it depend on a setting `bias: bool = True` after `*`, "
            f"or on `bias` before it"
        )
    return "no bias is left"


def is_finite_in_bf16(subject: Subject) -> str:
    """Check that in bf16, by autocast or by weights, loss and gradients are finite and logits near float32's."""
    reference = subject.model().train()
    with torch.no_grad():
        exact = reference(tokens(reference))
    for how, autocast in (("under bf16 autocast", True), ("with bf16 weights", False)):
        model = subject.model().train()
        if not autocast:
            for p in model.parameters():
                p.data = p.data.bfloat16()
        x = tokens(model)
        with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
            logits = model(x).float()
        loss = F.cross_entropy(logits.flatten(0, 1), x.roll(-1).flatten())
        if not loss.isfinite():
            raise CheckFailed(f"the loss is {loss.item()} {how}; compute sensitive parts in float32: x.float()")
        if (error := float((logits.detach() - exact).norm() / exact.norm())) > MOST_ERROR_IN_BF16:
            raise CheckFailed(f"logits are {error:.0%} off {how}; compute sensitive parts in float32: x.float()")
        loss.backward()
        for name, p in model.named_parameters():
            if p.grad is not None and not p.grad.isfinite().all():
                raise CheckFailed(f"the gradient of {name} is not finite {how}; compute sensitive parts in float32")
    return "under autocast and with bf16 weights"


class _Uncounted(TorchDispatchMode):
    """Records the operations that do much arithmetic but for which the FLOP counter has no formula."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, name = func.name().partition("::")
        is_large = name.startswith(("fft", "_fft", "linalg", "_linalg")) and name != "linalg_vector_norm"
        if is_large or namespace not in ("aten", "prim", "prims"):
            self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def has_countable_cost(subject: Subject) -> str:
    """Check that its FLOPs can be counted, which `match=flops` and the record of a run need."""
    model = meta_model(subject.config())
    flops = flops_per_token(model, subject.config().data.window)
    if not math.isfinite(flops):
        raise CheckFailed(f"{flops} FLOPs per token; write large products as matrix products")
    real = subject.model()
    with _Uncounted() as uncounted:
        real(tokens(real))
    if uncounted.names:
        raise CheckFailed(
            f"{', '.join(sorted(uncounted.names))} is not in the FLOP count, so budgets in FLOPs and match=flops would "
            f"be unfair; write it as matrix products"
        )
    return f"{flops:,.0f} FLOPs per token in the tiny model"


def starts_reproducibly(subject: Subject) -> str:
    """Check that initial weights depend on the seed and their names alone, and that the component changes no others."""
    torch.manual_seed(1)
    once = subject.model()
    torch.manual_seed(2)
    again, other = dict(subject.model().named_parameters()), dict(subject.model("seed=1").named_parameters())
    parameters = subject.own_parameters(once)
    for name, p in once.named_parameters():
        if not torch.equal(p, again[name]):
            raise CheckFailed(
                f"{name} is different when the same model is built again; draw initial weights from torch's global "
                f"generator in __init__, or from the one that init_weights(generator) is given"
            )
        is_drawn = name in parameters and p.ndim >= 2 and p.unique().numel() > 2
        if is_drawn and torch.equal(p, other[name]):
            raise CheckFailed(f"{name} is the same for every seed; draw it from the generator that you are given")
    if subject.slot not in ("init", "model"):
        baseline = dict(build_model(load_config([*TINY, *_without(subject)])).named_parameters())
        for name, p in once.named_parameters():
            same = name not in parameters and name in baseline and baseline[name].shape == p.shape
            if same and not torch.equal(p, baseline[name]):
                raise CheckFailed(f"{name}, of another component, starts differently with this one; leave it alone")
    return "by seed and name"


def _without(subject: Subject) -> list[str]:
    """Return the overrides that have nothing to do with the component's slot."""
    return [o for o in subject.overrides if o.split("=")[0].split(".")[0] != subject.slot]


Check = Callable[[Subject], str]
MODEL_CHECKS: dict[str, Check] = {
    "roles": has_roles,
    "causality": is_causal,
    "cache": agrees_with_cache,
    "gradients": has_gradients,
    "bias=false": obeys_bias_switch,
    "bf16": is_finite_in_bf16,
    "cost": has_countable_cost,
    "initial weights": starts_reproducibly,
}
INIT_CHECKS: dict[str, Check] = {"bf16": is_finite_in_bf16, "initial weights": starts_reproducibly}
