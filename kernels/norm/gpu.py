"""RMSNorm in Triton, with the residual sum before it: the kernels and their tile sizes.

A program holds whole rows, so a row is read once, summed, normalised and written. The backward
computes a row's scale again from the row, which it needs anyway, rather than reading it.
"""

from typing import NamedTuple

import triton
import triton.language as tl


class Tiles(NamedTuple):
    """How a kernel cuts its work."""

    elements: int
    """Elements of a program's tile: rows times channels, rounded up to a power of two."""
    each: int
    """Elements of a thread, which sets the warps."""


FORWARD = Tiles(2048, 8)
BACKWARD = Tiles(2048, 8)
PROGRAMS = 4096
"""Programs of a backward, each with a partial sum of the weight's gradient; they fill any GPU, and
the same number everywhere gives the same bits everywhere."""


@triton.jit
def _scale(row, channels, eps):
    return tl.rsqrt(tl.sum(row * row, 1, keep_dims=True) / channels + eps)


@triton.jit(do_not_specialize=["rows"])
def _forward(
    x_ptr,
    residual_ptr,
    weight_ptr,
    y_ptr,
    total_ptr,
    kept_ptr,
    x_row,
    residual_row,
    rows,
    channels,
    eps,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.arange(0, CHANNELS)[None, :]
    live = (row < rows) & (c < channels)
    weight = tl.load(weight_ptr + c, c < channels, other=0.0).to(tl.float32)
    total = tl.load(x_ptr + row * x_row + c, live, other=0.0).to(tl.float32)
    if residual_ptr is not None:
        total += tl.load(residual_ptr + row * residual_row + c, live, other=0.0).to(tl.float32)
        # What is normalised is what is stored, and read by the backward.
        stored = total.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + row * channels + c, stored, live)
        total = stored.to(tl.float32)
    if kept_ptr is not None:
        kept = total.to(kept_ptr.dtype.element_ty)
        tl.store(kept_ptr + row * channels + c, kept, live)
        total = kept.to(tl.float32)
    y = total * _scale(total, channels, eps) * weight
    tl.store(y_ptr + row * channels + c, y.to(y_ptr.dtype.element_ty), live)


@triton.jit(do_not_specialize=["rows", "blocks"])
def _backward(
    total_ptr,
    weight_ptr,
    dy_ptr,
    dtotal_ptr,
    dx_ptr,
    dresidual_ptr,
    partial_ptr,
    total_row,
    dy_row,
    dtotal_row,
    rows,
    channels,
    eps,
    blocks,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, CHANNELS)[None, :]
    weight = tl.load(weight_ptr + c, c < channels, other=0.0).to(tl.float32)
    dweight = tl.zeros((ROWS, CHANNELS), tl.float32)
    for block in range(blocks):
        row = (program * blocks + block) * ROWS + tl.arange(0, ROWS)[:, None]
        live = (row < rows) & (c < channels)
        total = tl.load(total_ptr + row * total_row + c, live, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + row * dy_row + c, live, other=0.0).to(tl.float32)
        scale = _scale(total, channels, eps)
        unit = total * scale
        dunit = dy * weight
        dweight += dy * unit
        along = tl.sum(dunit * unit, 1, keep_dims=True) / channels
        dx = scale * (dunit - along * unit)
        if dtotal_ptr is not None:
            dx += tl.load(dtotal_ptr + row * dtotal_row + c, live, other=0.0).to(tl.float32)
        tl.store(dx_ptr + row * channels + c, dx.to(dx_ptr.dtype.element_ty), live)
        if dresidual_ptr is not None:
            dresidual = dx.to(dresidual_ptr.dtype.element_ty)
            tl.store(dresidual_ptr + row * channels + c, dresidual, live)
    tl.store(partial_ptr + program * channels + c, tl.sum(dweight, 0, keep_dims=True), c < channels)
