"""The scan on a CPU, compiled by Numba: what it is cut into, and its buffers.

An `Implementation` by itself; `dnamamba.kernels.scan.autograd` calls it. A task is a batch row and
a block of channels, walked from end to end by `cpu_kernels` and `cpu_backward`; sums over channels
add the blocks in their order.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnamamba.kernels.cpu import Rows, empty_like, flags, parameter, rows, run
from dnamamba.kernels.scan import cpu_backward, cpu_kernels
from dnamamba.kernels.scan.inputs import ScanGradients, ScanInputs
from dnamamba.kernels.split import Exchange

BLOCK = 64
"""Channels in a task: the states of a step and their decays stay in the first-level cache."""
STEPS = 32
"""Steps between the states that the forward keeps: the backward recomputes those between."""
SEGMENT = 2**22
"""Elements of dB or dC, in one part for each block of channels, that may wait to be summed."""


class _Call:
    """One scan's inputs as the compiled code takes them."""

    def __init__(self, inputs: ScanInputs) -> None:
        self.inputs = inputs
        self.batch, self.length, channels = inputs.u.shape
        self.groups = inputs.groups
        self.width = channels // self.groups
        self.blocks = -(-self.width // BLOCK)
        self.nothing = np.zeros(channels, np.float32)
        self.u, self.delta = self.rows(inputs.u), self.rows(inputs.delta)
        self.z = self.u if inputs.z is None else self.rows(inputs.z)
        self.B, self.C = self._weight(inputs.B), self._weight(inputs.C)
        self.A = parameter(inputs.A)
        self.D = self.nothing if inputs.D is None else parameter(inputs.D)
        self.bias = self.nothing if inputs.delta_bias is None else parameter(inputs.delta_bias)
        self.starts = flags(inputs.starts, self.batch, inputs.reverse)

    def rows(self, tensor: Tensor) -> Rows:
        return rows(tensor, self.inputs.reverse)

    def _weight(self, weight: Tensor) -> list[Rows]:
        """Lay out B or C, once for each group."""
        if weight.dim() == 2:
            return [Rows(parameter(weight.T), 0, 0, 0)] * self.groups
        weight = weight.float()
        return [self.rows(weight[:, :, group]) for group in range(self.groups)]

    def tasks(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield each row, group, block of it, and that block's first channel and end."""
        for row in range(self.batch):
            for group in range(self.groups):
                end = (group + 1) * self.width
                for block in range(self.blocks):
                    first = group * self.width + block * BLOCK
                    yield row, group, block, first, min(first + BLOCK, end)

    def spans(self, steps: int) -> list[tuple[int, int]]:
        """Cut time so that the parts of dB and dC stay within `SEGMENT`."""
        row = self.blocks * self.batch * self.groups * self.inputs.A.shape[1]
        span = steps * max(1, SEGMENT // (row * steps))
        return [(t, min(t + span, self.length)) for t in range(0, self.length, span)]

    def parts(self, weight: Tensor, steps: int) -> Tensor:
        """Make room for what is summed over its first axis into the gradient of B or C.

        For what varies there is a part for each block of channels; for what is constant, one for
        each row of the batch.
        """
        channels, state = self.inputs.A.shape
        if weight.dim() == 2:
            return torch.zeros(self.batch, state, channels)
        return torch.empty(self.blocks, self.batch, steps, self.groups, state)

    def add(self, gradient: Tensor, part: Tensor, begin: int, end: int) -> None:
        """Write steps `begin` to `end`, as read, of dB or dC; or add to a constant one."""
        if gradient.dim() == 2:
            gradient += part.T
        elif self.inputs.reverse:
            gradient[:, self.length - end : self.length - begin] = part.flip(1)
        else:
            gradient[:, begin:end] = part

    def given(self, group: int) -> tuple[Any, ...]:
        """Return what both directions of the compiled code read."""
        inputs = self.inputs
        options = (
            inputs.delta_softplus,
            inputs.z is not None,
            inputs.D is not None,
        )
        weights = self.B[group], self.C[group], self.A, self.D, self.bias
        return (self.u, self.delta, self.z, *weights, self.starts, *options)


def _states(call: _Call, given: Tensor | None) -> Tensor:
    """Copy states (batch, channels, state), or make zeros."""
    channels, state = call.inputs.A.shape
    states = call.inputs.u.new_zeros(call.batch, channels, state, dtype=torch.float32)
    return states if given is None else states.copy_(given)


def saved_shape(inputs: ScanInputs) -> tuple[int, ...]:
    """Return (batch, chunks, state, channels): the state before each chunk is kept."""
    batch, length, channels = inputs.u.shape
    return batch, -(-length // STEPS), inputs.A.shape[1], channels


def forward(
    inputs: ScanInputs,
    initial_state: Tensor | None,
    keep: bool,
    exchange: Exchange | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scan; see `dnamamba.kernels.scan.inputs.Implementation`.

    A part of a sequence is scanned twice: its end is known only when all of it was.
    """
    if exchange is not None:
        _, end, _ = forward(inputs, initial_state, False)
        before = exchange(end, inputs.total_step())
        initial_state = before if initial_state is None else before + initial_state
    call, steps = _Call(inputs), STEPS
    y = empty_like(inputs.u)
    last_state = _states(call, initial_state)
    saved = y.new_empty(saved_shape(inputs) if keep else (0, 0, 0, 0))
    results = call.rows(y), last_state.numpy(), saved.numpy()
    run(
        cpu_kernels.forward,
        (
            (row, first, last, call.length, steps, *call.given(group), *results)
            for row, group, _, first, last in call.tasks()
        ),
    )
    return y.to(inputs.u.dtype), last_state, saved if keep else y.new_empty(0)


def backward(
    inputs: ScanInputs,
    initial_state: Tensor | None,
    saved: Tensor,
    dy: Tensor | None,
    dlast: Tensor | None,
    exchange: Exchange | None = None,
) -> ScanGradients:
    """Differentiate; see `dnamamba.kernels.scan.inputs.Implementation`."""
    if exchange is not None:
        here = backward(inputs, initial_state, saved, dy, dlast).initial_state
        after = exchange(here, inputs.total_step())
        dlast = after if dlast is None else after + dlast
    call, steps = _Call(inputs), STEPS
    carry = _states(call, dlast)
    du, ddelta = empty_like(inputs.u), empty_like(inputs.delta)
    dz = None if inputs.z is None else empty_like(inputs.z)
    dB, dC = torch.zeros(inputs.B.shape), torch.zeros(inputs.C.shape)
    dA = torch.zeros_like(carry)
    dD, dbias = (carry.new_zeros(carry.shape[:2]) for _ in range(2))
    results = (
        *(call.rows(du if tensor is None else tensor) for tensor in (du, ddelta, dz)),
        *(part.numpy() for part in (dA, dD, dbias)),
    )
    read = call.rows(torch.zeros_like(inputs.u) if dy is None else dy)
    for begin, end in reversed(call.spans(steps)):
        parts = [call.parts(weight, end - begin) for weight in (inputs.B, inputs.C)]
        where = begin, end, steps
        buffers = read, saved.numpy(), carry.numpy(), *results, *(part.numpy() for part in parts)
        run(
            cpu_backward.backward,
            (
                (row, first, last, group, block, *where, *call.given(group), *buffers)
                for row, group, block, first, last in call.tasks()
            ),
        )
        for gradient, part in zip((dB, dC), parts, strict=True):
            call.add(gradient, part.sum(0), begin, end)
    return ScanGradients(
        u=du,
        delta=ddelta,
        A=dA.sum(0),
        B=dB,
        C=dC,
        D=None if inputs.D is None else dD.sum(0),
        z=dz,
        delta_bias=None if inputs.delta_bias is None else dbias.sum(0),
        initial_state=carry,
    )
