"""The table: every op, shape, path and pass in turn, one row each."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import torch

from dnamamba.errors import UsageError
from dnamamba.log import logger
from dnamamba.pipelines.benchmark.kernels import peers
from dnamamba.pipelines.benchmark.kernels.floors import Floor, Machine, floor, measure_machine
from dnamamba.pipelines.benchmark.kernels.timer import Figure, Timer
from dnamamba.pipelines.benchmark.kernels.workloads import (
    OPS,
    Contender,
    Draw,
    Shape,
    Workload,
    resolve_backend,
    timed,
)
from dnamamba.pipelines.table import Cell

COLUMNS: Final = (
    "op",
    "path",
    "batch",
    "length",
    "channels",
    "state",
    "dtype",
    "pass",
    "time_ms",
    "launch_ms",
    "gb_per_second",
    "floor_ms",
    "floor_of",
    "ratio",
    "peak_gib",
    "first_s",
    "note",
)
DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_ONE_LONG: Final = (Shape(1, 1_048_576, 256),)
_STEPS: Final = (Shape(1, 1, 256), Shape(8, 1, 1024), Shape(64, 1, 1024))
GPU_SHAPES: Final = {
    "scan": (
        Shape(1, 1_048_576, 256),
        Shape(1, 1_048_576, 512),
        Shape(1, 262_144, 1024),
        Shape(8, 16_384, 1024),
        Shape(64, 2_048, 1024),
        Shape(1, 131_072, 256),
    ),
    "conv": _ONE_LONG,
    "norm": _ONE_LONG,
    "update": _STEPS,
}
CPU_SHAPES: Final = {
    "scan": (Shape(1, 4_096, 256), Shape(1, 32_768, 256)),
    "conv": (Shape(1, 32_768, 256),),
    "norm": (Shape(1, 32_768, 256),),
    "update": _STEPS,
}


def benchmark_kernels(
    ops: Sequence[str],
    shapes: Sequence[Shape],
    *,
    state: int,
    dtype: torch.dtype | None,
    backends: Sequence[str],
    with_peers: bool,
    tune: bool = False,
    device: torch.device,
    seconds: float,
) -> Iterator[tuple[Cell, ...]]:
    """Measure, and yield rows of `COLUMNS`: an op at a shape on a path, one row for each pass.

    Parameters
    ----------
    ops
        Some of `OPS`.
    shapes
        Where to measure each op; none is `GPU_SHAPES` or `CPU_SHAPES`. An update takes one step,
        whatever their length.
    state
        States a channel.
    dtype
        Of the activations; None is bf16 on a GPU, else fp32.
    backends
        Some of `dnamamba.kernels.dispatch.BACKENDS`; an op leaves out those that it has not.
    with_peers
        Whether to add other packages' scan and convolution, causal attention and a scan that takes
        one step at a time.
    tune
        Whether to measure first how the scan's Triton kernels are best cut at each shape.
    device
        Where to measure.
    seconds
        The budget of a figure, past its warm-up.

    Raises
    ------
    UsageError
        For an unknown op, or where no op runs on any of the backends.
    """
    for op in ops:
        if op not in OPS:
            raise UsageError(f"op {op!r} is not one of {', '.join(OPS)}")
    if not any(backend in OPS[op].backends for op in ops for backend in backends):
        wanted = "; ".join(f"{op} has {', '.join(OPS[op].backends)}" for op in ops)
        raise UsageError(f"backend {', '.join(backends)}: {wanted}")
    gpu = device.type == "cuda"
    timer = Timer(device, seconds)
    machine = measure_machine(timer)
    logger.info("a copy moves %.1f GB/s", machine.bandwidth / 1e9)
    for op in ops:
        works = _workloads(
            op,
            shapes or (GPU_SHAPES if gpu else CPU_SHAPES)[op],
            state,
            dtype or (torch.bfloat16 if gpu else torch.float32),
        )
        for work in works:
            for contender in _paths(work, backends, device):
                if tune and (op, contender.path) == ("scan", "triton"):
                    _tune(work, device)
                yield from _rows(contender, timer, machine)
        if with_peers:
            yield from _peer_rows(op, works, timer, machine)


def _workloads(op: str, shapes: Sequence[Shape], state: int, dtype: torch.dtype) -> list[Workload]:
    """Give an op its shapes, and the norm residual streams in fp32 and in the activations' type."""
    if op == "update":
        shapes = list(dict.fromkeys(shape._replace(length=1) for shape in shapes))
    residuals = dict.fromkeys((torch.float32, dtype) if op == "norm" else (torch.float32,))
    state = state if OPS[op].stateful else 0
    return [
        Workload(op, shape, state, dtype, residual) for shape in shapes for residual in residuals
    ]


def _paths(work: Workload, backends: Sequence[str], device: torch.device) -> Iterator[Contender]:
    """Give each of the backends that the op has, once."""
    op = OPS[work.op]
    note = f"residual {_dtype_name(work.residual)}" if work.op == "norm" else ""
    wanted = [backend for backend in backends if backend in op.backends]
    for path in dict.fromkeys(resolve_backend(work, backend, device) for backend in wanted):
        yield Contender(path, work, partial(op.prepare, work, path), op.passes, note)


def _tune(work: Workload, device: torch.device) -> None:
    """Measure how the scan is best cut at a shape, and say what it gave."""
    # Triton is imported only where it is used.
    from dnamamba.kernels.scan.tuning import tune_selective_scan

    found = tune_selective_scan(*work.shape, work.state, dtype=work.dtype, device=device)
    for phase, times in found.items():
        for tiles, milliseconds in sorted(times.items(), key=lambda item: item[1]):
            logger.info("%s: %.3f ms with %s", phase, milliseconds, tiles)
    _release(device)


def _peer_rows(
    op: str, works: Sequence[Workload], timer: Timer, machine: Machine
) -> Iterator[tuple[Cell, ...]]:
    """Measure what an op is held against; a package that is not there has one row that says so."""
    if op in peers.PACKAGES:
        package, prepare = peers.PACKAGES[op]
        if peers.installed(package):
            for work in works:
                contender = Contender(package, work, partial(prepare, work))
                yield from _rows(contender, timer, machine)
        else:
            yield _row({"op": op, "path": package, "note": "not installed"})
    if op == "scan":
        for work in works:
            yield from _rows(peers.sequential(work), timer, machine)
        lengths = dict.fromkeys((work.shape.batch, work.shape.length) for work in works)
        for batch, length in lengths:
            contender = peers.longest_attention(batch, length, works[0].dtype, timer)
            yield from _rows(contender, timer, machine)


def _rows(contender: Contender, timer: Timer, machine: Machine) -> Iterator[tuple[Cell, ...]]:
    """Measure the passes of a path; one that fails leaves its figures empty and says why."""
    work = contender.work
    for name in contender.passes:
        size = "x".join(map(str, work.shape))
        logger.info("measuring %s, %s, %s, %s", work.op, contender.path, size, name)
        least = floor(work, name, machine)
        figures: dict[str, Cell] = {}
        note = contender.note
        try:
            draw = Draw(timer.device)
            figure = timer.measure(timed(contender.prepare(draw), name, draw))
        except Exception as error:
            note = "; ".join(filter(None, (note, _reason(error))))
        else:
            figures = _figures(figure, least)
        _release(timer.device)
        yield _row(
            {
                "op": work.op,
                "path": contender.path,
                **work.shape._asdict(),
                "state": work.state or "",
                "dtype": _dtype_name(work.dtype),
                "pass": name,
                "floor_ms": "" if least is None else _rounded(least.seconds * 1e3),
                "floor_of": "-" if least is None else least.of,
                "note": note,
                **figures,
            }
        )


def _figures(figure: Figure, least: Floor | None) -> dict[str, Cell]:
    """Give what a measurement says, in the columns' units."""
    cells: dict[str, Cell] = {
        "time_ms": _rounded(figure.seconds * 1e3),
        "first_s": _rounded(figure.first),
    }
    if figure.launch is not None:
        cells["launch_ms"] = _rounded(figure.launch * 1e3)
    if figure.peak is not None:
        cells["peak_gib"] = _rounded(figure.peak / 2**30)
    if least is not None:
        cells["gb_per_second"] = _rounded(least.moved / figure.seconds / 1e9)
        cells["ratio"] = _rounded(figure.seconds / least.seconds)
    return cells


def _row(cells: Mapping[str, Cell]) -> tuple[Cell, ...]:
    """Put cells in the columns' order; the rest stay empty."""
    return tuple(cells.get(column, "") for column in COLUMNS)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _dtype_name(dtype: torch.dtype) -> str:
    return next(name for name, known in DTYPES.items() if known == dtype)


def _reason(error: Exception) -> str:
    """Say in one line why a path failed."""
    text = " ".join(str(error).partition("\n")[0].split()) or type(error).__name__
    memory = isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text
    return "out of memory" if memory else text


def _release(device: torch.device) -> None:
    """Hand back what a path held, so that the next finds a GPU's whole memory."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
