"""`gptlab bench`: the training step of a config, timed together with matrix products and peers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gptlab.bench.host import describe_machine, measure_startup
from gptlab.bench.matmul_peak import Gemm, datasheet_flops, gemms, timed_gemms
from gptlab.bench.peers import OTHER, SAME, Peer, find_peers
from gptlab.bench.subject import prepare
from gptlab.bench.timing import Timed, interleave, rates, ratios, spread, steps_per_block, warm_up
from gptlab.training.prepare import PreparedRun
from gptlab.training.step_timing import step_of
from gptlab.training.trainer import Trainer

BLOCKS = 7


def bench_steps(
    overrides: Sequence[str],
    report: Callable[[str], None],
    *,
    against: Sequence[str] = (),
    blocks: int | None = None,
    steps: int | None = None,
    threads: int | None = None,
    peer_precision: str | None = None,
) -> dict[str, Any]:
    """Time the training step of a config.

    Args:
        overrides: The overrides of the config.
        report: Called with each stage of the benchmark.
        against: The peers to time as well: `nanogpt=PATH`, `hf`, `x-transformers`.
        blocks: The number of interleaved blocks.
        steps: The number of steps per block; None for the number that takes `SECONDS_PER_BLOCK`.
        threads: The threads of torch in each process; None for torch's default.
        peer_precision: float32 or bf16; None for float32 on a CPU, and gptlab's own on a GPU.

    Returns:
        All figures, as `--json` writes them.

    Raises:
        ConfigError: An override or a peer is refused; nothing has been timed by then.
    """
    if threads:
        torch.set_num_threads(threads)
    blocks = blocks or BLOCKS
    peers = find_peers(against)
    subject = prepare(overrides)
    for peer in peers:
        peer.check(subject.cfg)
    report("new processes")
    startup = measure_startup(overrides, threads)  # before this process holds a model, on a GPU too
    report("warming up")
    trainer, device = Trainer(subject), subject.device.device
    step = step_of(trainer)
    warm_up(step, device)
    n = steps or steps_per_block(step, device)
    ours = Timed("gptlab", step, n)
    theirs = [_opened(peer, subject, peer_precision, n) for peer in peers]
    shapes = gemms(trainer)
    products = timed_gemms(shapes, subject.device)
    report(f"{blocks} blocks of {n} steps")
    interleave([ours, *theirs, *products], blocks, device)
    return {
        "kind": "steps",
        "machine": describe_machine(subject),
        "model": _model_figures(subject),
        "blocks": blocks,
        "steps_per_block": n,
        **_speed(ours, subject.budget.tokens_per_step),
        **_shares(subject, ours, shapes, products),
        "startup": startup,
        "peers": [_peer_figures(*pair, ours) for pair in zip(peers, theirs, strict=True)],
        "seconds_per_step": {timed.name: timed.seconds for timed in (ours, *theirs)},
    }


def _opened(peer: Peer, subject: PreparedRun, precision: str | None, n_steps: int) -> Timed:
    """Return a peer that is warmed up."""
    peer.open(subject, precision)
    warm_up(peer.training_step, subject.device.device)
    return Timed(peer.name, peer.training_step, n_steps)


def _shares(subject: PreparedRun, ours: Timed, shapes: Sequence[Gemm], products: Sequence[Timed]) -> dict[str, Any]:
    """Return the FLOPs per second, and their share of what matrix products and the GPU's datasheet reach."""
    budget, device = subject.budget, subject.device.device
    achieved = rates(budget.tokens_per_step * budget.cost["flops_per_token"], ours.seconds)
    gpu_name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "flops_per_s": spread(achieved),
        "gemm": [_product_figures(*pair, achieved) for pair in zip(shapes, products, strict=True)],
        "datasheet": datasheet_share(gpu_name, achieved),
    }


def _model_figures(run: PreparedRun) -> dict[str, Any]:
    cost, cfg = run.budget.cost, run.cfg
    return {
        "parameters": int(cost["parameters"]),
        "flops_per_token": cost["flops_per_token"],
        "batch_size": cfg.train.batch_size,
        "window": cfg.data.window,
    }


def _speed(timed: Timed, tokens: int) -> dict[str, Any]:
    return {
        "tokens_per_s": spread(rates(tokens, timed.seconds)),
        "ms_per_step": spread([1000 * s for s in timed.seconds]),
    }


def _product_figures(shape: Gemm, product: Timed, achieved: Sequence[float]) -> dict[str, Any]:
    rate = rates(shape.flops, product.seconds)
    return {"shape": shape.name, "flops_per_s": spread(rate), "share": spread(ratios(achieved, rate))}


def datasheet_share(gpu: str, achieved: Sequence[float]) -> dict[str, Any] | None:
    """Return MFU as in arXiv:2204.02311; None for a GPU that is not in the table.

    It is the share of the tensor cores' dense bf16 (or fp16) FLOP/s, whatever the precision of the run.
    """
    peak = datasheet_flops(gpu)
    return {"flops_per_s": peak, "mfu": spread([a / peak for a in achieved])} if peak else None


def _peer_figures(peer: Peer, theirs: Timed, ours: Timed) -> dict[str, Any]:
    return {
        "name": peer.name,
        "version": peer.version,
        "parameters": peer.parameters,
        "architecture": SAME if peer.matches(peer.subject.cfg) else OTHER,
        "precision": "bf16 autocast" if peer.bf16 else "float32",
        "how": peer.how,
        **_speed(theirs, peer.subject.budget.tokens_per_step),
        "ratio": spread(ratios(theirs.seconds, ours.seconds)),  # gptlab's speed over the peer's
    }
