"""The recurrence on a CPU, compiled by Numba: channels in vector lanes, states in the first cache.

A task is a batch row and a block of channels, walked step by step; torch's number of threads share
the tasks, and sums over channels add the blocks in their order. The exponential is a polynomial
here, because LLVM vectorises it where a call into the mathematics library would stop it.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from dnamamba.kernels.scan.segments import Plan, Recurrence, RecurrenceGradients

BLOCK = 64
"""Channels in a task: a whole number of vectors, and its states stay in the first-level cache."""
STEPS = 32
SEGMENT = 2**22
"""Elements of (batch, steps, channels) in a segment."""

FAST = {"contract", "nsz", "reassoc"}
"""Sums may be reordered to fill vector lanes; NaN and infinity keep their meaning."""

f32 = np.float32


def plan(batch: int, length: int, channels: int, state: int, device: str) -> Plan:
    """Bound a segment's working memory; chunks are where the backward recomputes from."""
    steps = min(STEPS, length)
    chunks = max(1, SEGMENT // (batch * channels * steps))
    return Plan(steps, min(chunks, -(-length // steps)))


def advance(segment: Recurrence, state: Tensor, saved: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """See `dnamamba.kernels.scan.segments.Core`."""
    state, y = state.clone(), torch.empty_like(segment.x)
    # Contiguous even where `saved` is not, so that there is one layout to compile for.
    before = torch.empty_like(saved, memory_format=torch.contiguous_format)
    arrays = [tensor.numpy() for tensor in (*_with_starts(segment), state, before, y)]
    _run(lambda row, first, last: _advance(row, first, last, steps, *arrays), segment.x)
    saved.copy_(before)
    return y, state


def differentiate(
    segment: Recurrence, saved: Tensor, dout: Tensor, carry: Tensor, steps: int
) -> RecurrenceGradients:
    """See `dnamamba.kernels.scan.segments.Core`."""
    grads = RecurrenceGradients(
        y=torch.empty_like(segment.x),
        delta=torch.empty_like(segment.x),
        x=torch.empty_like(segment.x),
        A=_partials(segment.A, segment.x),
        B=_partials(segment.B, segment.x),
        C=_partials(segment.C, segment.x),
        state=carry.clone(),
    )
    arrays = [
        tensor.numpy() for tensor in (*_with_starts(segment), saved.contiguous(), dout, *grads)
    ]
    _run(lambda row, first, last: _differentiate(row, first, last, steps, *arrays), segment.x)
    return grads._replace(A=grads.A.sum(0), B=grads.B.sum(0), C=grads.C.sum(0))


def _with_starts(segment: Recurrence) -> tuple[Tensor, ...]:
    """Give the compiled code an array of starts where there are none."""
    delta, x, A, B, C, starts = segment
    if starts is None:
        starts = torch.zeros(delta.shape[:2], dtype=torch.bool)
    return delta, x, A, B, C, starts


def _partials(given: Tensor, x: Tensor) -> Tensor:
    """Make room for a gradient, to be summed over its first axis.

    Of what is (state, channels) there is one for each row of the batch; of what varies, one for
    each block of channels.
    """
    batch, _, channels = x.shape
    if given.dim() == 2:
        return given.new_zeros(batch, *given.shape)
    return given.new_empty(-(-channels // BLOCK), *given.shape)


def _run(task: Callable[[int, int, int], Any], x: Tensor) -> None:
    """Call task(row, first channel, end channel) for every row and block of channels."""
    batch, _, channels = x.shape
    tasks = [
        (row, first, min(first + BLOCK, channels))
        for row in range(batch)
        for first in range(0, channels, BLOCK)
    ]
    threads = min(torch.get_num_threads(), len(tasks))
    if threads == 1:
        for arguments in tasks:
            task(*arguments)
        return
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(task, *arguments) for arguments in tasks]:
            future.result()


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _exp(x: Any) -> Any:
    """Exponential to 1e-7 relative between e-87 and e+88, clamped outside; NaN stays NaN.

    Cephes' expf: x = k ln 2 + r, a polynomial in r, and k added to the exponent's bits. Adding
    1.5 * 2^23 rounds to an integer and leaves it in the low bits of the mantissa.
    """
    x = min(max(x, f32(-87.0)), f32(88.0))
    shifted = x * f32(1.44269504) + f32(12582912.0)
    k = shifted - f32(12582912.0)
    r = x - k * f32(0.693359375)
    r = r - k * f32(-2.12194440e-4)
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    p = p * (r * r) + r + f32(1.0)
    bits = np.float32(p).view(np.int32) + (np.float32(shifted).view(np.int32) << np.int32(23))
    return np.int32(bits).view(np.float32)


@njit(cache=True)
def _scalar(weight: Any, row: int, t: int, n: int) -> Any:
    """Read what a B or C has for all channels. Which branch is taken is known when compiled."""
    return weight[row, t, n] if weight.ndim == 3 else f32(0)


@njit(cache=True)
def _value(weight: Any, scalar: Any, n: int, channel: int) -> Any:
    """Read what a B or C has for this channel."""
    return scalar if weight.ndim == 3 else weight[n, channel]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _advance(
    row: int,
    first: int,
    last: int,
    steps: int,
    delta: Any,
    x: Any,
    A: Any,
    B: Any,
    C: Any,
    starts: Any,
    state: Any,
    saved: Any,
    y: Any,
) -> None:
    width, states = last - first, len(A)
    a = A[:, first:last].copy()
    h = state[row, :, first:last].copy()
    deltas, xs, out = np.empty(width, f32), np.empty(width, f32), np.empty(width, f32)
    for t in range(delta.shape[1]):
        if t % steps == 0:
            saved[row, t // steps, :, first:last] = h
        if starts[row, t]:
            h[:] = f32(0)
        for d in range(width):
            deltas[d] = delta[row, t, first + d]
            xs[d] = x[row, t, first + d]
            out[d] = f32(0)
        for n in range(states):
            b, c = _scalar(B, row, t, n), _scalar(C, row, t, n)
            for d in range(width):
                fed = xs[d] * _value(B, b, n, first + d)
                h[n, d] = _exp(deltas[d] * a[n, d]) * h[n, d] + fed
                out[d] += h[n, d] * _value(C, c, n, first + d)
        for d in range(width):
            y[row, t, first + d] = out[d]
    state[row, :, first:last] = h


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _differentiate(
    row: int,
    first: int,
    last: int,
    steps: int,
    delta: Any,
    x: Any,
    A: Any,
    B: Any,
    C: Any,
    starts: Any,
    saved: Any,
    dout: Any,
    y: Any,
    ddelta: Any,
    dx: Any,
    dA: Any,
    dB: Any,
    dC: Any,
    carry: Any,
) -> None:
    width, states, block = last - first, len(A), first // BLOCK
    a = A[:, first:last].copy()
    g = carry[row, :, first:last].copy()
    ga = np.zeros((states, width), f32)
    decays, decayed = (
        np.empty((steps, states, width), f32),
        np.empty((steps, states, width), f32),
    )
    h = np.empty((states, width), f32)
    deltas, xs, outs = np.empty(width, f32), np.empty(width, f32), np.empty(width, f32)
    gx, gd = np.empty(width, f32), np.empty(width, f32)
    length = delta.shape[1]
    for chunk in range((length - 1) // steps, -1, -1):
        start, end = chunk * steps, min((chunk + 1) * steps, length)
        h[:] = saved[row, chunk, :, first:last]
        for t in range(start, end):
            if starts[row, t]:
                h[:] = f32(0)
            for d in range(width):
                deltas[d] = delta[row, t, first + d]
                xs[d] = x[row, t, first + d]
                outs[d] = f32(0)
                gd[d] = dout[row, t, first + d]
            for n in range(states):
                b, c = _scalar(B, row, t, n), _scalar(C, row, t, n)
                total = f32(0)
                for d in range(width):
                    decay = _exp(deltas[d] * a[n, d])
                    decays[t - start, n, d] = decay
                    decayed[t - start, n, d] = decay * h[n, d]
                    h[n, d] = decay * h[n, d] + xs[d] * _value(B, b, n, first + d)
                    outs[d] += h[n, d] * _value(C, c, n, first + d)
                    if C.ndim == 2:
                        dC[row, n, first + d] += h[n, d] * gd[d]
                    else:
                        total += h[n, d] * gd[d]
                if C.ndim == 3:
                    dC[block, row, t, n] = total
            for d in range(width):
                y[row, t, first + d] = outs[d]
        for t in range(end - 1, start - 1, -1):
            for d in range(width):
                deltas[d] = delta[row, t, first + d]
                xs[d] = x[row, t, first + d]
                outs[d] = dout[row, t, first + d]
                gx[d] = f32(0)
                gd[d] = f32(0)
            for n in range(states):
                b, c = _scalar(B, row, t, n), _scalar(C, row, t, n)
                total = f32(0)
                for d in range(width):
                    value = g[n, d] + _value(C, c, n, first + d) * outs[d]
                    if B.ndim == 2:
                        dB[row, n, first + d] += value * xs[d]
                    else:
                        total += value * xs[d]
                    gx[d] += value * _value(B, b, n, first + d)
                    slope = value * decayed[t - start, n, d]
                    gd[d] += slope * a[n, d]
                    ga[n, d] += slope * deltas[d]
                    g[n, d] = value * decays[t - start, n, d]
                if B.ndim == 3:
                    dB[block, row, t, n] = total
            for d in range(width):
                dx[row, t, first + d] = gx[d]
                ddelta[row, t, first + d] = gd[d]
            if starts[row, t]:
                g[:] = f32(0)
    carry[row, :, first:last] = g
    dA[row, :, first:last] = ga
