"""Launches of the convolution's kernels: grids, strides and buffers."""

import torch
import triton
from torch import Tensor

from dnamamba.kernels.conv import gpu
from dnamamba.kernels.conv.reference import in_last_sequence
from dnamamba.kernels.dispatch import on_device_of


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    seq_idx: Tensor | None,
    silu: bool,
    reverse: bool,
    tiles: gpu.Tiles | None = None,
) -> Tensor:
    """Convolve; arguments as in `dnamamba.kernels.causal_conv1d`.

    Returns
    -------
    y (batch, length, channels), contiguous, in x's dtype.
    """
    batch, length, channels = x.shape
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    tiles = tiles or gpu.FORWARD[x.element_size()]
    strips, block, steps = _cut(tiles, batch, length, channels)
    first, x_batch, x_step = _reading(x, reverse)
    first_seq, seq_batch, seq_step = (None, 0, 0) if seq_idx is None else _reading(seq_idx, reverse)
    first_y, y_batch, y_step = _reading(y, reverse)
    programs = batch * triton.cdiv(length, strips * steps) * triton.cdiv(channels, block)
    with on_device_of(x):
        gpu._forward[(programs,)](
            first,
            weight.contiguous(),
            _contiguous(bias),
            _contiguous(state),
            first_seq,
            first_y,
            x_batch,
            x_step,
            x.stride(2),
            y_batch,
            y_step,
            seq_batch,
            seq_step,
            length,
            channels,
            steps,
            WIDTH=weight.shape[1],
            SILU=silu,
            STRIPS=strips,
            CHANNELS=block,
            ROWS=tiles.rows,
            num_warps=tiles.warps,
        )
    return y


def final_state(
    x: Tensor, width: int, state: Tensor | None, seq_idx: Tensor | None, reverse: bool
) -> Tensor:
    """Take the last width - 1 inputs read of the last sequence, (batch, width - 1, channels)."""
    batch, length, channels = x.shape
    final = x.new_empty(batch, width - 1, channels)
    block = min(1024, triton.next_power_of_2(channels))
    first, x_batch, x_step = _reading(x, reverse)
    first_seq, seq_batch, seq_step = (None, 0, 0) if seq_idx is None else _reading(seq_idx, reverse)
    if width > 1:
        with on_device_of(x):
            gpu._final_state[(batch * triton.cdiv(channels, block),)](
                first,
                _contiguous(state),
                first_seq,
                final,
                x_batch,
                x_step,
                x.stride(2),
                seq_batch,
                seq_step,
                length,
                channels,
                WIDTH=width,
                CHANNELS=block,
            )
    return final


def backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    seq_idx: Tensor | None,
    dy: Tensor,
    dfinal: Tensor | None,
    silu: bool,
    reverse: bool,
    tiles: gpu.Tiles | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Differentiate `forward` and `final_state`, from their inputs and the results' gradients.

    Returns
    -------
    The gradients of x, weight, bias and state, each in its tensor's dtype.
    """
    batch, length, channels = x.shape
    width = weight.shape[1]
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    dstate = (
        None if state is None else torch.empty_like(state, memory_format=torch.contiguous_format)
    )
    if width == 1:
        state = dfinal = None  # of no rows
    if dfinal is not None and seq_idx is not None:
        dfinal = dfinal * in_last_sequence(seq_idx, width - 1, reverse)[..., None]
    tiles = tiles or gpu.BACKWARD[x.element_size()]
    if state is not None or seq_idx is not None or dfinal is not None:
        tiles = tiles._replace(rows=max(1, tiles.rows // 2))  # registers for what else is loaded
    strips, block, steps = _cut(tiles, batch, length, channels)
    blocks = batch * triton.cdiv(length, strips * steps)
    partial = x.new_empty((blocks, width + 1, channels), dtype=torch.float32)
    first, x_batch, x_step = _reading(x, reverse)
    first_seq, seq_batch, seq_step = (None, 0, 0) if seq_idx is None else _reading(seq_idx, reverse)
    first_dy, dy_batch, dy_step = _reading(dy, reverse)
    first_dx, dx_batch, dx_step = _reading(dx, reverse)
    with on_device_of(x):
        gpu._backward[(blocks * triton.cdiv(channels, block),)](
            first,
            weight.contiguous(),
            _contiguous(bias),
            _contiguous(state),
            first_seq,
            first_dy,
            _contiguous(dfinal),
            first_dx,
            None if state is None else dstate,
            partial,
            x_batch,
            x_step,
            x.stride(2),
            dy_batch,
            dy_step,
            dy.stride(2),
            dx_batch,
            dx_step,
            seq_batch,
            seq_step,
            length,
            channels,
            steps,
            WIDTH=width,
            SILU=silu,
            STRIPS=strips,
            CHANNELS=block,
            ROWS=tiles.rows,
            num_warps=tiles.warps,
        )
    if dstate is not None and dfinal is not None and length < width - 1:
        # The sequence is shorter than the state, whose last rows are handed on.
        dstate[:, length:] += dfinal[:, : width - 1 - length]
    sums = partial.sum(0)
    dweight = torch.empty_like(weight, memory_format=torch.contiguous_format).copy_(sums[:width].T)
    dbias = None if bias is None else torch.empty_like(bias).copy_(sums[width])
    return dx, dweight, dbias, dstate


def update(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """Take one step; arguments as in `dnamamba.kernels.causal_conv1d_update`."""
    batch, channels = x.shape
    width = weight.shape[1]
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    new_state = x.new_empty(batch, width - 1, channels)
    block = min(256, triton.next_power_of_2(channels))
    with on_device_of(x):
        gpu._update[(batch * triton.cdiv(channels, block),)](
            x,
            state.contiguous(),
            weight.contiguous(),
            _contiguous(bias),
            y,
            new_state,
            x.stride(0) if batch > 1 else 0,
            x.stride(1),
            channels,
            WIDTH=width,
            SILU=silu,
            CHANNELS=block,
            num_warps=1,
        )
    return y, new_state


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _reading(tensor: Tensor, reverse: bool) -> tuple[Tensor, int, int]:
    """Give a tensor from the first row read on, its stride over the batch and its step in time."""
    # A batch of one may have any stride; a multiple of 16 keeps loads wide.
    over_batch = tensor.stride(0) if tensor.shape[0] > 1 else 0
    if reverse:
        return tensor[:, -1:], over_batch, -tensor.stride(1)
    return tensor, over_batch, tensor.stride(1)


def _cut(tiles: gpu.Tiles, batch: int, length: int, channels: int) -> tuple[int, int, int]:
    """Fit tiles to a shape: strips and channels of a program, positions of a strip."""
    even = channels & -channels  # the power of two in it: no lane idles if a block divides it
    block = min(tiles.channels, even if even >= 64 else triton.next_power_of_2(channels))
    strips = tiles.strips * tiles.channels // block
    across = batch * triton.cdiv(channels, block)
    steps = tiles.steps
    while steps > tiles.rows and across * triton.cdiv(length, strips * steps) < gpu.PROGRAMS:
        steps //= 2
    return strips, block, steps
