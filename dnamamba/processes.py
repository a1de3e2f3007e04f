"""The processes that torchrun started for one job: who they are, what is whose, what all agree on.

They form a mesh. Along its outer dimension, "data", each reads windows of its own; along the inner
one, "sequence", neighbours hold the parts of the same windows, in order. A process that nobody
started with others is `ALONE`, and all of this is nothing to it.

Losses and gradients travel over the mesh. What the processes have to agree on, a signal or an
error, say, goes through a group of its own that runs on CPUs: it waits for no device, it notices at
once that a process has died, and it has the patience to wait until one has read a genome.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.rendezvous import rendezvous

from dnamamba.errors import DnamambaError, UsageError

PATIENCE: Final = timedelta(days=1)
"""How long processes wait for what one of them does for all, such as to index a genome."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """The processes of a job, as one of them sees them.

    Attributes
    ----------
    rank, size
        Which of how many this is.
    parts
        How many hold a part each of the same windows.
    group
        Those that hold the parts of this process's windows; None for whole windows.
    control
        All, on their CPUs.
    """

    rank: int = 0
    size: int = 1
    parts: int = 1
    group: ProcessGroup | None = None
    control: ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and speaks for all."""
        return self.rank == 0

    @property
    def readers(self) -> int:
        """How many of them read windows of their own."""
        return self.size // self.parts

    @property
    def reader(self) -> int:
        """Which of the readers this process is, or belongs to."""
        return self.rank // self.parts

    def share(self, count: int) -> range:
        """Return which of `count` windows are this process's; `readers` divides them."""
        mine = count // self.readers
        return range(self.reader * mine, (self.reader + 1) * mine)

    def part(self, length: int) -> slice:
        """Return which of the positions of a window are this process's."""
        here = self.rank % self.parts
        return slice(length * here // self.parts, length * (here + 1) // self.parts)

    def add(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.control if tensor.device.type == "cpu" else None)
        return tensor

    def largest(self, *values: float) -> list[float]:
        """Return the largest of each value over all processes."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.control)
        largest: list[float] = tensor.tolist()
        return largest

    def on_first(self, function: Callable[[], Value]) -> Value:
        """Let the first process do something: its result, or its error, is everyone's.

        Raises
        ------
        DnamambaError
            On every process, where it is raised on the first.
        """
        if self.size == 1:
            return function()
        outcome: list[Value | DnamambaError | None] = [None]
        if self.is_first:
            try:
                outcome[0] = function()
            except DnamambaError as error:
                outcome[0] = error
        dist.broadcast_object_list(outcome, src=0, group=self.control)
        result = outcome[0]
        if isinstance(result, DnamambaError):
            raise result
        return result  # type: ignore[return-value]


ALONE: Final = Processes()


class LostProcessError(DnamambaError):
    """Another process of the job has died, and the job with it."""


def are_many() -> bool:
    """Tell whether torchrun started this process together with others."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        return False
    return int(os.environ["WORLD_SIZE"]) > 1


def here() -> int:
    """Count the processes that torchrun started on this machine; one without it."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if are_many() else 1


@contextmanager
def join(device: torch.device, parts: int = 1) -> Iterator[tuple[Processes, torch.device]]:
    """Meet the other processes that torchrun started, and part from them in the end.

    Parameters
    ----------
    device
        Where they compute: the CPU, or CUDA, where each takes a GPU of its own.
    parts
        How many processes hold a part each of the same windows.

    Yields
    ------
    The processes, and the device of this one.

    Raises
    ------
    UsageError
        Where `parts` does not divide the processes, or there are not enough GPUs.
    LostProcessError
        Where another process dies. Errors that several processes raise alike are raised by one,
        and so is this one where another told the cause; the others end without a word.
    """
    if not are_many():
        _require_divided(1, parts)
        yield ALONE, device
        return
    store, rank, size = next(rendezvous("env://"))
    try:
        with losses_told():
            device = _own_device(device)
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=store,
                rank=rank,
                world_size=size,
                device_id=device if device.type == "cuda" else None,
            )
            yield form(device, parts), device
    except DnamambaError as error:
        if not _is_news(store, error):
            raise SystemExit(error.exit_code) from None
        raise
    # Not after an error: it would wait for those that are not there any more.
    dist.destroy_process_group()


def _own_device(device: torch.device) -> torch.device:
    if device.type == "cpu":
        return device
    if str(device) != "cuda":
        raise UsageError(f"--device {device}: torchrun's processes cannot share it; cuda or cpu")
    if here() > torch.cuda.device_count():
        raise UsageError(
            f"torchrun starts {here()} processes on a machine with {torch.cuda.device_count()} "
            f"GPUs: give --nproc-per-node {torch.cuda.device_count()}, or --device cpu"
        )
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


class _Tally(Protocol):
    """What of a store an error needs: counts that all processes add to."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a count, and return it."""


def _is_news(store: _Tally, error: DnamambaError) -> bool:
    """Tell whether no other process has said an error, or its cause, before."""
    try:
        # Whoever comes second with the same words counts nothing: it may overtake the first.
        if store.add(f"error: {error}", 1) > 1:
            return False
        is_first = store.add("errors", 1) == 1
    except RuntimeError:  # torchrun itself is gone
        return True
    return is_first or not isinstance(error, LostProcessError)


def form(device: torch.device, parts: int = 1) -> Processes:
    """Arrange the processes of torch's default group; errors as in `join`."""
    rank, size = dist.get_rank(), dist.get_world_size()
    _require_divided(size, parts)
    control = dist.new_group(backend="gloo", timeout=PATIENCE)
    mesh = init_device_mesh(
        device.type, (size // parts, parts), mesh_dim_names=("data", "sequence")
    )
    return Processes(rank, size, parts, mesh.get_group("sequence") if parts > 1 else None, control)


def _require_divided(size: int, parts: int) -> None:
    if parts < 1 or size % parts:
        raise UsageError(
            f"--sequence-parallel {parts}: does not divide the number of processes, {size}; "
            "torchrun --nproc-per-node says how many there are"
        )


@contextmanager
def losses_told() -> Iterator[None]:
    """Turn what torch raises where another process has died into a LostProcessError."""
    try:
        yield
    except RuntimeError as error:
        # Errors of gloo have no type of their own, but a path of its sources.
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise LostProcessError("another process of the job has died") from error
