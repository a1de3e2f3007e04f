"""The selective scan, one step at a time: the truth that every other path is held against."""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Scan sequentially in fp32, or in fp64 where any input is fp64; autograd differentiates it.

    Shapes as in `dnamamba.kernels.selective_scan`. Equations 2a and 2b of Gu and Dao, "Mamba:
    Linear-Time Sequence Modeling with Selective State Spaces" (arXiv 2312.00752), with A
    discretised by zero-order hold and B by Euler's rule, as in section 3.3 and its code.

    Returns
    -------
    y (batch, length, channels) in u's dtype, and the last state (batch, channels, state).
    """
    given = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    dtype = (
        torch.float64
        if any(t is not None and t.dtype == torch.float64 for t in given)
        else (torch.float32)
    )
    u_, delta, A, B, C = (t.to(dtype) for t in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)
    if delta_softplus:
        delta = F.softplus(delta)
    batch, length, channels = u.shape
    state = (
        u_.new_zeros(batch, channels, A.shape[1])
        if initial_state is None
        else initial_state.to(dtype)
    )
    outputs = []
    for t in reversed(range(length)) if reverse else range(length):
        decay = torch.exp(delta[:, t, :, None] * A)
        state = decay * state + (delta[:, t] * u_[:, t])[:, :, None] * B[:, t, None, :]
        outputs.append((state * C[:, t, None, :]).sum(-1))
    y = torch.stack(outputs[::-1] if reverse else outputs, dim=1)
    if D is not None:
        y = y + D.to(dtype) * u_
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), state


def selective_state_update(
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
    """One step of `selective_scan`: inputs without the length axis, the state in and out."""
    y, state = selective_scan(
        u[:, None],
        delta[:, None],
        A,
        B[:, None],
        C[:, None],
        D,
        None if z is None else z[:, None],
        delta_bias,
        delta_softplus,
        state,
        reverse=False,
    )
    return y[:, 0], state
