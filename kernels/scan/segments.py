"""A scan walked in segments that fit the working memory: all but the recurrence itself.

The walk reads each segment in order (or from the end), makes delta from its bias and softplus,
hands the recurrence to a core, and applies the skip and the gate. A core is a module with
`plan`, `advance` and `differentiate`, as `Core` says: `chunked` in PyTorch, `cpu` in Numba.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dnamamba.kernels.scan.inputs import ScanGradients, ScanInputs


@dataclass(frozen=True)
class Plan:
    """How time is cut: `steps` in a chunk, `chunks` in a segment."""

    steps: int
    chunks: int

    def segments(self, length: int) -> Iterator[tuple[slice, slice]]:
        """Yield each segment's chunks and steps, in reading order."""
        span = self.steps * self.chunks
        for start in range(0, length, span):
            end = min(start + span, length)
            yield slice(start // self.steps, -(-end // self.steps)), slice(start, end)


class Recurrence(NamedTuple):
    """A segment's h_t = exp(delta_t A) h_(t-1) + x_t B_t, in reading order and working type.

    delta, x (batch, steps, channels); A (state, channels); B, C (batch, steps, state). States are
    (batch, state, channels) inside the walk.
    """

    delta: Tensor
    x: Tensor
    A: Tensor
    B: Tensor
    C: Tensor


class RecurrenceGradients(NamedTuple):
    """What `differentiate` gives back: y = sum over n of C h, and gradients by name."""

    y: Tensor
    delta: Tensor
    x: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    state: Tensor


class Core(Protocol):
    """One way to run a recurrence."""

    def plan(self, batch: int, length: int, channels: int, state: int, device: str) -> Plan:
        """Cut time into chunks and segments."""

    def advance(
        self, segment: Recurrence, state: Tensor, starts: Tensor, steps: int
    ) -> tuple[Tensor, Tensor]:
        """Return sum over n of C h and the state after the segment.

        `starts` (batch, chunks, state, channels) is filled with the state before each chunk.
        """

    def differentiate(
        self, segment: Recurrence, starts: Tensor, dout: Tensor, carry: Tensor, steps: int
    ) -> RecurrenceGradients:
        """Differentiate from the gradient of sum over n of C h, and of the state after."""


def _read(tensor: Tensor, steps: slice, dtype: torch.dtype, reverse: bool) -> Tensor:
    """Read `steps` of (batch, length, width), counted from the end if `reverse`."""
    length = tensor.shape[1]
    part = (
        tensor[:, length - steps.stop : length - steps.start].flip(1)
        if reverse
        else tensor[:, steps]
    )
    return part.to(dtype).contiguous()


def _write(target: Tensor, steps: slice, part: Tensor, reverse: bool) -> None:
    """Write `steps` of (batch, length, width), counted from the end if `reverse`."""
    length = target.shape[1]
    if reverse:
        target[:, length - steps.stop : length - steps.start] = part.flip(1)
    else:
        target[:, steps] = part


class Walk:
    """The segments of one scan, through one core."""

    def __init__(self, core: Core, inputs: ScanInputs) -> None:
        self.core, self.inputs, self.dtype = core, inputs, inputs.dtype
        batch, self.length, channels = inputs.u.shape
        state = inputs.A.shape[1]
        self.plan = core.plan(batch, self.length, channels, state, inputs.u.device.type)
        self.A = inputs.A.to(self.dtype).T.contiguous()
        self.D = None if inputs.D is None else inputs.D.to(self.dtype)

    def _read(self, tensor: Tensor, steps: slice) -> Tensor:
        return _read(tensor, steps, self.dtype, self.inputs.reverse)

    def _load(self, steps: slice) -> tuple[Recurrence, Tensor, Tensor]:
        """Read a segment: its recurrence, u, and delta before softplus."""
        raw = self._read(self.inputs.delta, steps)
        if self.inputs.delta_bias is not None:
            raw = raw + self.inputs.delta_bias.to(self.dtype)
        delta = F.softplus(raw) if self.inputs.delta_softplus else raw
        u = self._read(self.inputs.u, steps)
        B, C = self._read(self.inputs.B, steps), self._read(self.inputs.C, steps)
        return Recurrence(delta, delta * u, self.A, B, C), u, raw

    def _inside(self, state: Tensor | None) -> Tensor:
        """Turn a public state (batch, channels, state), or None for zero, into an inner one."""
        if state is None:
            return self.A.new_zeros(self.inputs.u.shape[0], *self.A.shape)
        return state.to(self.dtype).transpose(1, 2).contiguous()

    def forward(self, initial_state: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Scan; shapes as in `dnamamba.kernels.selective_scan`.

        Returns
        -------
        y (batch, length, channels) in u's dtype, the last state (batch, channels, state), and what
        the backward needs: the state before each chunk, (batch, chunks, state, channels).
        """
        inputs, state = self.inputs, self._inside(initial_state)
        y = torch.empty_like(inputs.u, memory_format=torch.contiguous_format)
        starts = state.new_empty(len(y), -(-self.length // self.plan.steps), *self.A.shape)
        for chunks, steps in self.plan.segments(self.length):
            segment, u, _ = self._load(steps)
            part, state = self.core.advance(segment, state, starts[:, chunks], self.plan.steps)
            if self.D is not None:
                part.addcmul_(self.D, u)
            if inputs.z is not None:
                part.mul_(F.silu(self._read(inputs.z, steps)))
            _write(y, steps, part, inputs.reverse)
        return y, state.transpose(1, 2).contiguous(), starts

    def backward(self, starts: Tensor, dy: Tensor, dlast: Tensor | None) -> ScanGradients:
        """Differentiate `forward`, recomputing states from those that it saved."""
        inputs, carry = self.inputs, self._inside(dlast)
        grads = ScanGradients.empty(inputs)

        def write(target: Tensor, part: Tensor) -> None:
            _write(target, steps, part, inputs.reverse)

        for chunks, steps in reversed(list(self.plan.segments(self.length))):
            segment, u, raw = self._load(steps)
            dgated = self._read(dy, steps)
            dout, gate = dgated, None
            if inputs.z is not None:
                z = self._read(inputs.z, steps)
                gate = torch.sigmoid(z)
                dout = dgated * z * gate
            inner = self.core.differentiate(
                segment, starts[:, chunks], dout, carry, self.plan.steps
            )
            carry, y = inner.state, inner.y
            du = inner.x * segment.delta
            if self.D is not None and grads.D is not None:
                grads.D += (dout * u).sum((0, 1))
                du.addcmul_(dout, self.D)
                y.addcmul_(self.D, u)
            if gate is not None and grads.z is not None:
                write(grads.z, dgated * y * gate * (1 + z * (1 - gate)))
            ddelta = inner.delta.addcmul_(inner.x, u)
            if inputs.delta_softplus:
                ddelta.mul_(torch.sigmoid(raw))
            if grads.delta_bias is not None:
                grads.delta_bias += ddelta.sum((0, 1))
            grads.A += inner.A.T
            write(grads.u, du)
            write(grads.delta, ddelta)
            write(grads.B, inner.B)
            write(grads.C, inner.C)
        grads.initial_state = carry.transpose(1, 2).contiguous()
        return grads
