"""Batches of training windows, read ahead by a thread, or by worker processes where asked."""

import signal
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from dnamamba.errors import DnamambaError

AHEAD: Final = 2
"""Batches that the thread has ready or is reading while one is worked on."""


class Samples(Protocol):
    """Windows of one length, each a pure function of its key: (step, index in the step)."""

    @property
    def length(self) -> int:
        """Bases of a window."""

    def __getitem__(self, key: tuple[int, int], /) -> torch.Tensor:
        """Fetch one, (length,) uint8 store codes."""


class _Keys(Sampler[list[tuple[int, int]]]):
    """The keys of each step's batch."""

    def __init__(self, steps: range, indices: range) -> None:
        self.steps = steps
        self.indices = indices

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self.steps:
            yield [(step, index) for index in self.indices]


def feed(
    windows: Samples,
    steps: range,
    batch: int,
    *,
    first: int = 0,
    workers: int = 0,
    pin: bool = False,
) -> Iterator[torch.Tensor]:
    """Read one batch for each step.

    Batches depend on the step alone: a run that is resumed passes the steps that are left. Torch's
    global random state is neither read nor changed.

    Parameters
    ----------
    windows
        What is drawn.
    steps
        The steps to serve, in order.
    batch
        Samples a step; they are (step, first) to (step, first + batch - 1).
    first
        Index of the first sample: where this process's share of a step begins.
    workers
        Processes that read ahead; with 0 a thread of this process does, which a memory map makes
        quick: no byte is sent from process to process.
    pin
        Whether batches lie in page-locked memory, for a GPU.

    Yields
    ------
    (batch, length) uint8 store codes.

    Raises
    ------
    DnamambaError
        Where a worker process dies.
    """
    indices = range(first, first + batch)
    if workers:
        yield from _read_in_processes(windows, steps, indices, workers, pin)
    else:
        yield from _read_in_a_thread(windows, steps, indices, pin)


def _read_in_a_thread(
    windows: Samples, steps: range, indices: range, pin: bool
) -> Iterator[torch.Tensor]:
    def read(step: int) -> torch.Tensor:
        batch = torch.empty(len(indices), windows.length, dtype=torch.uint8, pin_memory=pin)
        # NumPy copies, because torch would start a second pool of threads beside the model's.
        for row, index in zip(batch.numpy(), indices, strict=True):
            row[:] = windows[step, index].numpy()
        return batch

    thread = ThreadPoolExecutor(1, "feeder")
    coming: deque[Future[torch.Tensor]] = deque()
    try:
        for step in steps:
            coming.append(thread.submit(read, step))
            if len(coming) > AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        thread.shutdown(cancel_futures=True)


def _read_in_processes(
    windows: Samples, steps: range, indices: range, workers: int, pin: bool
) -> Iterator[torch.Tensor]:
    with warnings.catch_warnings():
        # More workers than cores are the caller's choice; workers fork, and use no lock of torch's.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
        loader = DataLoader(
            cast("Dataset[torch.Tensor]", windows),
            batch_sampler=_Keys(steps, indices),
            num_workers=workers,
            collate_fn=torch.stack,
            pin_memory=pin,
            generator=torch.Generator(),
        )
        batches = _iterate(loader)
    failure = None
    try:
        yield from batches
    except DnamambaError as error:
        # A worker's message comes wrapped in its traceback, which ends in "module.Class: message".
        last_line = str(error).strip().splitlines()[-1]
        name = f"{type(error).__module__}.{type(error).__qualname__}: "
        failure = type(error)(last_line.removeprefix(name))
        error.__traceback__ = None
    except (RuntimeError, OSError, EOFError) as error:
        # A batch of a dead worker cannot be opened, or torch waits in vain, and says so.
        died = not isinstance(error, RuntimeError) or "DataLoader worker (pid" in str(error)
        if not died or str(error).startswith("Caught "):
            raise
        failure = DnamambaError(
            "a process that reads windows died, perhaps for want of memory: try fewer workers"
        )
    finally:
        del batches
    # Raised out here, it holds no frame that would keep the other workers waiting.
    if failure:
        raise failure


def _iterate(loader: DataLoader[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Start the workers, but have their deaths told where a batch is waited for, and only there.

    Torch would raise from a signal handler besides: in the middle of an optimiser step, or of a
    checkpoint.
    """
    name = getattr(signal, "SIGCHLD", None)  # Windows has none
    before = signal.getsignal(name) if name else None
    batches: Iterator[torch.Tensor] = iter(loader)
    if name and signal.getsignal(name) is not before:
        signal.signal(name, before)
    return batches
