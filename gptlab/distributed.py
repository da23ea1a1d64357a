"""Several processes that train one run, as torchrun starts them: `torchrun --nproc_per_node=N -m gptlab train ...`.

Each computes its rows of every batch. With `ddp` each holds the model and gradients are averaged; with `fsdp` each
holds a part of every weight, gradient and optimizer state, and gathers a block's weights when it computes that block,
so a model may be larger than a device (torch.distributed.fsdp.fully_shard, arXiv:2304.11277). Batches, losses, norms
and checkpoints are those of one process, so a run goes on with another number of them. Two things are not: sums differ
in the last digits, and dropout has a stream for each process, so its masks are others. All processes find the data,
the run's folder and a user's components at the same paths. One process is the same with nothing to agree on.
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gptlab.config import ConfigError, Settings

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)
_left: list[Any] = []  # groups; were DDP's reference the last, the end of one would wait for its threads in a deadlock


@dataclass(frozen=True)
class Processes:
    """Those that train a run, seen from one of them. What is not said to be local is called by all, in one order."""

    rank: int = 0  # the first, 0, also speaks, records and writes for all
    world: int = 1
    kind: str = ""  # ddp or fsdp

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def describe(self) -> str:
        return f", {self.world} processes ({self.kind})" if self.world > 1 else ""

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """They know each other, and those on GPUs have chosen theirs, which is `cuda` from then on.

        After an error of one alone the others wait elsewhere: then nothing is waited for, and its end is theirs.
        """
        if self.world == 1:
            yield
            return
        _choose_device(device)
        if not dist.is_initialized():  # else a run that was refused left it so
            _meet("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        try:
            yield
        except SystemExit:  # they stop together
            self._leave()
            raise
        self._leave()

    def _leave(self) -> None:
        """When the first has written all: torchrun kills whoever is left soon after one has ended with an error."""
        self.any(False)
        _left.append(dist.group.WORLD)
        dist.destroy_process_group()

    @contextmanager
    def by_first(self, context: AbstractContextManager[Any]) -> Iterator[None]:
        """`context`, entered and left by the first process; what it raises when entered, all raise."""
        with ExitStack() as stack:
            error = None
            if self.is_first:
                try:
                    stack.enter_context(context)
                except Exception as e:
                    error = e
            if error := self.of_first(error):
                raise error
            yield

    def of_first(self, value: T) -> T:
        """The first one's value, to all."""
        if self.world > 1:
            box = [value]
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
            value = box[0]
        return value

    def place(self, model: M, device: torch.device) -> M:
        """On its device, unless `wrap` is to move it there in parts. Local."""
        return model if self.kind == "fsdp" else model.to(device)

    def wrap(self, objective: Any, device: torch.device) -> nn.Module:
        """The objective, whose `model` has been placed and is changed in place, as training calls it."""
        if self.kind == "fsdp":
            return _sharded(objective, device, self.world)
        if self.kind == "ddp":
            return nn.parallel.DistributedDataParallel(objective, gradient_as_bucket_view=True)
        return objective

    def average_gradients(self, net: Any, on: bool) -> None:
        """Whether the next forward and backward pass of `net` averages the gradients over the processes, or only adds
        its own to them, as all micro batches but a step's last do. Local."""
        if self.kind == "fsdp":
            net.set_requires_gradient_sync(on)
        elif self.kind == "ddp":
            net.require_backward_grad_sync = on

    @property
    def stream(self) -> str:
        """What the name of this process's dropout has beside the first one's."""
        return f".{self.rank}" if self.rank else ""

    def rows(self, batch: Tensor) -> Tensor:
        """This process's share, (B, ...) -> (B / world, ...), where that is not whole rounded up or down. Local."""
        return batch[self.rank :: self.world]

    def sum(self, x: Tensor) -> Tensor:
        return self._reduced(x, dist.ReduceOp.SUM)

    def mean(self, x: Tensor) -> Tensor:
        return self.sum(x) / self.world

    def min(self, x: Tensor) -> Tensor:
        return self._reduced(x, dist.ReduceOp.MIN)

    def any(self, flag: bool) -> bool:
        """Whether it is so in one of them."""
        return self._largest(flag) > 0

    def clock(self, seconds: float) -> float:
        """The first one's, to all."""
        return self._largest(seconds if self.is_first else 0.0)

    def _largest(self, x: float) -> float:
        """Told between hosts, so that no device is waited for."""
        return float(self._reduced(torch.tensor(x, dtype=torch.float64), dist.ReduceOp.MAX))

    def _reduced(self, x: Tensor, op: Any) -> Tensor:
        if self.world > 1:
            x = x.clone()
            dist.all_reduce(x, op)
        return x


ONE = Processes()


def world_size() -> int:
    """How many processes torchrun started, this one among them."""
    return int(os.environ.get("WORLD_SIZE", 1))


def find_processes(cfg: Settings) -> Processes:
    """As torchrun says in the environment. Raises ConfigError where `cfg` cannot be divided among them."""
    rank, world = int(os.environ.get("RANK", 0)), world_size()
    if world == 1:
        if cfg.parallel != "auto":  # not run all the same: who forgot torchrun would wait for a model that does not fit
            raise ConfigError(
                f"parallel={cfg.parallel}: there is one process; start several with"
                " `torchrun --nproc_per_node=N -m gptlab train ...`, or leave it out"
            )
        return ONE
    if cfg.precision == "bf16_weights":
        raise ConfigError("precision=bf16_weights: is for one process; several have float32 and bf16")
    for key in ("batch_size", "micro_batch_size"):
        n = cfg.train[key]
        if n is not None and n % world:
            raise ConfigError(
                f"train.{key}={n}: must be a multiple of the {world} processes; set {world * math.ceil(n / world)}"
            )
    return Processes(rank, world, "ddp" if cfg.parallel == "auto" else cfg.parallel)


def _meet(backend: str) -> None:
    """Under another prefix each time: what they told each other of a group that they have left would mislead them."""
    store, rank, world = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"gptlab {len(_left)}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)


def _choose_device(device: torch.device) -> None:
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if device.type == "mps" or device.index is not None:
        raise ConfigError(f"device={device}: several processes take cuda, a GPU each, or cpu; set one of these")
    if device.type == "cuda":
        if here > torch.cuda.device_count():
            raise ConfigError(
                f"device=cuda: {here} processes on a machine with {torch.cuda.device_count()} GPUs; start one for each"
            )
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))


def _sharded(objective: Any, device: torch.device, world: int) -> nn.Module:
    """Every block is a unit, and what is around them another. Moved to the device unit by unit, as parts.

    A whole copy of the model is on the host for this, once in every process.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = objective.model
    for name, p in model.named_parameters():
        if p.ndim == 0:
            raise ConfigError(f"parallel=fsdp: {name} is a number without a dimension; give it shape (1,), or use ddp")
    known = {name: p.__dict__ for name, p in model.named_parameters()}  # role and gain, which the parts lose
    mesh = init_device_mesh(device.type, (world,))
    for unit in (*model.blocks, objective):
        fully_shard(unit, mesh=mesh)
    for name, p in model.named_parameters():
        p.__dict__.update(known[name])
    return objective


def whole(x: Tensor) -> Tensor:
    """Of a tensor that the processes hold in parts, all of it."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """All of them whole and on the host, in the first process; None in the others."""
    is_first = not dist.is_initialized() or dist.get_rank() == 0
    on_host = {}
    for name, x in tensors.items():
        x = whole(x.detach())
        if is_first:
            on_host[name] = x.contiguous().cpu()
    return on_host if is_first else None


def as_held(x: Tensor, like: Any) -> Tensor:
    """A whole tensor, or of one that is held in parts as `like` of the same shape is, this process's part. Local."""
    if not hasattr(like, "full_tensor") or x.shape != like.shape:
        return x
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)  # None: from this process's x
