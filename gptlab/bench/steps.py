"""`gptlab bench`: the training step of a config, beside the machine's matrix products and beside peers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gptlab.bench.machine import describe_machine
from gptlab.bench.peers import OTHER, SAME, Peer, find_peers
from gptlab.bench.roofline import datasheet_flops, gemm_contestants, gemms
from gptlab.bench.startup import measure_startup
from gptlab.bench.subject import open_trainer, prepare
from gptlab.bench.timing import Contestant, interleave, rates, ratios, spread, steps_per_block, warm_up
from gptlab.compose import load_config
from gptlab.plan import Machine

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
    prepared = full, plan, machine, dataset = prepare(load_config(overrides))
    tell("fresh processes")
    startup = measure_startup(overrides, threads)  # before this process holds a model, on a GPU too
    tell("warming up")
    trainer = open_trainer(*prepared)
    warm_up(trainer.training_step, machine.device)
    n = steps or steps_per_block(trainer.training_step, machine.device)
    own = Contestant("gptlab", trainer.training_step, n)
    theirs = [_open(peer, *prepared, peer_precision, n) for peer in peers]
    shapes = gemms(trainer.model, trainer.micro * full.data.window, machine)
    products = gemm_contestants(shapes, machine)
    tell(f"{blocks} blocks of {n} steps")
    interleave([own, *theirs, *products], blocks, machine.device)
    tokens, flops = plan.tokens_per_step, plan.cost["flops_per_token"]
    achieved = rates(tokens * flops, own.seconds)
    return {
        "kind": "steps",
        "machine": describe_machine(machine, dataset.hash),
        "model": {
            "parameters": int(plan.cost["parameters"]),
            "flops_per_token": flops,
            "batch_size": full.train.batch_size,
            "window": full.data.window,
        },
        "blocks": blocks,
        "steps_per_block": n,
        **_speed(own, tokens),
        "flops_per_s": spread(achieved),
        "gemm": [
            {"shape": shape.name, "flops_per_s": spread(rate), "share": spread(ratios(achieved, rate))}
            for shape, rate in ((s, rates(s.flops, p.seconds)) for s, p in zip(shapes, products, strict=True))
        ],
        "datasheet": _datasheet(machine, achieved),
        "startup": startup,
        "peers": [_told(peer, its, own, tokens) for peer, its in zip(peers, theirs, strict=True)],
        "seconds_per_step": {c.name: c.seconds for c in (own, *theirs)},
    }


def _open(
    peer: Peer, full: Any, plan: Any, machine: Machine, dataset: Any, precision: str | None, n: int
) -> Contestant:
    bf16 = machine.device.type != "cpu" and machine.bf16 if precision is None else precision == "bf16"
    peer.open(full, dataset, machine, bf16)
    warm_up(peer.training_step, machine.device)
    return Contestant(peer.name, peer.training_step, n)


def _speed(contestant: Contestant, tokens: int) -> dict[str, Any]:
    return {
        "tokens_per_s": spread(rates(tokens, contestant.seconds)),
        "ms_per_step": spread([1000 * s for s in contestant.seconds]),
    }


def _datasheet(machine: Machine, achieved: Sequence[float]) -> dict[str, Any] | None:
    """MFU as in arXiv:2204.02311: against the tensor cores' dense bf16, or fp16, whatever the run's precision is."""
    gpu = torch.cuda.get_device_name(machine.device) if machine.device.type == "cuda" else ""
    peak = datasheet_flops(gpu)
    return {"flops_per_s": peak, "mfu": spread([a / peak for a in achieved])} if peak else None


def _told(peer: Peer, its: Contestant, own: Contestant, tokens: int) -> dict[str, Any]:
    return {
        "name": peer.name,
        "version": peer.version,
        "parameters": peer.parameters,
        "architecture": SAME if peer.is_like(peer.cfg) else OTHER,
        "precision": "bf16 autocast" if peer.bf16 else "float32",
        "how": peer.how,
        **_speed(its, tokens),
        "ratio": spread(ratios(its.seconds, own.seconds)),  # of speeds: gptlab's over the peer's
    }
