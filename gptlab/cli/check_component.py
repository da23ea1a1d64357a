"""`gptlab check`: test a user's components for the properties that gptlab's own components have."""

import json
import sys
import tempfile
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.text import Text

from gptlab.config import SLOTS, ConfigError, registry
from gptlab.config.compose import find_use
from gptlab.config.overrides import parse
from gptlab.model.checks import INIT_CHECKS, MODEL_CHECKS, TINY, TINY_SIZE, Check, CheckFailed, Subject, builds, tokens
from gptlab.training.train import train

TEXT = "".join(f"{n} Green bottles,\thanging  on the wall: tämä on 文字 🙂.\r\n" for n in range(200))
STEPS = 20  # the steps of a short run
SHORT_RUN = (
    *("wandb.mode=disabled", "diagnostics=none", "device=cpu", "precision=float32", "data.window=64"),
    *(f"budget.steps={STEPS}", "train.batch_size=4", "eval.tokens=256", "eval.final_tokens=256"),
)


@dataclass(frozen=True)
class Outcome:
    """The result of one check of one component; `remark` says how to fix it if it failed."""

    component: str
    check: str
    passed: bool
    remark: str


def check_components(overrides: Sequence[str], console: Console) -> list[Outcome]:
    """Check the components in the files of `use=`, or those that `overrides` choose; print and return the outcomes.

    The other overrides configure the tiny model in which each component is tried. Raises ConfigError if there is
    nothing to check.
    """
    outcomes = []
    for subject in _subjects(overrides):
        name = f"{subject.slot}={subject.entry.name}"
        console.print(Text(name, "bold"))
        for check, function in _checks(subject).items():
            outcome = _try(name, check, function, subject)
            outcomes.append(outcome)
            line = f"  {'pass' if outcome.passed else 'FAIL'}  {check:<16}  {outcome.remark}"
            console.print(Text(line, "" if outcome.passed else "bold red"), soft_wrap=True)
            if check == "builds" and not outcome.passed:
                break  # nothing else can be tried
    failed = sum(not outcome.passed for outcome in outcomes)
    console.print(f"{len(outcomes) - failed} checks passed, {failed} failed", highlight=False)
    return outcomes


def _subjects(overrides: Sequence[str]) -> list[Subject]:
    """Return the components to check, each in the slot that the overrides name, or in the first of its kind."""
    parsed = parse(overrides)
    use = find_use(parsed)
    registry.load()
    known = {(e.kind, e.name) for e in registry.entries()}
    registry.load(use)
    user_entries = [e for e in registry.entries() if (e.kind, e.name) not in known or _is_in(e, use)]
    chosen = [
        (o.key_or_group, registry.entry(o.key_or_group, str(o.value()))) for o in parsed if o.key_or_group in SLOTS
    ]
    pairs = [(slot, entry) for slot, entry in chosen if not use or entry in user_entries] or [
        (e.kind, e) for e in user_entries
    ]
    subjects = [
        # Data and tokenizers bring their vocabulary.
        Subject(slot, entry, tuple(overrides), base=TINY_SIZE if slot in ("data", "tokenizer") else TINY)
        for slot, entry in pairs
    ]
    if use and not subjects:
        raise ConfigError(f"check use={','.join(map(str, use))}: registers no component; decorate one with @register")
    if not subjects:
        raise ConfigError("check: no component to check; give use=FILE with one, or choose one, such as norm=rmsnorm")
    return subjects


def _is_in(entry: registry.Entry, files: Iterable[str | Path]) -> bool:
    return entry.cls.__module__ in {Path(file).stem for file in files}


def _try(component: str, check: str, function: Check, subject: Subject) -> Outcome:
    try:
        with torch.random.fork_rng(devices=[]):
            return Outcome(component, check, True, function(subject))
    except (CheckFailed, ConfigError) as e:
        return Outcome(component, check, False, str(e))
    except Exception as e:  # whatever a user's code may raise
        message = " ".join(f"{type(e).__name__}: {e}".split())
        return Outcome(component, check, False, f"{message}{_place_in(subject.entry, e)}")


def _place_in(entry: registry.Entry, error: Exception) -> str:
    """Return the line of the component's file where an error came from, as ` (my_norms.py:12)`."""
    file = getattr(sys.modules.get(entry.cls.__module__), "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({Path(file).name}:{lines[-1]})" if file and lines else ""


def _checks(subject: Subject) -> dict[str, Check]:
    kind = subject.entry.kind
    if kind in KIND_CHECKS:
        return {"builds": _is_built, **KIND_CHECKS[kind], "trains": _trains}
    if kind == "data":
        makes_tokens = getattr(subject.entry.cls, "makes_tokens", False)
        return {"builds": _is_built, **(TASK_CHECKS if makes_tokens else TEXT_CHECKS), "trains": _trains}
    if kind == "match":
        return {"builds": _is_built}
    return {"builds": builds, **(INIT_CHECKS if kind == "init" else MODEL_CHECKS)}


def _make(subject: Subject) -> Any:
    """Return the component as a run would make it, for kinds that need nothing from the model builder."""
    return registry.build(subject.slot, subject.config()[subject.slot])


def _is_built(subject: Subject) -> str:
    _make(subject)
    return "as a run makes it"


def _trains(subject: Subject) -> str:
    """Check that a short run with the component ends with a finite loss."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_bytes(TEXT.encode())
        data = [] if subject.slot == "data" else ["data=text", f"data.path={text}", "model.vocab_size=null"]
        summary = train(subject.config(*data, *SHORT_RUN, f"runs_dir={folder}/runs"), quiet=True)
    if summary["state"] != "finished":
        raise CheckFailed(f"a run of {STEPS} steps {summary['state']}; lower its learning rate or scale")
    return f"{STEPS} steps: train/loss {summary['train/loss_initial']:.3f}, then val/loss {summary['val/loss']:.3f}"


def _updates(subject: Subject) -> str:
    """Check that the optimizer changes every parameter, lowers the loss of one batch and obeys the learning rate."""
    model = subject.model()
    option = _make(subject)
    optimizers = option.build(list(model.parameters()))
    x, before = tokens(model), {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = []
    for lr in [option.lr] * STEPS:
        loss = F.cross_entropy(model(x).flatten(0, 1), x.roll(-1).flatten())
        loss.backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    for name, p in model.named_parameters():
        if torch.equal(p, before[name]):
            raise CheckFailed(f"{name} never changes; put every parameter that build() is given into a group")
    if not losses[-1] < losses[0]:
        raise CheckFailed(
            f"{STEPS} steps on one batch change its loss from {losses[0]:.3f} to {losses[-1]:.3f}; "
            f"check the sign of the update and the default of lr"
        )
    return f"{STEPS} steps on one batch: loss {losses[0]:.3f} to {losses[-1]:.3f}"


def _counts_its_state(subject: Subject) -> str:
    """Check that `slots` says how many numbers of state the optimizer keeps for each parameter."""
    model, option = subject.model(), _make(subject)
    optimizers = option.build(list(model.parameters()))
    model(tokens(model)).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()
    for name, p in model.named_parameters():
        state = next((dict(o.state[p]) for o in optimizers if p in o.state), {})
        n_slots = sum(t.numel() == p.numel() for t in state.values() if isinstance(t, torch.Tensor) and t.ndim)
        if n_slots != option.slots(p):
            raise CheckFailed(
                f"slots() says {option.slots(p)} numbers of state for {name}, but there are {n_slots}; return {n_slots}"
            )
    return "slots() agrees with the state"


def _is_within_peak(subject: Subject) -> str:
    """Check that the schedule's factor stays between 0 and 1."""
    schedule, peak = _make(subject), subject.config().optimizer.lr
    factors = {t: schedule.factor(t, peak) for t in np.linspace(0, 1, 201).tolist()}
    for t, factor in factors.items():
        if not 0 <= factor <= 1 + 1e-9:
            raise CheckFailed(f"factor({t:g}, peak) is {factor:g}; return a share of the peak, from 0 to 1")
    if not any(factors.values()):
        raise CheckFailed("the factor is 0 throughout; return a share of the peak, from 0 to 1")
    return f"{factors[0.0]:.3g} after the warm-up, {factors[1.0]:.3f} at the end"


def _is_the_same_text(subject: Subject) -> str:
    """Check that `text()` returns the same text at every call, since all runs must read the same text."""
    text, again = _make(subject).text(), _make(subject).text()
    if not isinstance(text, str) or not text:
        raise CheckFailed(f"text() returned {type(text).__name__} {str(text)[:20]!r}; return a string with some text")
    if text != again:
        raise CheckFailed("text() returned two different texts; draw from a generator with a fixed seed")
    return f"{len(text):,} characters"


def _draws_examples(subject: Subject) -> str:
    """Check a task's examples: shapes, tokens, slices, predictions per row, and the same rows for the same seed."""
    task, window, n = _make(subject), subject.config().data.window, 8
    slices = task.slices(window)
    for split in ("training", "validation"):
        draw = getattr(task, split)
        examples, again = (draw(np.random.default_rng(0), n, window) for _ in range(2))
        if any(not np.array_equal(a, b) for a, b in zip(examples, again, strict=True)):
            raise CheckFailed(f"{split}() draws other rows from the same generator; draw from `rng` only")
        rows = len(examples.tokens)
        if examples.tokens.shape != (rows, window + 1) or any(a.shape != (rows, window) for a in examples[1:]):
            raise CheckFailed(f"{split}() returned shapes {[a.shape for a in examples]}; see gptlab.data.task.Examples")
        if not (examples.tokens.min() >= 0 and examples.tokens.max() < task.vocab_size):
            raise CheckFailed(
                f"{split}() has tokens outside of 0 to vocab_size - 1 = {task.vocab_size - 1}; correct one of them"
            )
        if not (examples.slices.min() >= 0 and examples.slices.max() < len(slices)):
            raise CheckFailed(f"{split}() has slices outside of 0 to {len(slices) - 1}, the places in slices()")
        n_counted = examples.counts.sum(1)
        if not n_counted.all() or (split == "training" and len(set(n_counted.tolist())) > 1):
            raise CheckFailed(
                f"{split}() has rows with {sorted(set(n_counted.tolist()))} predictions; give every row the same number"
            )
    return f"vocabulary of {task.vocab_size}; {', '.join(slices)}"


def _is_lossless(subject: Subject) -> str:
    """Check that text comes back from its tokens, also after saving, and that their bytes are counted."""
    option = _make(subject)
    tokenizer = option.fit(TEXT, TEXT[-200:])
    ids = tokenizer.encode(TEXT)
    if tokenizer.decode(ids.tolist()) != TEXT:
        raise CheckFailed("decode(encode(text)) is not the text; keep every character")
    if not (ids.min() >= 0 and ids.max() < tokenizer.vocab_size):
        raise CheckFailed(
            f"the largest id is {ids.max()}, the last token {tokenizer.vocab_size - 1}; extend token_bytes"
        )
    if (n_bytes := int(tokenizer.token_bytes[ids].sum())) != len(TEXT.encode()):
        raise CheckFailed(
            f"token_bytes add up to {n_bytes}, and the text has {len(TEXT.encode())} bytes of UTF-8; val/bpb needs them"
        )
    saved = json.loads(json.dumps(tokenizer.to_json()))
    if saved.get("name") != subject.entry.name:
        raise CheckFailed(f"to_json() has the name {saved.get('name')!r}; it must be {subject.entry.name!r}")
    if not np.array_equal(option.from_json(saved).encode(TEXT), ids):
        raise CheckFailed("from_json(to_json()) gives other tokens; save everything that encode() uses")
    if option.fixed_vocab_size not in (None, tokenizer.vocab_size):
        raise CheckFailed(f"fixed_vocab_size is {option.fixed_vocab_size}; it must be {tokenizer.vocab_size} or None")
    return f"vocabulary of {tokenizer.vocab_size:,}; {len(TEXT.encode()) / len(ids):.2f} bytes per token"


TEXT_CHECKS: dict[str, Check] = {"same text": _is_the_same_text}
TASK_CHECKS: dict[str, Check] = {"examples": _draws_examples}
KIND_CHECKS: dict[str, dict[str, Check]] = {
    "optimizer": {"updates": _updates, "cost": _counts_its_state},
    "schedule": {"factor": _is_within_peak},
    "tokenizer": {"lossless": _is_lossless},
}
