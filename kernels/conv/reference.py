"""The causal depthwise convolution, one tap at a time: the truth for every other path."""

import torch
from torch import Tensor


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    initial_state: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Convolve sequentially over taps; shapes as in `dnamamba.kernels.causal_conv1d`.

    Returns
    -------
    y (batch, length, channels), and the final state (batch, width - 1, channels): the last inputs
    in the order in which they were read.
    """
    batch, length, channels = x.shape
    width = weight.shape[1]
    past = x.new_zeros(batch, width - 1, channels) if initial_state is None else initial_state
    seen = torch.cat([past.to(x.dtype), x.flip(1) if reverse else x], dim=1)
    y = seen.new_zeros(batch, length, channels) if bias is None else bias.expand(x.shape)
    for tap in range(width):
        y = y + weight[:, tap] * seen[:, tap : tap + length]
    if silu:
        y = y * torch.sigmoid(y)
    # A copy: a view would keep the whole input alive in a state.
    return (y.flip(1) if reverse else y).to(x.dtype), seen[:, length:].clone()
