"""`dnamamba benchmark kernels`: each op beside the least time it can take, and beside its peers."""

import click
import torch

from dnamamba.kernels.dispatch import BACKENDS
from dnamamba.pipelines import options
from dnamamba.pipelines.benchmark.kernels.rows import COLUMNS, DTYPES, benchmark_kernels
from dnamamba.pipelines.benchmark.kernels.workloads import OPS, Shape
from dnamamba.pipelines.numbers import read_shape
from dnamamba.pipelines.table import print_table


@click.command("kernels")
@click.option(
    "--op",
    "ops",
    type=click.Choice(list(OPS)),
    multiple=True,
    help="May be repeated.  [default: all]",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="BxLxD",
    help="Batch, length and channels; may be repeated.  [default: by op and device]",
)
@click.option(
    "--state", type=click.IntRange(min=1), default=16, show_default=True, help="States a channel."
)
@click.option(
    "--dtype",
    type=click.Choice(list(DTYPES)),
    help="Of the activations; weights are fp32.  [default: bf16 on a GPU, else fp32]",
)
@click.option(
    "--backend",
    "backends",
    type=click.Choice(BACKENDS),
    multiple=True,
    default=["auto"],
    show_default=True,
    help="What to compare, where an op has it; may be repeated.",
)
@click.option(
    "--peers",
    "with_peers",
    is_flag=True,
    help="Add mamba_ssm, causal_conv1d, causal attention and a scan step by step.",
)
@click.option(
    "--tune",
    is_flag=True,
    help="Measure first how the scan's Triton kernels are best cut, at each shape: a minute each.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="Measure each figure for so long.",
)
@options.device
@options.threads
@options.verbosity
def command(
    ops: tuple[str, ...],
    shapes: tuple[str, ...],
    state: int,
    dtype: str | None,
    backends: tuple[str, ...],
    with_peers: bool,
    tune: bool,
    seconds: float,
    device: str,
    threads: int,
) -> None:
    """Time and memory of each kernel, beside the least time that it can take.

    A row is one op (scan, conv, norm, update) at one shape, forward or forward and backward. The
    floor is the slower of two: moving every input and output once at the speed of a large copy,
    measured in the same run, and on a GPU the scan's exponentials at 16 a clock and
    multiprocessor. Times are medians, on a GPU by its own clock; launch_ms is what Python takes to
    queue the same work, which a GPU that is kept busy does not wait for; first_s is the first call,
    with compilation; peak_gib is what was allocated beyond the inputs, on a GPU.
    """
    where = options.resolve_device(device)
    torch.set_num_threads(threads)
    rows = benchmark_kernels(
        ops or tuple(OPS),
        [Shape(*read_shape(text, "BATCHxLENGTHxCHANNELS", "1x1Mix256")) for text in shapes],
        state=state,
        dtype=None if dtype is None else DTYPES[dtype],
        backends=backends,
        with_peers=with_peers,
        tune=tune,
        device=where,
        seconds=seconds,
    )
    print_table(COLUMNS, rows)
