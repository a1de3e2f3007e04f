"""The state-space-dual scan, one step at a time: the truth that the other path is held against."""

import torch
from torch import Tensor

from dnamamba.kernels.ssd.inputs import SsdInputs


def ssd_scan(inputs: SsdInputs, initial_state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scan sequentially in fp32, or in fp64 where any input is fp64; autograd differentiates it.

    Equation 2 of Dao and Gu, "Transformers are SSMs" (arXiv 2405.21060), whose A is a number for
    each head and whose x is a vector: h_t = exp(delta_t A) h_(t-1) + delta_t x_t B_t^T.

    Returns
    -------
    y (batch, length, heads, width) in x's dtype, and the last state (batch, heads, width, state).
    """
    dtype, x = inputs.dtype, inputs.x.to(inputs.dtype)
    batch, length, heads, width = x.shape
    groups, size = inputs.B.shape[2:]
    steps = inputs.steps()
    decays = torch.exp(steps * inputs.A.to(dtype)).unbind(1)
    fed = (steps[..., None] * x).unbind(1)
    Bs, Cs = (
        w.to(dtype).repeat_interleave(heads // groups, 2).unbind(1) for w in (inputs.B, inputs.C)
    )
    state = x.new_zeros(batch, heads, width, size)
    if initial_state is not None:
        state = initial_state.to(dtype)
    outputs = []
    for t in reversed(range(length)) if inputs.reverse else range(length):
        if inputs.starts is not None:
            state = state.masked_fill(inputs.starts[:, t, None, None, None], 0)
        state = decays[t][..., None, None] * state + fed[t][..., None] * Bs[t][:, :, None]
        outputs.append((state * Cs[t][:, :, None]).sum(-1))
    y = torch.stack(outputs[::-1] if inputs.reverse else outputs, dim=1)
    return inputs.skip(y), state
