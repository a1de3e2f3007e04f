"""The scan on a GPU: how its phases are cut into programs, and launched.

An `Implementation` by itself; `dnamamba.kernels.scan.autograd` calls it. The phases are kernels of
`gpu` and, where its conditions hold, of `gluon`.
"""

import functools
import importlib.util
from types import ModuleType
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from dnamamba.errors import UsageError
from dnamamba.kernels.dispatch import interprets_triton, on_device_of
from dnamamba.kernels.scan import gpu, gpu_backward
from dnamamba.kernels.scan.inputs import MAX_STATES, ScanGradients, ScanInputs
from dnamamba.kernels.split import Exchange

CHUNK = 64
"""Steps between the states that the forward keeps: the backward recomputes those between."""
SPAN = 256
"""Steps of a span where the GPU needs as many programs as there can be."""
PROGRAMS = 2048
"""Programs that fill a GPU: with as many blocks of channels, the sequence stays in one span."""
IN_FLIGHT = 2**20
"""Elements that `gpu.carry_kernel` takes at a time, to keep the memory busy."""
SCRATCH = 2**26
"""Elements that `gpu_backward` may keep of the states between."""


class Tiles(NamedTuple):
    """How a kernel is cut and compiled.

    Channels and warps of a program, steps loaded ahead, steps written out in a turn of the loop,
    and the registers that a thread may have.
    """

    channels: int
    warps: int
    stages: int = 1
    unroll: int = 1
    registers: int | None = None

    @property
    def share(self) -> int:
        """A thread's channels."""
        return max(1, self.channels // (32 * self.warps))


TILES = {
    "ends": Tiles(128, 2, stages=4, registers=128),
    "adjoint": Tiles(128, 2, stages=3, unroll=4, registers=128),
    "replay": Tiles(256, 2, stages=4),
    "gradients": Tiles(16, 2),
    "plain gradients": Tiles(64, 1),
}
"""For up to 16 states, measured on an H200; `tuning.tune_selective_scan` measures again.

`gradients` are `gluon`'s, whose channels are those between two loads; `plain gradients` are
`gpu_backward`'s.
"""


def tiles_for(phase: str, state: int, width: int) -> Tiles:
    """Choose from `TILES`, or, for more states, a warp's channels and as many warps as hold them.

    Parameters
    ----------
    phase
        A key of `TILES`.
    state
        States, a power of two.
    width
        Channels of a group.
    """
    if state <= 16:
        tiles = TILES[phase]
        channels = min(tiles.channels, max(32, triton.next_power_of_2(width)))
        return tiles._replace(channels=channels, warps=min(tiles.warps, channels // 32))
    return Tiles(32, max(1, state * 32 // (512 if phase == "plain gradients" else 1024)), 3)


@functools.cache
def _gluon() -> ModuleType | None:
    """Import the kernels with explicit layouts, where this Triton has them."""
    if interprets_triton() or importlib.util.find_spec("triton.experimental.gluon") is None:
        return None
    from dnamamba.kernels.scan import gluon

    return gluon


def _rows(tensor: Tensor) -> Tensor:
    """Make the channels contiguous, if they are not; any other stride will do."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


class _Weights:
    """B or C as the kernels take it: (state, channels) if constant, else rows of states.

    Rows that begin at any address are loaded state by state: to copy them takes less time.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.constant = tensor.dim() == 2
        self.tensor = tensor.T.contiguous() if self.constant else _rows(tensor)
        if any(size % 16 for size in (*self.tensor.stride()[:-1], self.tensor.data_ptr())):
            self.tensor = self.tensor.contiguous()
        self.strides = (0, 0, 0) if self.constant else tuple(self.tensor.stride()[:3])


class Call:
    """One scan's inputs as the kernels take them, and the launch of each phase."""

    def __init__(self, inputs: ScanInputs) -> None:
        self.inputs = inputs
        self.batch, self.length, self.channels = inputs.u.shape
        self.state = inputs.A.shape[1]
        if self.state > MAX_STATES:
            raise UsageError(
                f"A has shape {tuple(inputs.A.shape)}; backend 'triton' takes (channels, state) "
                f"with at most {MAX_STATES} states: backend='chunked' takes any"
            )
        self.u, self.delta = _rows(inputs.u), _rows(inputs.delta)
        self.z = self.u if inputs.z is None else _rows(inputs.z)
        self.A = inputs.A.float().T.contiguous()
        self.B, self.C = _Weights(inputs.B), _Weights(inputs.C)
        self.groups = inputs.groups
        self.width = self.channels // self.groups
        # A pointer that is not given is never read: any tensor stands for it.
        self.D = self.A if inputs.D is None else inputs.D.contiguous()
        self.bias = self.A if inputs.delta_bias is None else inputs.delta_bias.contiguous()
        self.starts = self.A
        if inputs.starts is not None:
            self.starts = inputs.starts.contiguous().view(torch.uint8)
        self.padded = triton.next_power_of_2(self.state)
        self.flags: dict[str, Any] = {
            "REVERSE": inputs.reverse,
            "BIASED": inputs.delta_bias is not None,
            "SOFTPLUS": inputs.delta_softplus,
            "PACKED": inputs.starts is not None,
        }
        self.span = self._span()
        self.spans = -(-self.length // self.span)

    def _span(self) -> int:
        """Cut the sequence only where it takes more programs to fill the GPU: it costs a pass."""
        chunks = -(-self.length // CHUNK)
        if self.batch * self.groups * -(-self.width // 32) >= PROGRAMS:
            return CHUNK * chunks
        return CHUNK * min(chunks, SPAN // CHUNK)

    def _cut(self, phase: str) -> tuple[Tiles, int, bool]:
        """Return tiles, programs for each stretch of time, and whether no mask is needed."""
        tiles = tiles_for(phase, self.padded, self.width)
        blocks = -(-self.width // tiles.channels)
        whole = self.width % tiles.channels == 0 and self.state == self.padded
        return tiles, self.batch * self.groups * blocks, whole

    def _options(self, tiles: Tiles) -> dict[str, Any]:
        return {
            "STATE": self.padded,
            "BLOCK": tiles.channels,
            "SHARE": tiles.share,
            "num_warps": tiles.warps,
            "maxnreg": tiles.registers,
            **self.flags,
        }

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Allocate, unwritten, beside the inputs."""
        return torch.empty(shape, dtype=dtype, device=self.u.device)

    def ends(
        self, states: Tensor, sums: Tensor, dy: Tensor | None, span: int, stride: int, run: int
    ) -> None:
        """Run the first `run` spans from zero; with dy, their adjoint."""
        adjoint, spans = dy is not None, sums.shape[1]
        tiles, programs, whole = self._cut("adjoint" if adjoint else "ends")
        x = self.u if dy is None else dy
        weight = self.B if dy is None else self.C
        if run == 0:
            return
        farthest = max(x.stride(1), self.z.stride(1), self.delta.stride(1), weight.strides[1])
        gpu.span_ends_kernel[(run * programs,)](
            x, self.z, self.delta, weight.tensor, self.A, self.bias, self.starts, states, sums,
            *x.stride()[:2], *self.z.stride()[:2], *self.delta.stride()[:2], *weight.strides,
            self.length, self.channels, self.groups, self.state, spans, span,
            states.shape[1], stride, programs,
            STAGES=tiles.stages, UNROLL=tiles.unroll, WHOLE=whole, ADJOINT=adjoint,
            CONSTANT=weight.constant, GATED=adjoint and self.inputs.z is not None,
            NEAR=tiles.unroll > 1 and span * farthest < 2**31, **self._options(tiles),
        )  # fmt: skip

    def carry(
        self, states: Tensor, sums: Tensor, initial: Tensor | None, carried: int, stride: int
    ) -> None:
        """Take the state over the first `carried` spans' slots, `stride` apart."""
        columns = self.channels * self.state
        # As many runs as keep enough loads under way, and no more: each costs a step at its end.
        rows = min(256, triton.next_power_of_2(max(2, IN_FLIGHT // (self.batch * columns))))
        rows = max(2, min(rows, triton.next_power_of_2(carried)))
        block = 32 if rows > 16 else 128
        gpu.carry_kernel[(self.batch * -(-columns // block),)](
            states, sums, self.A,
            self.A if initial is None else initial.transpose(1, 2).contiguous(),
            states.shape[1], stride, carried, sums.shape[1], self.channels, self.state,
            BLOCK=block, ROWS=rows, INITIAL=initial is not None,
            num_warps=max(2, rows * block // 512),
        )  # fmt: skip

    def shift(self, states: Tensor, sums: Tensor, before: Tensor, stride: int) -> None:
        """Add what a state before the first span adds to the states after it, `stride` apart."""
        columns = self.channels * self.state
        block = min(1024, triton.next_power_of_2(columns))
        # Along rows, because PyTorch sums down columns one step after another.
        totals = sums.mT.contiguous().cumsum(-1).mT.contiguous()
        gpu.shift_kernel[(self.batch * (sums.shape[1] + 1) * -(-columns // block),)](
            states, totals, self.A, before.transpose(1, 2).contiguous(),
            states.shape[1], stride, sums.shape[1], self.channels, self.state, BLOCK=block,
        )  # fmt: skip

    def replay(self, states: Tensor, y: Tensor, chunk: int, stride: int) -> None:
        """Run every span from its state; write y and the states inside."""
        tiles, programs, whole = self._cut("replay")
        gpu.replay_kernel[(self.spans * programs,)](
            self.u, self.z, self.delta, self.B.tensor, self.C.tensor, self.A, self.D, self.bias,
            self.starts, states, y,
            *self.u.stride()[:2], *self.z.stride()[:2], *self.delta.stride()[:2],
            *self.B.strides, *self.C.strides,
            self.length, self.channels, self.groups, self.state, self.span,
            states.shape[1], stride, programs, chunk,
            STAGES=tiles.stages, WHOLE=whole, CONSTANT_B=self.B.constant,
            CONSTANT_C=self.C.constant, SKIP=self.inputs.D is not None,
            GATED=self.inputs.z is not None, **self._options(tiles),
        )  # fmt: skip

    def differentiate(self, states: Tensor, adjoints: Tensor, dy: Tensor) -> ScanGradients:
        """Give every gradient, from the states and the adjoints at the chunks' ends."""
        gluon = _gluon() if self.fits_gluon(dy) else None
        tiles, programs, _ = self._cut("plain gradients")
        inputs, chunks = self.inputs, states.shape[1] - 1
        blocks = 1 if gluon is not None else -(-self.width // tiles.channels)

        def like(tensor: Tensor) -> Tensor:
            return torch.empty_like(tensor, memory_format=torch.contiguous_format)

        def weight(tensor: Tensor) -> Tensor:
            if tensor.dim() == 2:
                return self.new(self.batch, chunks, self.state, self.channels)
            # In one part there is nothing to add up, and so nothing to keep wide.
            dtype = torch.float32 if blocks > 1 else tensor.dtype
            return self.new(blocks, *tensor.shape, dtype=dtype)

        def vector(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else self.new(self.batch, chunks, 1, self.channels)

        du, ddelta = like(inputs.u), like(inputs.delta)
        dz = None if inputs.z is None else like(inputs.z)
        dB, dC = weight(inputs.B), weight(inputs.C)
        dD, dbias = vector(inputs.D), vector(inputs.delta_bias)
        pointers = (
            self.u, self.z, self.delta, self.B.tensor, self.C.tensor, self.A, self.D, self.bias,
            self.starts, states, dy, adjoints, du, self.A if dz is None else dz, ddelta, dB, dC,
            self.A if dD is None else dD, self.A if dbias is None else dbias,
        )  # fmt: skip
        sizes = (
            *self.u.stride()[:2], *self.z.stride()[:2], *self.delta.stride()[:2], *dy.stride()[:2],
            *self.B.strides, *self.C.strides,
            self.length, self.channels, self.groups, self.state, chunks, self.batch,
        )  # fmt: skip
        given = {"SKIP": dD is not None, "GATED": dz is not None}
        if gluon is not None:
            block, warps = TILES["gradients"][:2]
            gluon.differentiate_kernel[(chunks * self.batch * self.groups,)](
                *pointers, *sizes, self.width, WARPS=warps, TURNS=block // warps, **given,
                **self.flags, num_warps=warps,
            )  # fmt: skip
        else:
            held = CHUNK * self.padded * tiles.channels
            workers = min(chunks * programs, max(256, SCRATCH // held))
            gpu_backward.differentiate_kernel[(workers,)](
                *pointers, self.new(workers, held), *sizes, programs, CHUNK=CHUNK,
                CONSTANT_B=self.B.constant, CONSTANT_C=self.C.constant, **given,
                **self._options(tiles),
            )  # fmt: skip
        return ScanGradients(
            u=du,
            delta=ddelta,
            # Every slot but the last holds a chunk's part of dA by now.
            A=self.sum_chunks(adjoints[:, :-1]),
            B=self.sum_weight(dB, inputs.B),
            C=self.sum_weight(dC, inputs.C),
            D=None if dD is None else self.sum_chunks(dD)[:, 0],
            z=dz,
            delta_bias=None if dbias is None else self.sum_chunks(dbias)[:, 0],
            initial_state=_last_slot(adjoints),
        )

    def sum_chunks(self, parts: Tensor) -> Tensor:
        """Add up (batch, chunks, state, channels), contiguous within a batch: (channels, state)."""
        batch, chunks, state, channels = parts.shape
        total = self.new(channels, state)
        block = 32 if state * channels >= 2**12 else 8
        gpu.sum_parts_kernel[(-(-state * channels // block),)](
            parts, total, batch, parts.stride(0), chunks, state * channels, channels,
            BLOCK=block, ROWS=min(8192 // block, triton.next_power_of_2(chunks)), num_warps=8,
        )  # fmt: skip
        return total

    def sum_weight(self, parts: Tensor, like: Tensor) -> Tensor:
        """Add up the parts of dB or dC: over chunks if constant, else over blocks of channels."""
        if like.dim() == 2:
            return self.sum_chunks(parts)
        return parts[0] if len(parts) == 1 else parts.sum(0)

    def fits_gluon(self, dy: Tensor) -> bool:
        """Tell whether rows can be copied 16 channels at a time, and the states fit a warp."""
        rows = (self.u, self.delta, self.z, dy)
        batches, steps = zip(*(row.stride()[:2] for row in rows), strict=True)
        return (
            CHUNK == 64
            and self.state <= 16
            and not (self.B.constant or self.C.constant)
            and self.B.tensor.dtype == self.C.tensor.dtype
            and self.width % TILES["gradients"].channels == 0
            and all(size % 16 == 0 for size in (self.width, *batches, *steps))
            # Offsets inside a chunk are 32 bits wide.
            and CHUNK * max(*steps, self.B.strides[1], self.C.strides[1]) < 2**31
            and all(t.data_ptr() % 16 == 0 for t in (*rows, self.A, self.D, self.bias))
        )


def _last_slot(slots: Tensor) -> Tensor:
    """Copy out the last slot, as (batch, channels, state)."""
    return slots[:, -1].transpose(1, 2).clone(memory_format=torch.contiguous_format)


def saved_shape(inputs: ScanInputs) -> tuple[int, ...]:
    """Return (batch, chunks + 1, state, channels): the state before each chunk, and the last."""
    batch, length, channels = inputs.u.shape
    return batch, -(-length // CHUNK) + 1, inputs.A.shape[1], channels


def forward(
    inputs: ScanInputs,
    initial_state: Tensor | None,
    keep: bool,
    exchange: Exchange | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scan; see `dnamamba.kernels.scan.inputs.Implementation`."""
    with on_device_of(inputs.u):
        call = Call(inputs)
        chunk = CHUNK if keep else call.span
        stride = call.span // chunk
        states = call.new(call.batch, -(-call.length // chunk) + 1, call.state, call.channels)
        sums = call.new(call.batch, call.spans, call.channels)
        # The replay gives the state after the last span, but other processes wait for it.
        run = call.spans - (exchange is None)
        call.ends(states, sums, None, call.span, stride, run)
        call.carry(states, sums, initial_state, run + 1, stride)
        if exchange is not None:
            call.shift(states, sums, exchange(_last_slot(states), sums.sum(1)), stride)
        y = torch.empty_like(inputs.u, memory_format=torch.contiguous_format)
        call.replay(states, y, chunk, stride)
        last_state = _last_slot(states)
    return y, last_state, states if keep else call.new(0)


def backward(
    inputs: ScanInputs,
    initial_state: Tensor | None,
    saved: Tensor,
    dy: Tensor | None,
    dlast: Tensor | None,
    exchange: Exchange | None = None,
) -> ScanGradients:
    """Differentiate; see `dnamamba.kernels.scan.inputs.Implementation`."""
    with on_device_of(inputs.u):
        call = Call(inputs)
        dy = torch.zeros_like(inputs.u) if dy is None else _rows(dy)
        adjoints, chunks = torch.empty_like(saved), saved.shape[1] - 1
        sums = call.new(call.batch, chunks, call.channels)
        call.ends(adjoints, sums, dy, CHUNK, 1, chunks)
        call.carry(adjoints, sums, dlast, chunks + 1, 1)
        if exchange is not None:
            call.shift(adjoints, sums, exchange(_last_slot(adjoints), sums.sum(1)), 1)
        del sums
        return call.differentiate(saved, adjoints, dy)
