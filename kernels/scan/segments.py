"""A scan walked in segments that fit the working memory: all but the recurrence itself.

The walk reads each segment in order (or from the end), makes delta from its bias and softplus,
hands the recurrence to a core, and applies the skip and the gate. A core is a module with
`plan`, `advance` and `differentiate`, as `Core` says: `chunked`, in PyTorch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dnamamba.kernels.scan.inputs import ScanGradients, ScanInputs
from dnamamba.kernels.split import Exchange


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

    delta, x (batch, steps, channels); A (state, channels); B, C (batch, steps, state), or constant
    as A. `starts` (batch, steps) bool marks steps whose h_(t-1) is zero. States are
    (batch, state, channels) inside the walk.
    """

    delta: Tensor
    x: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    starts: Tensor | None


class RecurrenceGradients(NamedTuple):
    """What `differentiate` gives back: y = sum over n of C h, and gradients by name.

    Those of A and of a constant B or C are (state, channels), summed over batch and steps.
    """

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
        self, segment: Recurrence, state: Tensor, saved: Tensor, steps: int
    ) -> tuple[Tensor, Tensor]:
        """Return sum over n of C h and the state after the segment.

        `saved` (batch, chunks, state, channels) is filled with the state before each chunk.
        """

    def differentiate(
        self, segment: Recurrence, saved: Tensor, dout: Tensor, carry: Tensor, steps: int
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


@dataclass(frozen=True)
class Segmented:
    """A backend that walks segments: each group of channels by itself, through one core."""

    core: Core

    def _walks(self, inputs: ScanInputs) -> list["_Walk"]:
        return [_Walk(self.core, inputs, group) for group in range(inputs.groups)]

    def saved_shape(self, inputs: ScanInputs) -> tuple[int, ...]:
        """Return (batch, chunks, state, channels): the state before each chunk is kept."""
        batch, length, channels = inputs.u.shape
        steps = self._walks(inputs)[0].plan.steps
        return batch, -(-length // steps), inputs.A.shape[1], channels

    def forward(
        self,
        inputs: ScanInputs,
        initial_state: Tensor | None,
        keep: bool,
        exchange: Exchange | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scan, as `dnamamba.kernels.scan.inputs.Implementation` says.

        A part of a sequence is scanned twice: its end is known only when all of it was.
        """
        if exchange is not None:
            _, end, _ = self.forward(inputs, initial_state, False)
            before = exchange(end, inputs.total_step())
            initial_state = before if initial_state is None else before + initial_state
        batch, _, channels = inputs.u.shape
        y = torch.empty_like(inputs.u, memory_format=torch.contiguous_format)
        last_state = y.new_empty(batch, channels, inputs.A.shape[1], dtype=inputs.dtype)
        saved = y.new_empty(self.saved_shape(inputs) if keep else (0,), dtype=inputs.dtype)
        for walk in self._walks(inputs):
            walk.forward(initial_state, y, last_state, saved if keep else None)
        return y, last_state, saved

    def backward(
        self,
        inputs: ScanInputs,
        initial_state: Tensor | None,
        saved: Tensor,
        dy: Tensor | None,
        dlast: Tensor | None,
        exchange: Exchange | None = None,
    ) -> ScanGradients:
        """Differentiate `forward`, recomputing states from those that it saved."""
        if exchange is not None:
            end = self.backward(inputs, initial_state, saved, dy, dlast).initial_state
            after = exchange(end, inputs.total_step())
            dlast = after if dlast is None else after + dlast
        grads = ScanGradients.empty(inputs)
        dy = torch.zeros_like(inputs.u) if dy is None else dy
        for walk in self._walks(inputs):
            walk.backward(saved, dy, dlast, grads)
        return grads


class _Walk:
    """The segments of one group's scan; every tensor is that of all groups."""

    def __init__(self, core: Core, inputs: ScanInputs, group: int) -> None:
        self.core, self.inputs, self.dtype, self.group = core, inputs, inputs.dtype, group
        self.batch, self.length, channels = inputs.u.shape
        width = channels // inputs.groups
        self.channels = slice(group * width, (group + 1) * width)
        state = inputs.A.shape[1]
        self.plan = core.plan(self.batch, self.length, width, state, inputs.u.device.type)
        self.A = self._turned(inputs.A)
        self.D = None if inputs.D is None else inputs.D[self.channels].to(self.dtype)

    def _turned(self, tensor: Tensor) -> Tensor:
        """Make (channels, state) of all groups (state, channels) of this one."""
        return tensor[self.channels].to(self.dtype).T.contiguous()

    def _read(self, tensor: Tensor, steps: slice) -> Tensor:
        return _read(tensor[..., self.channels], steps, self.dtype, self.inputs.reverse)

    def _weight(self, weight: Tensor, steps: slice) -> Tensor:
        """Read B or C, which varies or is constant."""
        if weight.dim() == 2:
            return self._turned(weight)
        return _read(weight[:, :, self.group], steps, self.dtype, self.inputs.reverse)

    def _load(self, steps: slice) -> tuple[Recurrence, Tensor, Tensor]:
        """Read a segment: its recurrence, u, and delta before softplus."""
        inputs, starts = self.inputs, self.inputs.starts
        raw = self._read(inputs.delta, steps)
        if inputs.delta_bias is not None:
            raw = raw + inputs.delta_bias[self.channels].to(self.dtype)
        delta = F.softplus(raw) if inputs.delta_softplus else raw
        u = self._read(inputs.u, steps)
        B, C = self._weight(inputs.B, steps), self._weight(inputs.C, steps)
        if starts is not None:
            starts = _read(starts, steps, torch.bool, inputs.reverse)
        return Recurrence(delta, delta * u, self.A, B, C, starts), u, raw

    def _inside(self, state: Tensor | None) -> Tensor:
        """Turn a public state (batch, channels, state), or None for zero, into an inner one."""
        if state is None:
            return self.A.new_zeros(self.batch, *self.A.shape)
        return state[:, self.channels].to(self.dtype).transpose(1, 2).contiguous()

    def forward(
        self, initial_state: Tensor | None, y: Tensor, last_state: Tensor, saved: Tensor | None
    ) -> None:
        """Scan into y, last_state and, where it is given, saved."""
        inputs, state = self.inputs, self._inside(initial_state)
        for chunks, steps in self.plan.segments(self.length):
            segment, u, _ = self._load(steps)
            before = (
                state.new_empty(self.batch, chunks.stop - chunks.start, *self.A.shape)
                if saved is None
                else saved[:, chunks, :, self.channels]
            )
            part, state = self.core.advance(segment, state, before, self.plan.steps)
            if self.D is not None:
                part.addcmul_(self.D, u)
            if inputs.z is not None:
                part.mul_(F.silu(self._read(inputs.z, steps)))
            _write(y[..., self.channels], steps, part, inputs.reverse)
        last_state[:, self.channels] = state.transpose(1, 2)

    def backward(
        self, saved: Tensor, dy: Tensor, dlast: Tensor | None, grads: ScanGradients
    ) -> None:
        """Write this group's gradients, or add them where they are sums over the sequence."""
        inputs, channels, carry = self.inputs, self.channels, self._inside(dlast)

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
                segment, saved[:, chunks, :, channels], dout, carry, self.plan.steps
            )
            carry, y = inner.state, inner.y
            du = inner.x * segment.delta
            if self.D is not None and grads.D is not None:
                grads.D[channels] += (dout * u).sum((0, 1))
                du.addcmul_(dout, self.D)
                y.addcmul_(self.D, u)
            if gate is not None and grads.z is not None:
                write(grads.z[..., channels], dgated * y * gate * (1 + z * (1 - gate)))
            ddelta = inner.delta.addcmul_(inner.x, u)
            if inputs.delta_softplus:
                ddelta.mul_(torch.sigmoid(raw))
            if grads.delta_bias is not None:
                grads.delta_bias[channels] += ddelta.sum((0, 1))
            grads.A[channels] += inner.A.T
            write(grads.u[..., channels], du)
            write(grads.delta[..., channels], ddelta)
            for target, part in ((grads.B, inner.B), (grads.C, inner.C)):
                if target.dim() == 2:
                    target[channels] += part.T
                else:
                    write(target[:, :, self.group], part)
        grads.initial_state[:, channels] = carry.transpose(1, 2)
