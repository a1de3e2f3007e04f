"""The convolution on a CPU, compiled by Numba: one pass over the rows, and one back.

A task is a batch row and a block of channels. Only as many taps are read as have passed since the
sequence began: a start, or no initial state, is a short past. The backward computes the sums before
the activation again, on its way through time, and adds each to the rows that its taps have read.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from dnamamba.kernels.conv.reference import in_last_sequence
from dnamamba.kernels.cpu import (
    FAST,
    Rows,
    array,
    empty_like,
    f32,
    flags,
    parameter,
    place,
    rows,
    run,
    sigmoid,
)
from dnamamba.kernels.packing import sequence_starts

BLOCK = 128
"""Channels in a task: the rows that taps reach stay in the first-level cache."""


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    seq_idx: Tensor | None,
    silu: bool,
    reverse: bool,
) -> Tensor:
    """Convolve; arguments as in `dnamamba.kernels.causal_conv1d`.

    Returns
    -------
    y (batch, length, channels), contiguous, in x's dtype.
    """
    y = empty_like(x)
    given = _given(x, weight, bias, state, seq_idx, reverse)
    run(
        _forward,
        ((*task, x.shape[1], *given, silu, rows(y, reverse)) for task in _tasks(x)),
    )
    return y.to(x.dtype)


def final_state(
    x: Tensor, width: int, state: Tensor | None, seq_idx: Tensor | None, reverse: bool
) -> Tensor:
    """Take the last width - 1 inputs read of the last sequence, (batch, width - 1, channels)."""
    final, missing = x.new_zeros(x.shape[0], width - 1, x.shape[2]), width - 1 - x.shape[1]
    tail = x[:, : width - 1].flip(1) if reverse else x[:, max(0, -missing) :]
    final[:, max(0, missing) :] = tail
    if state is not None and missing > 0:
        final[:, :missing] = state[:, x.shape[1] :]
    if seq_idx is not None and width > 1:
        final.masked_fill_(~in_last_sequence(seq_idx, width - 1, reverse)[..., None], 0)
    return final


def backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    seq_idx: Tensor | None,
    dy: Tensor,
    dfinal: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Differentiate `forward` and `final_state`, from their inputs and the results' gradients.

    Returns
    -------
    The gradients of x, weight, bias and state, each in its tensor's dtype.
    """
    batch, length, channels = x.shape
    width = weight.shape[1]
    dx, dstate = empty_like(x), x.new_zeros(batch, width - 1, channels, dtype=torch.float32)
    dweight, dbias = (x.new_zeros(batch, n, channels, dtype=torch.float32) for n in (width, 1))
    given = _given(x, weight, bias, state, seq_idx, reverse)
    read, written = rows(dy, reverse), rows(dx, reverse)
    results = written, _rows_before(dstate, written), dweight.numpy(), dbias.numpy()
    run(_backward, ((*task, length, *given, silu, read, *results) for task in _tasks(x)))
    if dfinal is not None and width > 1:
        if seq_idx is not None:
            dfinal = dfinal * in_last_sequence(seq_idx, width - 1, reverse)[..., None]
        last = min(length, width - 1)
        tail = dfinal[:, width - 1 - last :]
        if reverse:
            dx[:, :last] += tail.flip(1)
        else:
            dx[:, length - last :] += tail
        dstate[:, length:] += dfinal[:, : width - 1 - last]
    return (
        dx.to(x.dtype),
        dweight.sum(0).T.contiguous().to(weight.dtype),
        None if bias is None else dbias.sum((0, 1)).to(bias.dtype),
        None if state is None else dstate.to(state.dtype),
    )


def update(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """Take one step; arguments and results as in `dnamamba.kernels.causal_conv1d_update`."""
    y, new = empty_like(x), empty_like(state)
    offset = np.zeros(x.shape[1], np.float32) if bias is None else parameter(bias)
    given = array(x), array(state), parameter(weight.T), offset
    _update(*given, silu, y.numpy(), new.numpy())
    return y.to(x.dtype), new.to(x.dtype)


def _rows_before(state: Tensor | None, instead: Rows) -> Rows:
    """Lay out an initial state; where there is none to look back to, nothing reads it."""
    return instead if state is None or state.shape[1] == 0 else rows(state, False)


def _given(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    seq_idx: Tensor | None,
    reverse: bool,
) -> tuple[Any, ...]:
    """Return what both directions of the compiled code read."""
    read = rows(x, reverse)
    taps = parameter(weight.T)
    offset = np.zeros(x.shape[2], np.float32) if bias is None else parameter(bias)
    starts = None if seq_idx is None else sequence_starts(seq_idx, reverse)
    past = _rows_before(state, read)
    return read, past, state is not None, taps, offset, flags(starts, len(x), reverse)


def _tasks(x: Tensor) -> Iterator[tuple[int, int, int]]:
    """Yield each row, and each block's first channel and end."""
    batch, _, channels = x.shape
    for row in range(batch):
        for first in range(0, channels, BLOCK):
            yield row, first, min(first + BLOCK, channels)


@njit(cache=True, forceinline=True)
def _before(x: Any, state: Any, row: int, t: int, taps: int, first: int, width: int) -> Any:
    """Take what was read at step t, which is in the initial state if it is negative."""
    if t < 0:
        at = place(state, row, taps - 1 + t) + first
        return state.values[at : at + width]
    at = place(x, row, t) + first
    return x.values[at : at + width]


@njit(cache=True, forceinline=True, fastmath=FAST, error_model="numpy")
def _sum(
    x: Any, state: Any, row: int, t: int, reach: int, weight: Any, bias: Any, first: int, out: Any
) -> None:
    """Write what the taps make of step t and the `reach` steps before it."""
    taps, width = weight.shape
    for d in range(width):
        out[d] = bias[d]
    for j in range(reach + 1):
        source, tap = _before(x, state, row, t - j, taps, first, width), weight[taps - 1 - j]
        for d in range(width):
            out[d] += tap[d] * source[d]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _forward(
    row: int,
    first: int,
    last: int,
    length: int,
    x: Any,
    state: Any,
    continued: bool,
    weight: Any,
    bias: Any,
    starts: Any,
    silu: bool,
    y: Any,
) -> None:
    """Convolve channels `first` to `last` of a row."""
    weight, bias = weight[:, first:last].copy(), bias[first:last]
    taps, width = weight.shape
    out = np.empty(width, f32)
    reach = taps - 1 if continued else 0
    for t in range(length):
        if starts.size and starts[row, t]:
            reach = 0
        _sum(x, state, row, t, reach, weight, bias, first, out)
        at = place(y, row, t) + first
        ys = y.values[at : at + width]
        for d in range(width):
            ys[d] = out[d] * sigmoid(out[d]) if silu else out[d]
        reach = min(reach + 1, taps - 1)


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _backward(
    row: int,
    first: int,
    last: int,
    length: int,
    x: Any,
    state: Any,
    continued: bool,
    weight: Any,
    bias: Any,
    starts: Any,
    silu: bool,
    dy: Any,
    dx: Any,
    dstate: Any,
    dweight: Any,
    dbias: Any,
) -> None:
    """Differentiate channels `first` to `last` of a row; write dx, add to the rest."""
    weight, bias = weight[:, first:last].copy(), bias[first:last]
    taps, width = weight.shape
    out, gbias, gweight = np.empty(width, f32), np.zeros(width, f32), np.zeros_like(weight)
    reach = taps - 1 if continued else 0
    for t in range(length):
        if starts.size and starts[row, t]:
            reach = 0
        at = place(dy, row, t) + first
        dys = dy.values[at : at + width]
        if silu:
            _sum(x, state, row, t, reach, weight, bias, first, out)
            for d in range(width):
                s = sigmoid(out[d])
                out[d] = dys[d] * s * (f32(1) + out[d] * (f32(1) - s))
        else:
            for d in range(width):
                out[d] = dys[d]
        for d in range(width):
            gbias[d] += out[d]
        at = place(dx, row, t) + first
        dx.values[at : at + width] = f32(0)
        for j in range(reach + 1):
            source = _before(x, state, row, t - j, taps, first, width)
            target = _before(dx, dstate, row, t - j, taps, first, width)
            factor, total = weight[taps - 1 - j], gweight[taps - 1 - j]
            for d in range(width):
                target[d] += factor[d] * out[d]
                total[d] += source[d] * out[d]
        reach = min(reach + 1, taps - 1)
    for d in range(width):
        dbias[row, 0, first + d] += gbias[d]
        for tap in range(taps):
            dweight[row, tap, first + d] += gweight[tap, d]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _update(x: Any, state: Any, weight: Any, bias: Any, silu: bool, y: Any, new: Any) -> None:
    """Convolve one step of every row, and shift what was read before it."""
    taps, width = weight.shape
    out = np.empty(width, f32)
    for row in range(len(x)):
        for d in range(width):
            out[d] = bias[d] + weight[taps - 1, d] * x[row, d]
        for j in range(taps - 1):
            source = state[row, j]
            for d in range(width):
                out[d] += weight[j, d] * source[d]
        for d in range(width):
            y[row, d] = out[d] * sigmoid(out[d]) if silu else out[d]
        for j in range(taps - 2):
            new[row, j] = state[row, j + 1]
        if taps > 1:
            new[row, taps - 2] = x[row]
