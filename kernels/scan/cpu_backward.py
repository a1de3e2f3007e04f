"""The scan's gradient compiled for a CPU: chunks from the last, each advanced again, then undone.

`cpu_kernels` says how a call walks time. States and decays of one chunk are kept, in the second
cache; with what is left of a step in tiles (steps, width), the way back computes no exponential but
that of softplus.
"""

from typing import Any

import numpy as np
from numba import njit

from dnamamba.kernels.cpu import FAST, exp2, f32, place, sigmoid
from dnamamba.kernels.scan.cpu_kernels import (
    LOG2_E,
    feed,
    lanes,
    load,
    scalar,
    store,
    turned,
    value_of,
)

LN_2 = f32(0.69314718)


@njit(cache=True, forceinline=True, fastmath=FAST, error_model="numpy")
def _ungate(count: int, z: Any, dout: Any, gate: Any) -> None:
    """Make dout the gradient of what is gated; write dz but for the factor that is gated."""
    for i in range(count):
        for d in range(z.shape[1]):
            s = sigmoid(z[i, d])
            gate[i, d] = dout[i, d] * s * (f32(1) + z[i, d] * (f32(1) - s))
            dout[i, d] *= z[i, d] * s


@njit(cache=True, forceinline=True, fastmath=FAST, error_model="numpy")
def _recompute(
    count: int,
    a: Any,
    dt: Any,
    x: Any,
    dout: Any,
    B: Any,
    b_at: int,
    b_step: int,
    C: Any,
    c_at: int,
    c_step: int,
    starts: Any,
    h: Any,
    decays: Any,
    out: Any,
    dC: Any,
) -> None:
    """Advance as the forward did, but keep decays and states, h[i] before step i; write dC."""
    states, width = a.shape
    for i in range(count):
        if len(starts) and starts[i]:
            h[i] = f32(0)
        for n in range(states):
            b, c = scalar(B, b_at + i * b_step, n), scalar(C, c_at + i * c_step, n)
            total = f32(0)
            for d in range(width):
                decay = exp2(dt[i, d] * a[n, d])
                decays[i, n, d] = decay
                value = decay * h[i, n, d] + x[i, d] * value_of(B, b, n, d)
                h[i + 1, n, d] = value
                out[i, d] += value * value_of(C, c, n, d)
                if C.ndim == 1:
                    total += value * dout[i, d]
                else:
                    dC[n, d] += value * dout[i, d]
            if C.ndim == 1:
                dC[i, n] = total


@njit(cache=True, forceinline=True, fastmath=FAST, error_model="numpy")
def _retreat(
    count: int,
    a: Any,
    dt: Any,
    x: Any,
    dout: Any,
    B: Any,
    b_at: int,
    b_step: int,
    C: Any,
    c_at: int,
    c_step: int,
    starts: Any,
    h: Any,
    decays: Any,
    g: Any,
    ga: Any,
    gx: Any,
    gd: Any,
    dB: Any,
) -> None:
    """Take the gradient of the states back through a chunk; write dB, add to the rest."""
    states, width = a.shape
    for i in range(count - 1, -1, -1):
        for n in range(states):
            b, c = scalar(B, b_at + i * b_step, n), scalar(C, c_at + i * c_step, n)
            total = f32(0)
            for d in range(width):
                value = g[n, d] + dout[i, d] * value_of(C, c, n, d)
                if B.ndim == 1:
                    total += value * x[i, d]
                else:
                    dB[n, d] += value * x[i, d]
                gx[i, d] += value * value_of(B, b, n, d)
                passed = value * decays[i, n, d]
                g[n, d] = passed
                slope = passed * h[i, n, d]
                gd[i, d] += slope * a[n, d]
                ga[n, d] += slope * dt[i, d]
            if B.ndim == 1:
                dB[i, n] = total
        if len(starts) and starts[i]:
            g[:] = f32(0)


@njit(cache=True, forceinline=True, fastmath=FAST, error_model="numpy")
def _unfeed(
    count: int,
    u: Any,
    raw: Any,
    dt: Any,
    bias: Any,
    softened: bool,
    D: Any,
    skipped: bool,
    dout: Any,
    gx: Any,
    gd: Any,
    gD: Any,
    gbias: Any,
) -> None:
    """Make gx the gradient of u and gd that of delta; add to those of D and the bias."""
    width = len(bias)
    for i in range(count):
        for d in range(width):
            gd[i, d] = gd[i, d] * LN_2 + gx[i, d] * u[i, d]
        if softened:
            for d in range(width):
                gd[i, d] *= sigmoid(raw[i, d] + bias[d])
        for d in range(width):
            gbias[d] += gd[i, d]
            gx[i, d] *= dt[i, d]
        if skipped:
            for d in range(width):
                gx[i, d] += dout[i, d] * D[d]
                gD[d] += dout[i, d] * u[i, d]


@njit(cache=True, forceinline=True)
def _target(gradient: Any, row: int, part: int, group: int, t: int, first: int, last: int) -> Any:
    """Take the gradient of B or C from step t on, or, where it is constant, of these channels."""
    return gradient[part, row, t:, group] if gradient.ndim == 5 else gradient[row, :, first:last]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def backward(
    row: int,
    first: int,
    last: int,
    group: int,
    part: int,
    begin: int,
    end: int,
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
    dy: Any,
    saved: Any,
    carry: Any,
    du: Any,
    ddelta: Any,
    dz: Any,
    dA: Any,
    dD: Any,
    dbias: Any,
    dB: Any,
    dC: Any,
) -> None:
    """Differentiate `forward` over steps `begin` to `end`, from the last.

    `carry` is the gradient of the state after them and becomes that of the state before. Gradients
    of what is as long as the sequence are written, others added to. `begin` is a multiple of
    `steps`; `part` is the block's place among those that share a B and C.
    """
    a, g = turned(A, first, last, LOG2_E), turned(carry[row], first, last, f32(1))
    b, c = lanes(B.values, first, last), lanes(C.values, first, last)
    bias, D = bias[first:last], D[first:last]
    gbias, gD = dbias[row, first:last], dD[row, first:last]
    ga = np.zeros_like(a)
    h, decays = np.empty((steps + 1, *a.shape), f32), np.empty((steps, *a.shape), f32)
    shape = steps, last - first
    us, raw, dt, x = (
        np.empty(shape, f32),
        np.empty(shape, f32),
        np.empty(shape, f32),
        np.empty(shape, f32),
    )
    out, zs, gate = np.empty(shape, f32), np.empty(shape, f32), np.empty(shape, f32)
    dout, gx, gd = np.empty(shape, f32), np.empty(shape, f32), np.empty(shape, f32)
    for chunk in range((end - 1) // steps, begin // steps - 1, -1):
        t = chunk * steps
        count = min(steps, end - t)
        b_at, c_at, begun = place(B, row, t), place(C, row, t), starts[row, t:]
        load(us, u, row, t, count, first)
        load(raw, delta, row, t, count, first)
        load(dt, delta, row, t, count, first)
        feed(count, us, dt, bias, softened, D, skipped, x, out)
        load(dout, dy, row, t, count, first)
        if gated:
            load(zs, z, row, t, count, first)
            _ungate(count, zs, dout, gate)
        before = saved[row, chunk]
        for n in range(len(a)):
            for d in range(last - first):
                h[0, n, d] = before[n, first + d]
        _recompute(
            count, a, dt, x, dout, b, b_at, B.step, c, c_at, C.step, begun, h, decays, out,
            _target(dC, row, part, group, t - begin, first, last),
        )  # fmt: skip
        if gated:
            for i in range(count):
                for d in range(last - first):
                    gate[i, d] *= out[i, d]
            store(gate, dz, row, t, count, first)
        gx[:] = f32(0)
        gd[:] = f32(0)
        _retreat(
            count, a, dt, x, dout, b, b_at, B.step, c, c_at, C.step, begun, h, decays,
            g, ga, gx, gd, _target(dB, row, part, group, t - begin, first, last),
        )  # fmt: skip
        _unfeed(count, us, raw, dt, bias, softened, D, skipped, dout, gx, gd, gD, gbias)
        store(gx, du, row, t, count, first)
        store(gd, ddelta, row, t, count, first)
    for n in range(len(a)):
        for d in range(last - first):
            carry[row, first + d, n] = g[n, d]
            dA[row, first + d, n] += ga[n, d]
