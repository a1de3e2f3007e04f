"""Measures how the scan's kernels are best cut on the GPU at hand."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources
from triton.testing import do_bench

from dnamamba.errors import UsageError
from dnamamba.kernels.scan import triton_scan
from dnamamba.kernels.scan.inputs import ScanInputs
from dnamamba.kernels.scan.triton_scan import Call, Tiles

WALKS = (
    *(Tiles(128, 1, stages=4), Tiles(256, 2, stages=4), Tiles(128, 2, stages=4)),
    *(Tiles(128, 2, stages=4, registers=128), Tiles(64, 1, stages=4, registers=128)),
    Tiles(256, 4, stages=4, registers=128),
)
WRITTEN_OUT = tuple(
    tiles._replace(stages=3, unroll=unroll)
    for tiles in (Tiles(128, 2, registers=128), Tiles(256, 2))
    for unroll in (2, 4)
)
CANDIDATES: Mapping[str, tuple[Tiles, ...]] = {
    "ends": (*WALKS, *WRITTEN_OUT),
    "adjoint": (*WALKS, *WRITTEN_OUT),
    "replay": WALKS,
    "gradients": (Tiles(8, 1), Tiles(8, 2), Tiles(16, 2), Tiles(16, 4)),
}
"""What is tried beside `triton_scan.TILES`, by phase."""


def tune_selective_scan(
    batch: int,
    length: int,
    channels: int,
    state: int = 16,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device,
) -> dict[str, dict[Tiles, float]]:
    """Time every candidate at a shape, forward and backward; this process goes on with the fastest.

    `triton_scan.TILES` changes for all later scans of up to 16 states, whatever their shape. It
    takes about a minute, most of it compilation. Results stay as right as they were; where the
    gradients are cut otherwise, they may round otherwise.

    Parameters
    ----------
    batch, length, channels, state
        The shape, of up to 16 states: what is best depends on how well it fills the GPU.
    dtype
        Of u, delta, z, B and C, which are random. There are also a D and a bias, and a softplus.
    device
        A GPU.

    Returns
    -------
    For each phase that a scan of this shape has, the milliseconds of each candidate that ran.

    Raises
    ------
    UsageError
        For another device than a GPU, or more than 16 states.
    """
    if device.type != "cuda":
        raise UsageError(f"device {device}: only on a GPU is there something to tune")
    if state > 16:
        raise UsageError(f"{state} states: tiles are tuned for up to 16, more have one cut")

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device)

    sequence, weight = (batch, length, channels), (batch, length, 1, state)
    inputs = ScanInputs(
        u=normal(*sequence, dtype=dtype),
        delta=normal(*sequence, dtype=dtype),
        A=-normal(channels, state).abs(),
        B=normal(*weight, dtype=dtype),
        C=normal(*weight, dtype=dtype),
        D=normal(channels),
        z=normal(*sequence, dtype=dtype),
        delta_bias=normal(channels),
        starts=None,
        delta_softplus=True,
        reverse=False,
    )
    with torch.cuda.device(device):
        return {phase: _fastest(phase, run) for phase, run in _phases(inputs).items()}


def _fastest(phase: str, run: Callable[[], object]) -> dict[Tiles, float]:
    """Time the candidates of a phase, and leave the fastest in `triton_scan.TILES`."""
    times: dict[Tiles, float] = {}
    for tiles in dict.fromkeys((triton_scan.TILES[phase], *CANDIDATES[phase])):
        triton_scan.TILES[phase] = tiles
        try:
            times[tiles] = do_bench(run, return_mode="median")
        except OutOfResources:
            continue
    triton_scan.TILES[phase] = min(times, key=lambda tiles: times[tiles])
    return times


def _phases(inputs: ScanInputs) -> dict[str, Callable[[], object]]:
    """Give the calls to time, each on what the phases before it leave."""
    call = Call(inputs)
    chunk = triton_scan.CHUNK
    stride = call.span // chunk
    states = call.new(*triton_scan.saved_shape(inputs))
    sums = call.new(call.batch, call.spans, call.channels)
    y = torch.empty_like(inputs.u, memory_format=torch.contiguous_format)
    dy = torch.randn_like(y)
    adjoints = torch.empty_like(states)
    chunks = states.shape[1] - 1
    chunk_sums = call.new(call.batch, chunks, call.channels)

    def ends() -> None:
        call.ends(states, sums, None, call.span, stride, call.spans - 1)

    def adjoint() -> None:
        call.ends(adjoints, chunk_sums, dy, chunk, 1, chunks)

    ends()
    call.carry(states, sums, None, call.spans, stride)
    call.replay(states, y, chunk, stride)
    adjoint()
    call.carry(adjoints, chunk_sums, None, chunks + 1, 1)
    kept, handed_back = states.clone(), adjoints.clone()
    phases: dict[str, Callable[[], object]] = {
        "replay": lambda: call.replay(states, y, chunk, stride),
        "adjoint": adjoint,
    }
    if call.spans > 1:
        phases["ends"] = ends
    if call.fits_gluon(dy):
        phases["gradients"] = lambda: call.differentiate(kept, handed_back, dy)
    return phases
