"""The causal depthwise convolution, one tap at a time: the truth for every other path."""

import functools

import torch
from torch import Tensor


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    initial_state: Tensor | None,
    seq_idx: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Convolve tap by tap in fp32 or wider; shapes as in `dnamamba.kernels.causal_conv1d`.

    Returns
    -------
    y (batch, length, channels), and the final state (batch, width - 1, channels): the last inputs
    of the last sequence in the order in which they were read. Both in x's dtype.
    """
    batch, length, channels = x.shape
    width = weight.shape[1]
    given = [tensor.dtype for tensor in (weight, bias, initial_state) if tensor is not None]
    wide = functools.reduce(torch.promote_types, given, torch.promote_types(x.dtype, torch.float32))
    past = x.new_zeros(batch, width - 1, channels) if initial_state is None else initial_state
    seen = torch.cat([past.to(wide), (x.flip(1) if reverse else x).to(wide)], dim=1)
    segments = None if seq_idx is None else _segments(seq_idx, width, reverse)
    y = seen.new_zeros(()) if bias is None else bias.to(wide)
    for tap in range(width):
        term = weight[:, tap] * seen[:, tap : tap + length]
        if segments is not None:
            same = segments[:, tap : tap + length] == segments[:, width - 1 :]
            term = torch.where(same[..., None], term, 0)
        y = y + term
    if silu:
        y = y * torch.sigmoid(y)
    # A copy: a view would keep the whole input alive in a state.
    final_state = seen[:, length:].to(x.dtype, copy=True)
    if segments is not None:
        same = segments[:, length:] == segments[:, -1:]
        final_state = torch.where(same[..., None], final_state, 0)
    return (y.flip(1) if reverse else y).to(x.dtype), final_state


def _segments(seq_idx: Tensor, width: int, reverse: bool) -> Tensor:
    """Count the sequences in reading order; the state before the first belongs to it."""
    read = seq_idx.flip(1) if reverse else seq_idx
    starts = torch.zeros_like(read)
    starts[:, 1:] = read[:, 1:] != read[:, :-1]
    return torch.nn.functional.pad(starts.cumsum(1), (width - 1, 0))


def in_last_sequence(seq_idx: Tensor, count: int, reverse: bool) -> Tensor:
    """Tell which of the last `count` positions read, (batch, count), are of the last sequence.

    Positions before the first belong to the first sequence.
    """
    tail = seq_idx[:, :count] if reverse else seq_idx[:, -count:]
    segments = _segments(tail, count - tail.shape[1] + 1, reverse)
    return segments == segments[:, -1:]
