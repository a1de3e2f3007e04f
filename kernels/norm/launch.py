"""Launches of the norm's kernels: grids, views and buffers."""

import torch
import triton
from torch import Tensor

from dnamamba.kernels.dispatch import on_device_of
from dnamamba.kernels.norm import gpu


def forward(
    x: Tensor, weight: Tensor, residual: Tensor | None, eps: float, tiles: gpu.Tiles | None = None
) -> tuple[Tensor, Tensor | None]:
    """Normalise x, or x + residual; shapes as in `dnamamba.kernels.rms_norm`.

    Returns
    -------
    The rows normalised, in x's dtype, and x + residual in residual's, both contiguous.
    """
    y, total, _ = forward_keeping(None, x, weight, residual, eps, tiles)
    return y, total


def forward_keeping(
    kept: torch.dtype | None,
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    eps: float,
    tiles: gpu.Tiles | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Normalise the sum rounded to the type `kept`, in that type, and give it back too, last.

    It is all that `backward` needs, while the residual stream goes on unrounded.
    """
    channels = x.shape[-1]
    flat = _flat(x)
    y = torch.empty_like(x, memory_format=torch.contiguous_format, dtype=kept)
    stored = None if kept is None else torch.empty_like(y)
    added = None if residual is None else _flat(residual)
    total = None
    if residual is not None:
        total = torch.empty_like(residual, memory_format=torch.contiguous_format)
    block, width, warps = _cut(tiles or gpu.FORWARD, channels)
    with on_device_of(x):
        gpu._forward[(triton.cdiv(len(flat), block),)](
            flat,
            added,
            weight.contiguous(),
            y,
            total,
            stored,
            flat.stride(0),
            0 if added is None else added.stride(0),
            len(flat),
            channels,
            eps,
            ROWS=block,
            CHANNELS=width,
            num_warps=warps,
        )
    return y, total, stored


def backward(
    total: Tensor,
    weight: Tensor,
    dy: Tensor,
    dtotal: Tensor | None,
    eps: float,
    tiles: gpu.Tiles | None = None,
    residual: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Differentiate `forward`, from what was normalised and the results' gradients.

    Returns
    -------
    The gradient of x in dy's dtype; that of residual, in the type `residual` or total's, where that
    is another, else None: then it is the same; and the gradient of weight.
    """
    channels = total.shape[-1]
    flat, flat_dy = _flat(total), _flat(dy)
    flat_dtotal = None if dtotal is None else _flat(dtotal)
    dx = torch.empty_like(dy, memory_format=torch.contiguous_format)
    dresidual = None
    wide = residual or total.dtype
    if wide != dy.dtype:
        dresidual = torch.empty_like(total, memory_format=torch.contiguous_format, dtype=wide)
    block, width, warps = _cut(tiles or gpu.BACKWARD, channels)
    blocks = triton.cdiv(triton.cdiv(len(flat), block), gpu.PROGRAMS)
    programs = triton.cdiv(len(flat), block * blocks)
    partial = total.new_empty((programs, channels), dtype=torch.float32)
    with on_device_of(total):
        gpu._backward[(programs,)](
            flat,
            weight.contiguous(),
            flat_dy,
            flat_dtotal,
            dx,
            dresidual,
            partial,
            flat.stride(0),
            flat_dy.stride(0),
            0 if flat_dtotal is None else flat_dtotal.stride(0),
            len(flat),
            channels,
            eps,
            blocks,
            ROWS=block,
            CHANNELS=width,
            num_warps=warps,
        )
    return dx, dresidual, torch.empty_like(weight).copy_(partial.sum(0))


def _flat(tensor: Tensor) -> Tensor:
    """View (..., channels) as (rows, channels), copied only where channels are apart."""
    flat = tensor.reshape(-1, tensor.shape[-1])
    return flat if flat.stride(1) == 1 else flat.contiguous()


def _cut(tiles: gpu.Tiles, channels: int) -> tuple[int, int, int]:
    """Fit tiles to a number of channels: rows and channels of a program, and its warps."""
    width = triton.next_power_of_2(channels)
    rows = max(1, tiles.elements // width)
    return rows, width, max(1, rows * width // (32 * tiles.each))
