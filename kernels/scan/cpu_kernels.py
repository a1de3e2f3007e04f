"""The scan compiled for a CPU: channels in vector lanes, states in the first cache.

A call walks one batch row and one block of channels through time, chunk by chunk: a chunk's rows
are copied into tiles (steps, width), and the tiles go through bias, softplus, recurrence, skip and
gate, each a function that is called once a chunk. States are (state, width) inside. The
recurrence's exponential is one to base 2, and A is times log2 e.
"""

from typing import Any

import numpy as np
from numba import njit

from dnamamba.kernels.cpu import FAST, exp2, f32, place, sigmoid, softplus

LOG2_E = f32(1.44269504)


@njit(cache=True, forceinline=True)
def turned(source: Any, first: int, last: int, scale: Any) -> Any:
    """Copy some rows of (channels, state) as (state, width), times a number."""
    out = np.empty((source.shape[1], last - first), f32)
    for n in range(source.shape[1]):
        for d in range(last - first):
            out[n, d] = source[first + d, n] * scale
    return out


@njit(cache=True, forceinline=True)
def load(tile: Any, rows: Any, row: int, t: int, count: int, first: int) -> None:
    """Copy steps t on of a row, from channel `first`, into a tile."""
    for i in range(count):
        at = place(rows, row, t + i) + first
        source = rows.values[at : at + tile.shape[1]]
        for d in range(len(source)):
            tile[i, d] = source[d]


@njit(cache=True, forceinline=True)
def store(tile: Any, rows: Any, row: int, t: int, count: int, first: int) -> None:
    """Copy a tile to steps t on of a row, from channel `first`."""
    for i in range(count):
        at = place(rows, row, t + i) + first
        target = rows.values[at : at + tile.shape[1]]
        for d in range(len(target)):
            target[d] = tile[i, d]


@njit(cache=True, forceinline=True)
def lanes(weight: Any, first: int, last: int) -> Any:
    """Take these channels of a constant B or C. Which branch is taken is known when compiled."""
    return weight if weight.ndim == 1 else weight[:, first:last].copy()


@njit(cache=True, forceinline=True)
def scalar(weight: Any, at: int, n: int) -> Any:
    """Read what a B or C that varies has for all channels."""
    return weight[at + n] if weight.ndim == 1 else f32(0)


@njit(cache=True, forceinline=True)
def value_of(weight: Any, scalar: Any, n: int, d: int) -> Any:
    """Read what a B or C has for this channel."""
    return scalar if weight.ndim == 1 else weight[n, d]


@njit(cache=True, forceinline=True, fastmath=FAST, error_model="numpy")
def feed(
    count: int, u: Any, dt: Any, bias: Any, softened: bool, D: Any, skipped: bool, x: Any, out: Any
) -> None:
    """Make delta a step size where it lies; write what a step feeds, and the skip."""
    width = len(bias)
    for i in range(count):
        if softened:
            for d in range(width):
                dt[i, d] = softplus(dt[i, d] + bias[d])
        else:
            for d in range(width):
                dt[i, d] = dt[i, d] + bias[d]
        for d in range(width):
            x[i, d] = dt[i, d] * u[i, d]
        if skipped:
            for d in range(width):
                out[i, d] = D[d] * u[i, d]
        else:
            for d in range(width):
                out[i, d] = f32(0)


@njit(cache=True, forceinline=True, fastmath=FAST, error_model="numpy")
def _advance(
    count: int,
    a: Any,
    h: Any,
    dt: Any,
    x: Any,
    B: Any,
    b_at: int,
    b_step: int,
    C: Any,
    c_at: int,
    c_step: int,
    starts: Any,
    out: Any,
) -> None:
    """Take the states through a chunk; add the sum over n of C h to out."""
    states, width = a.shape
    for i in range(count):
        if len(starts) and starts[i]:
            h[:] = f32(0)
        for n in range(states):
            b, c = scalar(B, b_at + i * b_step, n), scalar(C, c_at + i * c_step, n)
            for d in range(width):
                value = exp2(dt[i, d] * a[n, d]) * h[n, d] + x[i, d] * value_of(B, b, n, d)
                h[n, d] = value
                out[i, d] += value * value_of(C, c, n, d)


@njit(cache=True, forceinline=True, fastmath=FAST, error_model="numpy")
def _gate(count: int, z: Any, out: Any) -> None:
    for i in range(count):
        for d in range(z.shape[1]):
            out[i, d] *= z[i, d] * sigmoid(z[i, d])


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def forward(
    row: int,
    first: int,
    last: int,
    length: int,
    steps: int,
    u: Any,
    delta: Any,
    z: Any,
    B: Any,
    C: Any,
    A: Any,
    D: Any,
    bias: Any,
    starts: Any,
    softened: bool,
    gated: bool,
    skipped: bool,
    y: Any,
    state: Any,
    saved: Any,
) -> None:
    """Scan channels `first` to `last` of a row from `state`, which becomes that after the end.

    The states before every `steps` steps go to `saved`, if it has room for any.
    """
    a, h = turned(A, first, last, LOG2_E), turned(state[row], first, last, f32(1))
    b, c = lanes(B.values, first, last), lanes(C.values, first, last)
    bias, D = bias[first:last], D[first:last]
    shape = steps, last - first
    us, dt, x = np.empty(shape, f32), np.empty(shape, f32), np.empty(shape, f32)
    out, zs = np.empty(shape, f32), np.empty(shape, f32)
    for t in range(0, length, steps):
        count = min(steps, length - t)
        if saved.size:
            chunk = saved[row, t // steps]
            for n in range(len(h)):
                for d in range(last - first):
                    chunk[n, first + d] = h[n, d]
        load(us, u, row, t, count, first)
        load(dt, delta, row, t, count, first)
        feed(count, us, dt, bias, softened, D, skipped, x, out)
        _advance(
            count, a, h, dt, x, b, place(B, row, t), B.step, c, place(C, row, t), C.step,
            starts[row, t:], out,
        )  # fmt: skip
        if gated:
            load(zs, z, row, t, count, first)
            _gate(count, zs, out)
        store(out, y, row, t, count, first)
    for n in range(len(h)):
        for d in range(last - first):
            state[row, first + d, n] = h[n, d]
