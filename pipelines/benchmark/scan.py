"""`dnamamba benchmark scan`: time and memory of the selective scan, forward and backward.

Every figure is taken in a process of its own. `loop` is the sequential reference under autograd,
and `transformers` the PyTorch path of that package's Mamba, where it is installed.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import click
import torch
from torch import Tensor

from dnamamba.errors import DnamambaError
from dnamamba.log import logger
from dnamamba.pipelines import options
from dnamamba.pipelines.benchmark.process import alone, limit_memory
from dnamamba.pipelines.table import Cell, print_table
from dnamamba.training.monitor import peak_memory

PATHS: Final = ("loop", "chunked", "numba", "transformers")
COLUMNS: Final = (
    "path",
    "batch",
    "length",
    "channels",
    "state",
    "forward_s",
    "forward_backward_s",
    "peak_gib",
    "note",
)
LENGTHS: Final = (4_096, 16_384, 65_536, 262_144, 1_048_576)
REPEATS: Final = 5
ENOUGH: Final = 5.0
"""Seconds of measuring after which no further repeat begins."""


def benchmark_scan(
    paths: tuple[str, ...],
    lengths: tuple[int, ...],
    *,
    batch: int,
    channels: int,
    state: int,
    device: str,
    threads: int,
    memory: float,
    timeout: float,
) -> Iterator[tuple[Cell, ...]]:
    """Measure each path at each length in fp32, and yield rows of `COLUMNS`.

    A path is dropped after its first length that takes over `timeout` seconds or `memory` GiB.
    """
    for path in paths:
        for length in lengths:
            logger.info("measuring %s at %d", path, length)
            shape = (batch, length, channels, state)
            try:
                forward, both, peak = alone(
                    measure, path, shape, device, threads, memory, timeout=timeout
                )
            except DnamambaError as error:
                yield (path, *shape, "", "", "", str(error))
                break
            yield (path, *shape, forward, both, round(peak / 2**30, 2), "")


def measure(
    path: str, shape: tuple[int, int, int, int], device: str, threads: int, memory: float
) -> tuple[float, float, int]:
    """Return the median seconds of a forward and of a forward and backward, and peak bytes.

    A forward is timed as in training, keeping what its backward needs. On a CPU the peak is the
    process's whole resident memory, inputs and the interpreter included; on a GPU it is what
    PyTorch allocated.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    where = torch.device(device)
    if where.type == "cpu":
        limit_memory(memory)
    run, leaves = _prepare(path, shape, where)
    for leaf in leaves:
        leaf.requires_grad_()

    def forward() -> None:
        run()

    def both() -> None:
        for leaf in leaves:
            leaf.grad = None
        y = run()
        torch.autograd.backward(y, torch.ones_like(y))

    times = [_time(call, where) for call in (forward, both)]
    return times[0], times[1], peak_memory(where)


def _time(call: Callable[[], None], where: torch.device) -> float:
    """Return the median of `REPEATS` runs after a warm-up; fewer where they take long."""

    def once() -> float:
        begin = time.perf_counter()
        call()
        if where.type == "cuda":
            torch.cuda.synchronize(where)
        return time.perf_counter() - begin

    first = once()
    if first > ENOUGH:
        return first
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < ENOUGH:
        times.append(once())
    return statistics.median(times)


def _prepare(
    path: str, shape: tuple[int, int, int, int], where: torch.device
) -> tuple[Callable[[], Tensor], list[Tensor]]:
    batch, length, channels, state = shape

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, device=where)

    def uniform(*size: int) -> Tensor:
        return 0.5 * torch.rand(*size, device=where)

    inputs: dict[str, Any] = {
        "u": normal(batch, length, channels),
        "delta": uniform(batch, length, channels),
        "A": -uniform(channels, state),
        "B": normal(batch, length, state),
        "C": normal(batch, length, state),
        "D": normal(channels),
        "z": normal(batch, length, channels),
        "delta_bias": uniform(channels),
    }
    leaves = list(inputs.values())
    if path == "transformers":
        from transformers.models.mamba.modeling_mamba import mamba_selective_scan

        def theirs() -> Tensor:
            y: Tensor = mamba_selective_scan(
                inputs["u"].transpose(1, 2),
                inputs["delta"].transpose(1, 2),
                inputs["A"],
                inputs["B"].transpose(1, 2),
                inputs["C"].transpose(1, 2),
                D=inputs["D"],
                z=inputs["z"].transpose(1, 2),
                delta_bias=inputs["delta_bias"],
                delta_softplus=True,
            )
            return y

        return theirs, leaves
    from dnamamba.kernels import selective_scan

    backend = "reference" if path == "loop" else path
    return lambda: selective_scan(**inputs, delta_softplus=True, backend=backend), leaves


@click.command()
@click.option(
    "--path",
    "paths",
    type=click.Choice(PATHS),
    multiple=True,
    help="What to measure.  [default: all]",
)
@click.option(
    "--length", "lengths", type=int, multiple=True, help="Steps.  [default: 4096 to 2^20]"
)
@click.option("--batch", type=int, default=1, show_default=True)
@click.option("--channels", type=int, default=256, show_default=True)
@click.option("--state", type=int, default=16, show_default=True)
@click.option(
    "--memory",
    type=float,
    default=16,
    show_default=True,
    help="GiB that a figure on a CPU may take.",
)
@click.option("--timeout", type=float, default=300, show_default=True, help="Seconds for a figure.")
@options.device
@options.threads
@options.verbosity
def command(
    paths: tuple[str, ...],
    lengths: tuple[int, ...],
    batch: int,
    channels: int,
    state: int,
    memory: float,
    timeout: float,
    device: str,
    threads: int,
) -> None:
    """Time and memory of the selective scan, forward and backward, fp32."""
    where = options.resolve_device(device)
    rows = benchmark_scan(
        paths or tuple(path for path in PATHS if path != "numba" or where.type == "cpu"),
        lengths or LENGTHS,
        batch=batch,
        channels=channels,
        state=state,
        device=str(where),
        threads=threads,
        memory=memory,
        timeout=timeout,
    )
    print_table(COLUMNS, rows)
