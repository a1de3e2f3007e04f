"""`dnamamba benchmark step`: time and memory of a whole training step, beside what is planned.

Forward, backward, clipping and AdamW on random bases, the weights and all buffers warm. Under
torchrun all processes take the step together: `batch` is of all of them. `attention` is PyTorch's
causal attention alone, forward and backward, once for every layer of the paper (two blocks).
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import click
import torch

from dnamamba.errors import UsageError
from dnamamba.evaluation.plots import plot_scaling
from dnamamba.kernels.dispatch import choose_scan_backend
from dnamamba.log import logger
from dnamamba.models.block import Recompute
from dnamamba.models.heads import LanguageModel
from dnamamba.models.precision import autocast_to
from dnamamba.models.presets import preset
from dnamamba.pipelines import options
from dnamamba.pipelines.numbers import Count, read_shape
from dnamamba.pipelines.table import print_table
from dnamamba.processes import ALONE, Processes, join
from dnamamba.training.footprint import Pass, peak_bytes
from dnamamba.training.loop import train_step
from dnamamba.training.monitor import peak_memory
from dnamamba.training.objectives import NextBase
from dnamamba.training.optimizer import OptimizerConfig, build_optimizer
from dnamamba.training.parallel import WAYS, Way, distribute

REPEATS: Final = 5
HEAD: Final = 64
"""Channels of a head of attention."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement; None where there is no such figure."""

    path: str
    recompute: str
    batch: int
    length: int
    processes: int
    step_ms: float | None = None
    bases_per_second: float | None = None
    peak_gib: float | None = None
    planned_gib: float | None = None
    note: str = ""


COLUMNS: Final = tuple(field.name for field in dataclasses.fields(Row))


def benchmark_step(
    name: str,
    shapes: Sequence[tuple[int, int]],
    ways: Sequence[Recompute],
    *,
    device: torch.device,
    precision: str,
    attention: bool = False,
    parallel: Way = "ddp",
    processes: Processes = ALONE,
) -> Iterator[Row]:
    """Measure steps of each (batch, length) and way; peak memory is that of one process.

    Parameters
    ----------
    name
        A preset.
    shapes
        Windows and bases of each.
    ways
        What is made again.
    device, precision
        Where, and fp32 or bf16.
    attention
        Whether to add attention at each shape.
    parallel, processes
        As in `pretrain`.
    """
    config = preset(name)
    for batch, length in shapes:
        windows = batch // processes.readers
        if batch % processes.readers:
            raise UsageError(f"--shape {batch}x{length}: {processes.readers} processes share it")
        for way in ways:
            row = Row(name, way, batch, length, processes.size)
            element = 4 if precision == "fp32" else 2
            asked = Pass(windows, length, way, parts=processes.parts, element=element)
            triton = choose_scan_backend("auto", device).backend == "triton"
            planned = peak_bytes(config, asked) / 2**30 if triton else None
            step = _step(name, windows, length, way, device, precision, parallel, processes)
            yield _measured(dataclasses.replace(row, planned_gib=planned), step, device)
        if attention:
            heads, layers = max(1, config.d_model // HEAD), config.n_layer // 2
            row = Row("attention", "none", batch, length, 1, note=f"{layers} x {heads} heads")
            yield _measured(row, _attention(windows, length, heads, layers, device), device)


def _measured(row: Row, prepare: Callable[[], Callable[[], Any]], device: torch.device) -> Row:
    try:
        milliseconds, peak = _measure(prepare, device)
    except torch.OutOfMemoryError:
        return dataclasses.replace(row, note="out of memory")
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return dataclasses.replace(
        row,
        step_ms=milliseconds,
        bases_per_second=row.batch * row.length / milliseconds * 1000,
        peak_gib=peak / 2**30,
    )


def _measure(prepare: Callable[[], Callable[[], Any]], device: torch.device) -> tuple[float, int]:
    """Return the median milliseconds of a few calls after two to warm up, and peak bytes."""
    call = prepare()

    def once() -> float:
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1000 * (time.perf_counter() - begin)

    once()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    once()
    return statistics.median(once() for _ in range(REPEATS)), peak_memory(device)


def _step(
    name: str,
    windows: int,
    length: int,
    way: Recompute,
    device: torch.device,
    precision: str,
    parallel: Way,
    processes: Processes,
) -> Callable[[], Callable[[], Any]]:
    def prepare() -> Callable[[], Any]:
        torch.manual_seed(0)
        model = LanguageModel(preset(name)).to(device)
        model.recompute = way
        autocast = autocast_to(precision, device)
        trained = distribute(model, processes, parallel, autocast)
        settings = OptimizerConfig()
        optimizer = build_optimizer(model, settings)
        objective = NextBase(model.tokens)
        draw = torch.Generator().manual_seed(processes.reader)
        codes = torch.randint(0, 4, (windows, length), dtype=torch.uint8, generator=draw).to(device)

        def step() -> None:
            train_step(
                trained,
                optimizer,
                objective,
                codes,
                0,
                micro_batch=windows,
                clip=settings.clip,
                autocast=autocast,
                processes=processes,
            )

        return step

    return prepare


def _attention(
    windows: int, length: int, heads: int, layers: int, device: torch.device
) -> Callable[[], Callable[[], Any]]:
    def prepare() -> Callable[[], Any]:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        shape = (windows, heads, length, HEAD)
        query, key, value = (
            torch.randn(shape, dtype=dtype, device=device).requires_grad_() for _ in range(3)
        )

        def attend() -> None:
            for _ in range(layers):
                y = torch.nn.functional.scaled_dot_product_attention(
                    query, key, value, is_causal=True
                )
                torch.autograd.grad(y, (query, key, value), torch.ones_like(y))

        return attend

    return prepare


def _shape(text: str) -> tuple[int, int]:
    batch, length = read_shape(text, "BATCHxLENGTH", "8x131072 or 1x1Mi")
    return batch, length


@click.command("step")
@click.option("--preset", "name", metavar="SIZE", default="1.4m", show_default=True)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="BxL",
    help="Windows and bases of each; may be repeated.  [default: 1x1Mi, on a CPU 1x4096]",
)
@click.option(
    "--recompute",
    "ways",
    type=click.Choice(get_args(Recompute)),
    multiple=True,
    help="What the backward makes again; may be repeated.  [default: scan]",
)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="[default: bf16 on a GPU]")
@click.option("--attention", is_flag=True, help="Add attention alone at each shape.")
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="PNG", help="Draw time and memory by length."
)
@click.option(
    "--parallel", type=click.Choice(WAYS), default="ddp", show_default=True, help="Under torchrun."
)
@click.option("--sequence-parallel", type=Count(), default=1, show_default=True, metavar="N")
@options.device
@options.threads
@options.verbosity
def command(
    name: str,
    shapes: tuple[str, ...],
    ways: tuple[Recompute, ...],
    precision: str | None,
    attention: bool,
    plot: Path | None,
    parallel: Way,
    sequence_parallel: int,
    device: str,
    threads: int,
) -> None:
    """Measure training steps, and print TSV."""
    torch.set_num_threads(threads)
    asked = options.resolve_device(device)
    with join(asked, sequence_parallel) as (processes, where):
        on_gpu = where.type == "cuda"
        rows = benchmark_step(
            name,
            [_shape(text) for text in shapes or ("1x1Mi" if on_gpu else "1x4096",)],
            ways or ("scan",),
            device=where,
            precision=precision or ("bf16" if on_gpu else "fp32"),
            attention=attention,
            parallel=parallel,
            processes=processes,
        )
        if not processes.is_first:
            for _ in rows:
                pass
            return
        seen: list[Row] = []
        print_table(COLUMNS, _told(rows, seen))
        if plot:
            plot_scaling([dataclasses.asdict(row) for row in seen], plot)
            logger.info("drawn: %s", plot)


def _told(rows: Iterator[Row], seen: list[Row]) -> Iterator[tuple[str | int | float, ...]]:
    """Turn rows into cells, and remember them."""
    for row in rows:
        seen.append(row)
        yield tuple("" if cell is None else cell for cell in dataclasses.astuple(row))
