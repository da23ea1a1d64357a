"""Sections that compare: the GPU against the CPU, compiled against uncompiled steps, and whether all of it compiles."""

import subprocess
import sys
import time
from pathlib import Path

from common import (
    DEVICE,
    OUT,
    SMALL,
    TINY,
    RecompileLimits,
    failure,
    losses_of,
    make_trainer,
    ms_per_step,
    record,
    val_loss,
)

TESTS = Path(__file__).resolve().parents[2] / "tests"
GEMMA = (
    "placement=double norm=rmsnorm norm.zero_centered=true position=rope ffn=geglu_tanh bias=false"
    " attention.window=16 attention.pattern=LG attention.softcap=50 embedding.scale_by_width=true head.softcap=30"
)
FLEX = [
    *("position=alibi", "position=alibi position.bf16=true", "attention.window=16", "attention.softcap=5", GEMMA),
    *("attention.window=16 attention.n_kv_head=2", "attention.window=16 attention.head_dim=24"),
    *("attention.window=16 attention.head_dim=80", "attention.window=16 attention.head_dim=8"),  # the last: below 16
]
FLEX_IN_FLOAT32 = ("position=alibi", "attention.window=16", "attention.softcap=5")
DROPOUT = [
    *("train.dropout=0.1", "attention.window=16 train.dropout=0.1", "attention.softcap=5 train.dropout=0.1"),
    "position=alibi train.dropout=0.1",
]
SLOTS = (
    *("model", "block", "placement", "norm", "qk_norm", "attention", "position", "ffn", "embedding", "head", "init"),
    *("optimizer", "schedule"),
)
SETTINGS = [  # that take a path of their own through the code
    *("model=rnn model.cell=lstm", "model=rnn model.cell=tanh", "model=mlp norm=batchnorm"),
    *("block=parallel block.shared_norm=false", "attention.n_kv_head=2", "attention.n_kv_head=1"),
    *("qk_norm=rmsnorm attention.qk_norm_over=each_head", "qk_norm=layernorm attention.qk_norm_over=width"),
    *("position=rope position.pairing=interleaved", "position=rope position.fraction=0.5"),
    *("position=rope position.pattern=LR position.local_theta=100", "attention.clip_qkv=0.5"),
    *("position=rope position.scaling=yarn position.original_window=32", "head.tied=false head.bias=true"),
    *("head.z_loss=0.001", "embedding.width=32 head.width=32", "embedding.normed=true", "embedding.padding_idx=1"),
    *("norm=rmsnorm norm.learnable=false", "train.micro_batch_size=2", "train.loss_chunk=50"),
    *("train.loss_chunk=50 head.z_loss=0.001", "data.sampling=epoch", "optimizer=sgd optimizer.nesterov=true"),
]


def all_options() -> list[str]:
    """Return overrides for every option of every slot, and for settings that take a path of their own."""
    from gptlab.config import SLOTS as KINDS
    from gptlab.config import registry

    registry.load(None)
    cases = [""]
    for slot in SLOTS:
        for entry in registry.entries(KINDS[slot]):
            leak = f" {slot}.allow_leak=true" if getattr(entry.cls, "leaks", False) else ""
            cases.append(f"{slot}={entry.name}{leak}")
    return [case for case in dict.fromkeys([*cases, *SETTINGS]) if case != "position=alibi"]  # `flex` has that


def options(part: str, parts: str) -> None:
    """Train three steps of each option in float32, on the GPU and on the CPU, then in both forms of bf16."""
    cases = (all_options() + DROPOUT)[int(part) :: int(parts)]
    for case in cases[::6] if TINY else cases:
        facts, started = {"case": case}, time.perf_counter()
        try:
            facts |= _float32(case.split())
        except Exception as e:
            facts |= failure(e)
        for precision in ("bf16", "bf16_weights"):
            try:
                trainer = make_trainer([*SMALL, *case.split(), f"precision={precision}", "compile=false"])
                facts[precision] = losses_of(trainer, 3)
                facts[f"val_{precision}"] = None if "dropout" in case else val_loss(trainer)
            except Exception as e:
                facts[precision] = failure(e)
        record("options", **facts, seconds=round(time.perf_counter() - started, 1))


def _float32(case: list[str]) -> dict:
    """Return the losses on the GPU and on the CPU; with dropout, whose masks differ, only the former."""
    trainer = make_trainer([*SMALL, *case, "precision=float32", "compile=false"])
    losses = losses_of(trainer, 3)
    if "dropout" in " ".join(case):
        return {"fp32": losses}
    facts = {"fp32": losses, "val": val_loss(trainer)}
    if DEVICE == "cuda":
        cpu = make_trainer([*SMALL, *case, "precision=float32", "device=cpu", "compile=false"])
        facts |= {"cpu": losses_of(cpu, 3), "val_cpu": val_loss(cpu)}
        facts["largest_difference"] = _largest([*losses, facts["val"]], [*facts["cpu"], facts["val_cpu"]])
    return facts


def _largest(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def flex() -> None:
    """Run flex_attention uncompiled in bf16, some cases in float32 too, and compare with the CPU."""
    import torch

    limits = RecompileLimits()
    for case in FLEX[:2] if TINY else FLEX:
        torch._dynamo.reset()
        facts, started = {"case": case}, time.perf_counter()
        overrides = [*SMALL, *case.split(), "compile=false"]
        try:
            cpu = losses_of(make_trainer([*overrides, "precision=float32", "device=cpu"]), 3)
            facts |= {"cpu": cpu, "bf16": losses_of(make_trainer([*overrides, "precision=bf16"]), 3)}
            if case in FLEX_IN_FLOAT32:
                facts["fp32"] = losses_of(make_trainer([*overrides, "precision=float32"]), 3)
                facts["largest_difference"] = _largest(facts["fp32"], cpu)
        except Exception as e:
            facts |= failure(e)
        record("flex", **facts, seconds=round(time.perf_counter() - started, 1), limits=limits.take())


COMPILED = {
    "a": [
        *("", "norm=rmsnorm position=rope ffn=swiglu attention.n_kv_head=2", "precision=bf16_weights"),
        *("train.micro_batch_size=2 train.loss_chunk=50", "model=rnn data.window=16"),
    ],
    "b": [
        *(GEMMA, "train.dropout=0.1", "attention.window=16 train.dropout=0.1", "position=alibi"),
        "model=mlp norm=batchnorm",
    ],
}
EVALUATED = ("", "train.dropout=0.1")


def compiled(part: str) -> None:
    """Compare compiled with uncompiled steps; record graphs, breaks and the seconds of first step and evaluation."""
    import torch
    from torch._dynamo.utils import counters

    limits = RecompileLimits()
    for case in COMPILED[part][:1] if TINY else COMPILED[part]:
        torch._dynamo.reset()
        counters.clear()
        facts = {"case": case}
        try:
            facts["uncompiled"] = losses_of(make_trainer([*SMALL, *case.split(), "compile=false"]), 3)
            trainer = make_trainer([*SMALL, *case.split(), "compile=true"])
            started = time.perf_counter()
            facts["compiled"] = losses_of(trainer, 1)
            facts["first_step_s"] = round(time.perf_counter() - started, 1)
            facts["compiled"] += losses_of(trainer, 2)
            facts["graphs"] = counters["stats"].get("unique_graphs")
            if case in EVALUATED:
                started = time.perf_counter()
                facts["val"] = val_loss(trainer)
                facts["first_eval_s"] = round(time.perf_counter() - started, 1)
                facts["graphs_after_eval"] = counters["stats"].get("unique_graphs")
            facts["breaks"] = dict(counters["graph_break"])
            facts |= ms_per_step(trainer, 3 if TINY else 50)
        except Exception as e:
            facts |= failure(e)
        record("compiled", **facts, limits=limits.take())


def arms() -> None:
    """Train several arms in one process, as a worker of a sweep does, and record whether the later ones compile."""
    from torch._dynamo.utils import counters

    limits = RecompileLimits()
    for case in ["", "norm=rmsnorm"] if TINY else ["", "norm=rmsnorm", "position=rope", "ffn=swiglu"]:
        facts = {"case": case}
        try:
            before = counters["stats"].get("unique_graphs", 0)
            trainer = make_trainer([*SMALL, *case.split(), "compile=true"])
            losses_of(trainer, 2)
            val_loss(trainer)
            facts["new_graphs"] = counters["stats"].get("unique_graphs", 0) - before
            facts |= ms_per_step(trainer, 3 if TINY else 50)
        except Exception as e:
            facts |= failure(e)
        record("compiled_arms", **facts, limits=limits.take())


def gpu_tests() -> None:
    """Run the tests that are marked `gpu`."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "-rA",
        f"{TESTS}/bench",
        f"{TESTS}/data",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent)
    (OUT / "pytest.txt").write_text(ended.stdout[-60000:] + ended.stderr[-20000:])
    record("gpu_tests", code=ended.returncode, last_lines=ended.stdout.strip().splitlines()[-6:])
