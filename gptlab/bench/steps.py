"""`gptlab bench`: the training step of a config, beside the machine's matrix products and beside peers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gptlab.bench.machine import describe_machine
from gptlab.bench.matmul_peak import Gemm, datasheet_flops, gemm_contestants, gemms
from gptlab.bench.peers import OTHER, SAME, Peer, find_peers
from gptlab.bench.startup import measure_startup
from gptlab.bench.subject import prepare, step_of
from gptlab.bench.timing import Contestant, interleave, rates, ratios, spread, steps_per_block, warm_up
from gptlab.training.device import Device
from gptlab.training.trainer import Trainer

BLOCKS = 7


def bench_steps(
    overrides: Sequence[str],
    tell: Callable[[str], None],
    *,
    against: Sequence[str] = (),
    blocks: int | None = None,
    steps: int | None = None,
    threads: int | None = None,
    peer_precision: str | None = None,
) -> dict[str, Any]:
    """All figures of the benchmark, as `--json` writes them. Raises ConfigError before anything is timed."""
    if threads:
        torch.set_num_threads(threads)
    blocks = blocks or BLOCKS
    peers = find_peers(against)
    subject = prepare(overrides)
    for peer in peers:
        peer.check(subject.cfg)
    tell("fresh processes")
    startup = measure_startup(overrides, threads)  # before this process holds a model, on a GPU too
    tell("warming up")
    trainer, device = Trainer(subject), subject.device.device
    step = step_of(trainer)
    warm_up(step, device)
    n = steps or steps_per_block(step, device)
    own = Contestant("gptlab", step, n)
    theirs = []
    for peer in peers:
        peer.open(subject, peer_precision)
        warm_up(peer.training_step, device)
        theirs.append(Contestant(peer.name, peer.training_step, n))
    shapes = gemms(trainer)
    products = gemm_contestants(shapes, subject.device)
    tell(f"{blocks} blocks of {n} steps")
    interleave([own, *theirs, *products], blocks, device)
    tokens, flops = subject.budget.tokens_per_step, subject.budget.cost["flops_per_token"]
    achieved = rates(tokens * flops, own.seconds)
    return {
        "kind": "steps",
        "machine": describe_machine(subject),
        "model": {
            "parameters": int(subject.budget.cost["parameters"]),
            "flops_per_token": flops,
            "batch_size": subject.cfg.train.batch_size,
            "window": subject.cfg.data.window,
        },
        "blocks": blocks,
        "steps_per_block": n,
        **_speed(own, tokens),
        "flops_per_s": spread(achieved),
        "gemm": [_of_product(*pair, achieved) for pair in zip(shapes, products, strict=True)],
        "datasheet": _of_datasheet(subject.device, achieved),
        "startup": startup,
        "peers": [_of_peer(*pair, own, tokens) for pair in zip(peers, theirs, strict=True)],
        "seconds_per_step": {c.name: c.seconds for c in (own, *theirs)},
    }


def _speed(contestant: Contestant, tokens: int) -> dict[str, Any]:
    return {
        "tokens_per_s": spread(rates(tokens, contestant.seconds)),
        "ms_per_step": spread([1000 * s for s in contestant.seconds]),
    }


def _of_product(shape: Gemm, product: Contestant, achieved: Sequence[float]) -> dict[str, Any]:
    rate = rates(shape.flops, product.seconds)
    return {"shape": shape.name, "flops_per_s": spread(rate), "share": spread(ratios(achieved, rate))}


def _of_datasheet(machine: Device, achieved: Sequence[float]) -> dict[str, Any] | None:
    """MFU as in arXiv:2204.02311: against the tensor cores' dense bf16, or fp16, whatever the run's precision is."""
    gpu = torch.cuda.get_device_name(machine.device) if machine.device.type == "cuda" else ""
    peak = datasheet_flops(gpu)
    return {"flops_per_s": peak, "mfu": spread([a / peak for a in achieved])} if peak else None


def _of_peer(peer: Peer, its: Contestant, own: Contestant, tokens: int) -> dict[str, Any]:
    return {
        "name": peer.name,
        "version": peer.version,
        "parameters": peer.parameters,
        "architecture": SAME if peer.is_like(peer.subject.cfg) else OTHER,
        "precision": "bf16 autocast" if peer.bf16 else "float32",
        "how": peer.how,
        **_speed(its, tokens),
        "ratio": spread(ratios(its.seconds, own.seconds)),  # of speeds: gptlab's over the peer's
    }
