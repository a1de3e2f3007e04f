"""One step of the scan in Triton: the kernel and its launch.

A program holds the states of some channels of one row, [channels, state], as they lie in memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dnamamba.kernels.dispatch import on_device_of
from dnamamba.kernels.scan.gpu_math import LOG2E, exp2, place, sigmoid, step_size, vector

ELEMENTS = 512
"""States of a program: small, since a step has little work to spread over a GPU."""


@triton.jit
def _update(
    state_ptr,
    u_ptr,
    delta_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    D_ptr,
    z_ptr,
    bias_ptr,
    y_ptr,
    new_ptr,
    u_row,
    delta_row,
    z_row,
    B_row,
    B_group,
    C_row,
    C_group,
    channels,
    groups,
    states,
    SOFTPLUS: tl.constexpr,
    STATE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    batch, group, _, d, live = place(program, channels, groups, BLOCK, 1)
    n = tl.arange(0, STATE)
    tile = live[:, None] & (n < states)[None, :]
    at = d[:, None] * states + n[None, :]
    row = batch * channels * states + at
    u = tl.load(u_ptr + batch * u_row + d, live, other=0.0).to(tl.float32)
    raw = tl.load(delta_ptr + batch * delta_row + d, live, other=0.0)
    A = tl.load(A_ptr + at, tile, other=0.0).to(tl.float32)
    B = tl.load(B_ptr + batch * B_row + group * B_group + n, n < states, other=0.0).to(tl.float32)
    C = tl.load(C_ptr + batch * C_row + group * C_group + n, n < states, other=0.0).to(tl.float32)
    state = tl.load(state_ptr + row, tile, other=0.0).to(tl.float32)
    bias = vector(bias_ptr, d, live, bias_ptr is not None)
    delta = step_size(raw, bias, SOFTPLUS)
    state = exp2(delta[:, None] * (A * LOG2E)) * state + (delta * u)[:, None] * B[None, :]
    tl.store(new_ptr + row, state, tile)
    y = tl.sum(state * C[None, :], 1) + vector(D_ptr, d, live, D_ptr is not None) * u
    if z_ptr is not None:
        z = tl.load(z_ptr + batch * z_row + d, live, other=0.0).to(tl.float32)
        y *= z * sigmoid(z)
    tl.store(y_ptr + batch * channels + d, y.to(y_ptr.dtype.element_ty), live)


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
    groups, states = B.shape[1:]
    u, delta, B, C = (_rows(tensor) for tensor in (u, delta, B, C))
    z = None if z is None else _rows(z)
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    new = torch.empty(state.shape, dtype=torch.float32, device=u.device)
    padded = triton.next_power_of_2(states)
    width = channels // groups
    block = max(1, min(ELEMENTS // padded, triton.next_power_of_2(width)))
    with on_device_of(u):
        _update[(batch * groups * triton.cdiv(width, block),)](
            state.contiguous(),
            u,
            delta,
            A.contiguous(),
            B,
            C,
            None if D is None else D.contiguous(),
            z,
            None if delta_bias is None else delta_bias.contiguous(),
            y,
            new,
            u.stride(0),
            delta.stride(0),
            0 if z is None else z.stride(0),
            *B.stride()[:2],
            *C.stride()[:2],
            channels,
            groups,
            states,
            SOFTPLUS=delta_softplus,
            STATE=padded,
            BLOCK=block,
            num_warps=1,
        )
    return y, new


def _rows(tensor: Tensor) -> Tensor:
    """Make the last axis contiguous, if it is not; any other stride will do."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
