"""The selective scan, one step at a time: the truth that every other path is held against."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dnamamba.kernels.scan.inputs import ScanInputs


def selective_scan(inputs: ScanInputs, initial_state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scan sequentially in fp32, or in fp64 where any input is fp64; autograd differentiates it.

    Equations 2a and 2b of Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State
    Spaces" (arXiv 2312.00752), with A discretised by zero-order hold and B by Euler's rule, as in
    section 3.3 and its code.

    Returns
    -------
    y (batch, length, channels) in u's dtype, and the last state (batch, channels, state).
    """
    dtype = inputs.dtype
    u, delta, A = inputs.u.to(dtype), inputs.delta.to(dtype), inputs.A.to(dtype)
    if inputs.delta_bias is not None:
        delta = delta + inputs.delta_bias.to(dtype)
    if inputs.delta_softplus:
        delta = F.softplus(delta)
    batch, length, channels = u.shape
    # Unbound once: the gradient of an index into a sequence is as long as the sequence.
    us, deltas = u.unbind(1), delta.unbind(1)
    Bs, Cs = (_steps(weight.to(dtype), length, channels) for weight in (inputs.B, inputs.C))
    state = (
        u.new_zeros(batch, channels, A.shape[1])
        if initial_state is None
        else initial_state.to(dtype)
    )
    outputs = []
    for t in reversed(range(length)) if inputs.reverse else range(length):
        if inputs.starts is not None:
            state = state.masked_fill(inputs.starts[:, t, None, None], 0)
        decay = torch.exp(deltas[t][:, :, None] * A)
        state = decay * state + (deltas[t] * us[t])[:, :, None] * Bs[t]
        outputs.append((state * Cs[t]).sum(-1))
    y = torch.stack(outputs[::-1] if inputs.reverse else outputs, dim=1)
    if inputs.D is not None:
        y = y + inputs.D.to(dtype) * u
    if inputs.z is not None:
        y = y * F.silu(inputs.z.to(dtype))
    return y.to(inputs.u.dtype), state


def _steps(weight: Tensor, length: int, channels: int) -> list[Tensor]:
    """Give each step its B or C, (batch or 1, channels, state)."""
    if weight.dim() == 2:
        return [weight[None]] * length
    groups = weight.shape[2]
    return [step.repeat_interleave(channels // groups, dim=1) for step in weight.unbind(1)]
