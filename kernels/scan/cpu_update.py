"""One step of the scan compiled for a CPU: channels in turn, their states in vector lanes."""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from dnamamba.kernels.cpu import (
    FAST,
    array,
    empty_like,
    exp2,
    f32,
    parameter,
    run,
    sigmoid,
    softplus,
)
from dnamamba.kernels.scan.cpu_kernels import LOG2_E

TASK = 2**16
"""States in a task, at least: fewer are not worth a thread's waking."""


def update(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Take one step; arguments and results as in `dnamamba.kernels.scan.update.update`."""
    batch, channels = u.shape
    nothing = np.zeros(channels, np.float32)
    gate = np.zeros((0, channels), np.float32) if z is None else array(z)
    y, new = empty_like(u), empty_like(state)
    given = (
        *(array(tensor) for tensor in (state, u, delta)),
        parameter(A),
        *(array(tensor) for tensor in (B, C)),
        nothing if D is None else parameter(D),
        gate,
        nothing if delta_bias is None else parameter(delta_bias),
        delta_softplus,
    )
    rows = max(1, -(-batch // torch.get_num_threads()), TASK // (channels * A.shape[1]))
    tasks = ((first, min(first + rows, batch)) for first in range(0, batch, rows))
    run(_update, ((*task, *given, y.numpy(), new.numpy()) for task in tasks))
    return y.to(u.dtype), new


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _update(
    first: int,
    last: int,
    state: Any,
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    z: Any,
    bias: Any,
    softened: bool,
    y: Any,
    new: Any,
) -> None:
    """Take rows `first` to `last` a step on."""
    channels, states = A.shape
    width = channels // B.shape[1]
    dt = np.empty(channels, f32)
    for row in range(first, last):
        if softened:
            for d in range(channels):
                dt[d] = softplus(delta[row, d] + bias[d])
        else:
            for d in range(channels):
                dt[d] = delta[row, d] + bias[d]
        for d in range(channels):
            before, after, a = state[row, d], new[row, d], A[d]
            b, c = B[row, d // width], C[row, d // width]
            step, fed = dt[d] * LOG2_E, dt[d] * u[row, d]
            total = f32(0)
            for n in range(states):
                value = exp2(step * a[n]) * before[n] + fed * b[n]
                after[n] = value
                total += value * c[n]
            y[row, d] = total + D[d] * u[row, d]
        if len(z):
            for d in range(channels):
                y[row, d] *= z[row, d] * sigmoid(z[row, d])
