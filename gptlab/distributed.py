"""Training of one run by several processes, started by `torchrun --nproc_per_node=N -m gptlab train ...`.

Each process computes its rows of every batch. With `ddp` each holds the whole model and gradients are averaged. With
`fsdp` (torch.distributed.fsdp.fully_shard, arXiv:2304.11277) each holds a shard of every weight, gradient and optimizer
state and gathers the weights of a block when it computes that block, so a model may be larger than one device.

Batches, losses, norms and checkpoints are those of a single process, so a run can be resumed by more or fewer
processes. Two things differ: sums in their last digits, and dropout masks, since each process has its own stream.
All processes must find the data, the run's folder and the user's components at the same paths.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gptlab.config import ConfigError, Settings
from gptlab.config.environment import number_in_environment

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)
_left_groups: list[Any] = []  # kept alive: if DDP held the last reference, its end would deadlock on its own threads


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train a run, seen from one of them.

    All processes must call the methods in the same order, except for those that are marked as local.
    """

    rank: int = 0  # rank 0 also prints, records and writes for all
    world: int = 1
    kind: str = ""  # ddp or fsdp

    @property
    def is_first(self) -> bool:
        """Return whether this is rank 0."""
        return self.rank == 0

    def describe(self) -> str:
        """Return number and kind of several processes; empty for a single one."""
        return f", {self.world} processes ({self.kind})" if self.world > 1 else ""

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Connect the processes. Each process on GPUs takes a GPU of its own, which `cuda` means from then on.

        An error is raised without waiting for the other processes, which wait elsewhere; torchrun ends them.
        """
        if self.world == 1:
            yield
            return
        _choose_gpu(device)
        if not dist.is_initialized():  # a rejected run leaves it initialized
            _init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        try:
            yield
        except SystemExit:  # all stop together
            self._leave()
            raise
        self._leave()

    def _leave(self) -> None:
        """Leave only when rank 0 has written everything, since torchrun kills all ranks soon after one has failed."""
        self.any(False)
        _left_groups.append(dist.group.WORLD)
        dist.destroy_process_group()

    @contextmanager
    def on_rank0(self, context: AbstractContextManager[Any]) -> Iterator[None]:
        """Enter and leave `context` on rank 0. An exception on entering is raised on all ranks."""
        with ExitStack() as stack:
            error = None
            if self.is_first:
                try:
                    stack.enter_context(context)
                except Exception as e:
                    error = e
            if error := self.broadcast(error):
                raise error
            yield

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0."""
        if self.world > 1:
            box = [value]
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
            value = box[0]
        return value

    def place(self, model: M, device: torch.device) -> M:
        """Move the model to its device, unless `wrap` is going to move it in shards. Local."""
        return model if self.kind == "fsdp" else model.to(device)

    def wrap(self, objective: Any, device: torch.device) -> nn.Module:
        """Return the objective as training calls it. Its `model`, which `place` has placed, is changed in place."""
        if self.kind == "fsdp":
            return _shard(objective, device, self.world)
        if self.kind == "ddp":
            return nn.parallel.DistributedDataParallel(objective, gradient_as_bucket_view=True)
        return objective

    def average_gradients(self, net: Any, on: bool) -> None:
        """Set whether the next backward pass of `net` averages gradients over the processes. Local.

        Only the last micro-batch of a step does; the others add up locally.
        """
        if self.kind == "fsdp":
            net.set_requires_gradient_sync(on)
        elif self.kind == "ddp":
            net.require_backward_grad_sync = on

    @property
    def stream(self) -> str:
        """The suffix that gives this process a dropout stream of its own; empty on rank 0."""
        return f".{self.rank}" if self.rank else ""

    def rows(self, batch: Tensor) -> Tensor:
        """Return this process's rows, (B, ...) -> (B / world, ...), rounded up on the first ranks. Local."""
        return batch[self.rank :: self.world]

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum over the processes."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean over the processes."""
        return self.sum(x) / self.world

    def min(self, x: Tensor) -> Tensor:
        """Return the minimum over the processes."""
        return self._reduced(x, dist.ReduceOp.MIN)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return self._largest(flag) > 0

    def clock(self, seconds: float) -> float:
        """Return the seconds that rank 0 has measured."""
        return self._largest(seconds if self.is_first else 0.0)

    def _largest(self, x: float) -> float:
        """Return the maximum over the processes, exchanged between CPUs so that nobody waits for a GPU."""
        return float(self._reduced(torch.tensor(x, dtype=torch.float64), dist.ReduceOp.MAX))

    def _reduced(self, x: Tensor, op: Any) -> Tensor:
        if self.world > 1:
            x = x.clone()
            dist.all_reduce(x, op)
        return x


SINGLE_PROCESS = ProcessGroup()


def world_size() -> int:
    """Return the number of processes that torchrun has started, 1 without torchrun."""
    return number_in_environment("WORLD_SIZE", 1)


def find_processes(cfg: Settings) -> ProcessGroup:
    """Return the processes that torchrun has started. Raises ConfigError if the run cannot be divided among them."""
    rank, world = number_in_environment("RANK", 0), world_size()
    if world == 1:
        if cfg.parallel != "auto":  # a user who forgot torchrun would get a model that does not fit
            raise ConfigError(
                f"parallel={cfg.parallel}: there is one process; start several with"
                " `torchrun --nproc_per_node=N -m gptlab train ...`, or leave it out"
            )
        return SINGLE_PROCESS
    if cfg.precision == "bf16_weights":
        raise ConfigError("precision=bf16_weights: works with one process; with several choose float32 or bf16")
    for name in ("batch_size", "micro_batch_size"):
        n = cfg.train[name]
        if n is not None and n % world:
            raise ConfigError(
                f"train.{name}={n}: must be a multiple of the {world} processes; set {world * math.ceil(n / world)}"
            )
    return ProcessGroup(rank, world, "ddp" if cfg.parallel == "auto" else cfg.parallel)


def _init_process_group(backend: str) -> None:
    """Use a fresh key prefix for each group; keys that an earlier group has left would confuse the rendezvous."""
    store, rank, world = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    store = dist.PrefixStore(f"gptlab {len(_left_groups)}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)


def _choose_gpu(device: torch.device) -> None:
    n_local = number_in_environment("LOCAL_WORLD_SIZE", 1)
    if device.type == "mps" or device.index is not None:
        raise ConfigError(f"device={device}: several processes need device=cuda, one GPU each, or device=cpu")
    if device.type == "cuda":
        if n_local > torch.cuda.device_count():
            raise ConfigError(
                f"device=cuda: {n_local} processes on a machine with {torch.cuda.device_count()} GPUs; start one each"
            )
        torch.cuda.set_device(number_in_environment("LOCAL_RANK", 0))


def _shard(objective: Any, device: torch.device, world: int) -> nn.Module:
    """Shard every block as a unit and the rest as another, and move the shards to the device.

    Every process needs host memory for a whole copy of the model.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = objective.model
    for name, p in model.named_parameters():
        if p.ndim == 0:
            raise ConfigError(f"parallel=fsdp: {name} has no dimension to shard; give it shape (1,), or use ddp")
    attributes = {name: p.__dict__ for name, p in model.named_parameters()}  # role and gain, which sharding drops
    mesh = init_device_mesh(device.type, (world,))
    for unit in (*model.blocks, objective):
        fully_shard(unit, mesh=mesh)
    for name, p in model.named_parameters():
        p.__dict__.update(attributes[name])
    return objective


def unshard(x: Tensor) -> Tensor:
    """Return the whole of a tensor that may be sharded over the processes."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def gather_on_rank0(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return whole copies of the tensors on the host of rank 0, None on the other ranks."""
    is_first = not dist.is_initialized() or dist.get_rank() == 0
    on_host = {}
    for name, x in tensors.items():
        x = unshard(x.detach())
        if is_first:
            on_host[name] = x.contiguous().cpu()
    return on_host if is_first else None


def shard_like(x: Tensor, like: Any) -> Tensor:
    """Return this process's shard of a whole tensor if `like`, of the same shape, is sharded, else `x`. Local."""
    if not hasattr(like, "full_tensor") or x.shape != like.shape:
        return x
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)  # None: from this process's x
