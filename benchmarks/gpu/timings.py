"""Sections that time: compilation, launch-bound steps, GPT-2 124M, a 10M run to its end, and sweeps of small cells."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from common import (
    COMMON,
    DEVICE,
    NANOGPT,
    TEXT,
    TINY,
    failure,
    losses_of,
    make_trainer,
    ms_per_step,
    prepare,
    record,
    val_loss,
    wait,
)

BATCH = 2 if TINY else 32
WINDOW = 64 if TINY else 1024
TARGET = 1.48  # val/loss that nanoGPT's config for the 10M model reaches on tiny Shakespeare, in nats per character
KARPATHY = [*COMMON, "preset=karpathy-10m", "tokenizer=char"]
TINY_KARPATHY = ["size=tiny", "data.window=32", "train.batch_size=4"]


def gpt2_124m(vocab_size: int, *more: str) -> list[str]:
    size = ["size.n_layer=2", "size.n_head=2", "size.dim=64"] if TINY else ["size=124m"]
    text = [f"data.window={WINDOW}", "tokenizer=byte", f"model.vocab_size={512 if TINY else vocab_size}"]
    steps = [
        f"train.batch_size={BATCH}",
        "budget.steps=100",
        "schedule.warmup=0",
        "eval.tokens=5000",
        "eval.final_tokens=5000",
    ]
    return [*COMMON, "preset=nanogpt-cpu", *size, *text, *steps, *more]


def open_nanogpt(overrides: list[str]) -> Any:
    """Return nanoGPT at the same sizes, ready to be stepped."""
    from gptlab.bench.peers import NanoGPT

    peer = NanoGPT(str(NANOGPT))
    peer.open(prepare(overrides))
    return peer


def warm() -> None:
    """Compile what the timed sections compile, and record how long that takes."""
    _warm("10m", lambda: make_trainer([*KARPATHY, *(TINY_KARPATHY if TINY else [])]), evaluates=True)
    _warm("124m", lambda: make_trainer(gpt2_124m(50304)))
    if NANOGPT:
        _warm("nanogpt 124m", lambda: open_nanogpt(gpt2_124m(50304)))


def _warm(model: str, make: Callable[[], Any], *, evaluates: bool = False) -> None:
    facts: dict[str, Any] = {"model": model}
    try:
        trainer = make()
        started = time.perf_counter()
        for _ in range(2):
            trainer.training_step()
        wait()
        facts["first_steps_s"] = round(time.perf_counter() - started, 1)
        if evaluates:
            started = time.perf_counter()
            val_loss(trainer)
            facts["first_eval_s"] = round(time.perf_counter() - started, 1)
    except Exception as e:
        facts |= failure(e)
    record("warm", **facts)


def gpt2() -> None:
    """Time GPT-2 124M in several ways, and nanoGPT, in interleaved blocks; record memory and MFU."""
    import torch

    from gptlab.bench.matmul_peak import datasheet_flops
    from gptlab.bench.timing import interleave, spread

    if DEVICE == "cuda":  # as nanoGPT's train.py
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    methods = {
        "gptlab": lambda: make_trainer(gpt2_124m(50304)),
        "gptlab, all logits at once": lambda: make_trainer(gpt2_124m(50304, "train.loss_chunk=1000000000")),
        "gptlab, vocabulary 50257": lambda: make_trainer(gpt2_124m(50257)),
        "gptlab, uncompiled": lambda: make_trainer(gpt2_124m(50304, "compile=false")),
    }
    if NANOGPT:
        methods["nanogpt"] = lambda: open_nanogpt(gpt2_124m(50304))
    timed, flops, memory = [], {}, {}
    for name, make in methods.items():
        try:
            one = _timed(name, make, flops, memory)
            timed.append(one)
        except Exception as e:
            record("gpt2_ready", method=name, **failure(e))
    interleave(timed, 3 if TINY else 5, torch.device(DEVICE))
    own = next(t for t in timed if t.name == "gptlab")
    peak = datasheet_flops(torch.cuda.get_device_name()) if DEVICE == "cuda" else None
    tokens = BATCH * WINDOW
    for one in timed:
        per_token = flops.get(one.name, flops["gptlab"])
        rate = tokens / statistics.median(one.seconds)
        record(
            "gpt2",
            method=one.name,
            tokens_per_s=spread([tokens / s for s in one.seconds]),
            ms_per_step=spread([1e3 * s for s in one.seconds]),
            peak_gib=memory[one.name],
            mfu=round(per_token * rate / peak, 4) if peak else None,
            gptlab_speed_over_its=spread([a / b for a, b in zip(one.seconds, own.seconds, strict=True)]),
        )


def _timed(name: str, make: Callable[[], Any], flops: dict[str, float], memory: dict[str, float | None]) -> Any:
    """Make and warm up one method; note the model's FLOPs per token and the peak of memory."""
    import torch

    from gptlab.bench.timing import Timed, steps_per_block, warm_up

    started, device = time.perf_counter(), torch.device(DEVICE)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer = make()
    if name != "nanogpt":
        flops[name] = trainer.budget.cost["flops_per_token"]
    warm_up(trainer.training_step, device)
    memory[name] = round(torch.cuda.max_memory_allocated() / 2**30, 2) if DEVICE == "cuda" else None
    steps = steps_per_block(trainer.training_step, device, 0.8)
    record("gpt2_ready", method=name, seconds=round(time.perf_counter() - started, 1), steps_per_block=steps)
    return Timed(name, trainer.training_step, steps)


def karpathy() -> None:
    """Train the 10M character model to its end; record when it reaches TARGET, which holds for tiny Shakespeare."""
    overrides = [*KARPATHY, "eval.every=250"]
    if TINY:
        overrides += [
            *TINY_KARPATHY,
            "budget.steps=20",
            "schedule.warmup=2",
            "eval.every=10",
            "eval.tokens=2000",
            "eval.final_tokens=2000",
        ]
    with _process("train", overrides, 170) as (folder, facts):
        rows = [json.loads(line) for f in folder.rglob("metrics.jsonl") for line in f.read_text().splitlines()]
        losses = [(r["step"], r["seconds"], round(r["val/loss"], 4)) for r in rows if "val/loss" in r]
        speeds = [r["speed/tokens_per_s"] for r in rows if "speed/tokens_per_s" in r]
        facts["text"] = TEXT.name
        facts["val"] = losses
        facts["reached_target"] = next((loss for loss in losses if loss[2] <= TARGET), None)
        facts["tokens_per_s"] = statistics.median(speeds) if speeds else None
    record("karpathy", **facts)


@contextmanager
def _process(verb: str, overrides: list[str], seconds: float) -> Any:
    """Run a verb of gptlab as a user does; give its folder of runs, and facts to add to."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        facts: dict[str, Any] = {}
        command = [sys.executable, "-m", "gptlab", verb, *overrides, f"runs_dir={folder}"]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
            facts["code"] = ended.returncode
            if ended.returncode:
                facts["last_lines"] = (ended.stdout + ended.stderr).strip().splitlines()[-8:]
        except subprocess.TimeoutExpired:
            facts["code"] = "out of time"
        facts["wall_s"] = round(time.perf_counter() - started, 1)
        yield Path(folder), facts


def launch() -> None:
    """Time small steps uncompiled, compiled and as one CUDA graph, which gptlab does not have."""
    steps = 3 if TINY else 200
    small = [*COMMON, "preset=nanogpt-cpu", "tokenizer=char", "budget.steps=1000", *(["size=tiny"] if TINY else [])]
    models = {"0.8M": small} if TINY else {"0.8M": small, "10M": [*KARPATHY, "train.dropout=0.0"]}
    for model, overrides in models.items():
        for method in ("false", "true"):
            facts: dict[str, Any] = {"model": model, "method": f"compile={method}"}
            try:
                trainer = make_trainer([*overrides, f"compile={method}"])
                losses_of(trainer, 3)
                facts |= ms_per_step(trainer, steps)
            except Exception as e:
                facts |= failure(e)
            record("launch", **facts)
    if DEVICE != "cuda":
        return
    facts = {"model": "0.8M", "method": "uncompiled, forward, backward, clipping and AdamW as one CUDA graph"}
    try:
        graphed, loss = _graphed(make_trainer([*small, "compile=false"]))
        facts |= ms_per_step(graphed, steps)
        facts["loss"] = float(loss)
    except Exception as e:
        facts |= failure(e)
    record("launch", **facts)


def _graphed(trainer: Any) -> tuple[Any, Any]:
    """Capture a training step as a CUDA graph; return what replays it, and the tensor of its loss."""
    import torch

    parameters = list(trainer.model.parameters())
    # The learning rate is constant. In a run it would be a tensor, written before each replay.
    optimizer = torch.optim.AdamW(parameters, 1e-3, (0.9, 0.99), weight_decay=0.1, fused=True, capturable=True)
    x, y = (batch.clone() for batch in trainer.batches.batch(0))

    def step() -> torch.Tensor:
        for p in parameters:
            p.grad = None
        with torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False):
            total, loss = trainer.objective(x, y)
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    steps = iter(range(10**9))

    def replay() -> None:
        for held, new in zip((x, y), trainer.batches.batch(next(steps)), strict=True):
            held.copy_(new)
        graph.replay()

    return SimpleNamespace(training_step=replay), loss


def sweeps() -> None:
    """Time sweeps of cells of 500 steps, by how many share the GPU, compiled or not."""
    plans = [(4, 1, "false"), (8, 8, "false"), (8, 8, "true"), (16, 16, "false")]  # cells, at once, compile
    for cells, at_once, compile_ in plans[:1] if TINY else plans:
        cells = 2 if TINY else cells
        overrides = [
            *COMMON,
            "preset=nanogpt-cpu",
            "tokenizer=char",
            f"budget.steps={20 if TINY else 500}",
            "name=check",
        ]
        overrides += [
            "schedule.warmup=10",
            "eval.every=500",
            "eval.tokens=20000",
            "eval.final_tokens=20000",
            f"compile={compile_}",
        ]
        overrides += [f"seed={','.join(map(str, range(cells)))}", *(["size=tiny"] if TINY else [])]
        overrides += [f"sweep.per_gpu={at_once}"] if DEVICE == "cuda" else []
        with _process("sweep", overrides, 100) as (folder, facts):
            summaries = [json.loads(f.read_text()) for f in folder.rglob("summary.json")]
            facts["finished"] = len(summaries)
            facts["cells_per_hour"] = round(3600 * len(summaries) / facts["wall_s"])
            facts["train_s"] = [round(s["seconds"], 2) for s in summaries]
            facts["tokens_per_s"] = [round(s["speed/tokens_per_s"] or 0) for s in summaries]
        record("sweep", cells=cells, at_once=at_once, compile=compile_, **facts)
