"""The causal depthwise convolution in Triton: the kernels and their tile sizes.

A program holds a tile of strips x channels, a strip being a stretch of time. It walks its strips
side by side, one position at a time, with the last inputs in registers: each input is loaded once,
16 bytes a thread. Positions count in reading order. A reversed sequence is handed over as a pointer
to its last row and a negative step, so kernels know of no direction. Tuples grow by addition, the
one way that Triton knows.
"""

from typing import NamedTuple

import triton
import triton.language as tl


class Tiles(NamedTuple):
    """How a kernel cuts its work."""

    strips: int
    """Stretches of time that a program walks side by side."""
    channels: int
    """Channels of a program; where there are fewer, it takes more strips."""
    steps: int
    """Positions of a strip at most; fewer where programs would not fill a GPU."""
    rows: int
    """Positions whose loads are in flight together."""
    warps: int


FORWARD = {2: Tiles(4, 256, 64, 8, 4), 4: Tiles(4, 128, 64, 8, 4)}
"""By the bytes of an element of x: 16 bytes a thread."""
BACKWARD = {2: Tiles(2, 128, 128, 8, 4), 4: Tiles(4, 128, 128, 4, 4)}
"""4 and 16 bytes a thread: more channels a thread leave room for fewer warps, and took longer."""
PROGRAMS = 2048
"""As many fill any GPU: strips are not made shorter for more. It depends on nothing but the shape,
so that every GPU adds the weight's gradient in the same order."""


@triton.jit
def _load_input(x, step, state, channels, position, length, live, WIDTH: tl.constexpr):
    """Load the inputs at `position`, from the state where it is below 0."""
    row = tl.load(x + position * step, (position >= 0) & (position < length) & live, other=0.0)
    if state is not None:
        row = row.to(tl.float32) + tl.load(
            state + (position + (WIDTH - 1)) * channels,
            (position < 0) & (position > -WIDTH) & live,
            other=0.0,
        ).to(tl.float32)
    return row


@triton.jit
def _load_mark(seq, step, position, length):
    """Load the sequence that `position` belongs to; those outside belong to the nearest."""
    return tl.load(seq + tl.minimum(tl.maximum(position, 0), length - 1) * step)


@triton.jit
def _keep(rows, kept):
    """Set rows to zero except where `kept`."""
    result = ()
    for i in tl.static_range(len(rows)):
        result = result + (tl.where(kept, rows[i], 0.0),)
    return result


@triton.jit
def _load_past(x, step, state, seq, seq_step, channels, start, length, live, WIDTH: tl.constexpr):
    """Load the width - 1 inputs before `start`, oldest first, without earlier sequences."""
    past = ()
    for i in tl.static_range(WIDTH - 1):
        position = start + (i - (WIDTH - 1))
        if seq is not None:
            before = _load_mark(seq, seq_step, position - 1, length)
            past = _keep(past, before == _load_mark(seq, seq_step, position, length))
        row = _load_input(x, step, state, channels, position, length, live, WIDTH)
        past = past + (row.to(tl.float32),)
    return past


@triton.jit
def _load_taps(weight_ptr, c, live, WIDTH: tl.constexpr):
    taps = ()
    for k in tl.static_range(WIDTH):
        taps = taps + (tl.load(weight_ptr + c * WIDTH + k, live, other=0.0).to(tl.float32),)
    return taps


@triton.jit
def _load_bias(bias_ptr, c, live):
    if bias_ptr is None:
        return tl.zeros_like(c).to(tl.float32)
    else:
        return tl.load(bias_ptr + c, live, other=0.0).to(tl.float32)


@triton.jit
def _convolve(window, taps, bias):
    total = bias
    for k in tl.static_range(len(taps)):
        total += taps[k] * window[k]
    return total


@triton.jit
def _sigmoid(x):
    """1 / (1 + exp(-x)) as a squared reciprocal root: cheaper than a division that keeps fp32."""
    root = tl.rsqrt(1.0 + tl.exp2(x * -1.4426950408889634))
    return root * root


@triton.jit
def _place(length, channels, steps, STRIPS: tl.constexpr, CHANNELS: tl.constexpr):
    """Give a program its row of the batch, its block of time and its strips and channels."""
    channel_blocks = tl.cdiv(channels, CHANNELS)
    time_blocks = tl.cdiv(length, STRIPS * steps)
    program = tl.program_id(0)
    c = (program % channel_blocks) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    block = program // channel_blocks
    strip = (block % time_blocks).to(tl.int64) * STRIPS + tl.arange(0, STRIPS)[:, None]
    return (block // time_blocks).to(tl.int64), block.to(tl.int64), strip * steps, c.to(tl.int64)


@triton.jit(do_not_specialize=["length", "steps"])
def _forward(
    x_ptr,
    weight_ptr,
    bias_ptr,
    state_ptr,
    seq_ptr,
    y_ptr,
    x_batch,
    x_step,
    x_channel,
    y_batch,
    y_step,
    seq_batch,
    seq_step,
    length,
    channels,
    steps,
    WIDTH: tl.constexpr,
    SILU: tl.constexpr,
    STRIPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    batch, _, start, c = _place(length, channels, steps, STRIPS, CHANNELS)
    live = c < channels
    x = x_ptr + batch * x_batch + c * x_channel
    y = y_ptr + batch * y_batch + c
    state = None if state_ptr is None else state_ptr + batch * (WIDTH - 1) * channels + c
    seq = None if seq_ptr is None else seq_ptr + batch * seq_batch
    taps = _load_taps(weight_ptr, c, live, WIDTH)
    bias = _load_bias(bias_ptr, c, live)
    past = _load_past(x, x_step, state, seq, seq_step, channels, start, length, live, WIDTH)
    for at in range(0, steps, ROWS):
        rows = ()
        marks = ()
        for i in tl.static_range(ROWS):
            position = start + at + i
            rows = rows + (tl.load(x + position * x_step, (position < length) & live, other=0.0),)
        if seq is not None:
            for i in tl.static_range(ROWS + 1):
                marks = marks + (_load_mark(seq, seq_step, start + at + (i - 1), length),)
        for i in tl.static_range(ROWS):
            position = start + at + i
            if seq is not None:
                past = _keep(past, marks[i] == marks[i + 1])
            window = past + (rows[i].to(tl.float32),)
            out = _convolve(window, taps, bias)
            if SILU:
                out *= _sigmoid(out)
            out = out.to(y_ptr.dtype.element_ty)
            tl.store(y + position * y_step, out, (position < length) & live)
            past = window[1:]


@triton.jit(do_not_specialize=["length"])
def _final_state(
    x_ptr,
    state_ptr,
    seq_ptr,
    final_ptr,
    x_batch,
    x_step,
    x_channel,
    seq_batch,
    seq_step,
    length,
    channels,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    batch, _, start, c = _place(1, channels, 1, 1, CHANNELS)
    live = c < channels
    x = x_ptr + batch * x_batch + c * x_channel
    first = batch * (WIDTH - 1) * channels + c
    state = None if state_ptr is None else state_ptr + first
    seq = None if seq_ptr is None else seq_ptr + batch * seq_batch
    past = _load_past(
        x, x_step, state, seq, seq_step, channels, start + length, length, live, WIDTH
    )
    for i in tl.static_range(WIDTH - 1):
        tl.store(final_ptr + first + i * channels, past[i].to(final_ptr.dtype.element_ty), live)


@triton.jit
def _load_down(
    x,
    x_step,
    state,
    seq,
    seq_step,
    dy,
    dy_step,
    channels,
    top,
    length,
    live,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Load, for `top` and the positions below it, the oldest input in reach, dy and the marks."""
    rows = ()
    drows = ()
    marks = ()
    for i in tl.static_range(ROWS):
        oldest = top - (i + WIDTH - 1)
        rows = rows + (_load_input(x, x_step, state, channels, oldest, length, live, WIDTH),)
        drows = drows + (tl.load(dy + (top - i) * dy_step, (top - i < length) & live, other=0.0),)
    if seq is not None:
        for i in tl.static_range(ROWS + WIDTH):
            marks = marks + (_load_mark(seq, seq_step, top - i, length),)
    return rows, drows, marks


@triton.jit
def _differentiate(window, drow, taps, bias, marks, i: tl.constexpr, SILU: tl.constexpr):
    """Give the inputs that a position sees, and the gradient of their weighted sum."""
    seen = window
    if len(marks) > 0:
        seen = (window[len(window) - 1],)
        kept = marks[i] == marks[i]
        for k in tl.static_range(1, len(window)):
            kept = kept & (marks[i + k - 1] == marks[i + k])
            seen = (tl.where(kept, window[len(window) - 1 - k], 0.0),) + seen
    dsum = drow.to(tl.float32)
    if SILU:
        total = _convolve(seen, taps, bias)
        gate = _sigmoid(total)
        dsum *= gate * (1.0 + total * (1.0 - gate))
    return seen, dsum


@triton.jit
def _above(
    x,
    x_step,
    state,
    seq,
    seq_step,
    dy,
    dy_step,
    channels,
    end,
    length,
    live,
    taps,
    bias,
    SILU: tl.constexpr,
):
    """Give the width - 1 inputs below `end` and the gradients of the sums from there on."""
    WIDTH: tl.constexpr = len(taps)
    past = ()
    later = ()
    for i in tl.static_range(WIDTH - 1):
        row = _load_input(x, x_step, state, channels, end + i, length, live, WIDTH)
        past = past + (row.to(tl.float32),)
    rows, drows, marks = _load_down(
        x,
        x_step,
        state,
        seq,
        seq_step,
        dy,
        dy_step,
        channels,
        end + (WIDTH - 2),
        length,
        live,
        WIDTH,
        WIDTH - 1,
    )
    for i in tl.static_range(WIDTH - 1):
        window = (rows[i].to(tl.float32),) + past
        _, dsum = _differentiate(window, drows[i], taps, bias, marks, i, SILU)
        later = (dsum,) + later
        if seq is not None:
            later = _keep(later, marks[i] == marks[i + 1])
        past = window[: WIDTH - 1]
    return past, later


@triton.jit(do_not_specialize=["length", "steps"])
def _backward(
    x_ptr,
    weight_ptr,
    bias_ptr,
    state_ptr,
    seq_ptr,
    dy_ptr,
    dfinal_ptr,
    dx_ptr,
    dstate_ptr,
    partial_ptr,
    x_batch,
    x_step,
    x_channel,
    dy_batch,
    dy_step,
    dy_channel,
    dx_batch,
    dx_step,
    seq_batch,
    seq_step,
    length,
    channels,
    steps,
    WIDTH: tl.constexpr,
    SILU: tl.constexpr,
    STRIPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    batch, block, start, c = _place(length, channels, steps, STRIPS, CHANNELS)
    live = c < channels
    x = x_ptr + batch * x_batch + c * x_channel
    dy = dy_ptr + batch * dy_batch + c * dy_channel
    dx = dx_ptr + batch * dx_batch + c
    first = batch * (WIDTH - 1) * channels + c
    state = None if state_ptr is None else state_ptr + first
    seq = None if seq_ptr is None else seq_ptr + batch * seq_batch
    taps = _load_taps(weight_ptr, c, live, WIDTH)
    bias = _load_bias(bias_ptr, c, live)

    # A strip is walked from its end, so that what later positions ask of an input is known when its
    # turn comes. `past` holds the inputs up to the position, `later` the sums' gradients above it.
    end = start + steps
    past, later = _above(
        x, x_step, state, seq, seq_step, dy, dy_step, channels, end, length, live, taps, bias, SILU
    )
    dtaps = ()
    for _ in tl.static_range(WIDTH + 1):
        dtaps = dtaps + (tl.zeros((STRIPS, CHANNELS), tl.float32),)

    for at in range(0, steps, ROWS):
        top = end - 1 - at
        rows, drows, marks = _load_down(
            x, x_step, state, seq, seq_step, dy, dy_step, channels, top, length, live, WIDTH, ROWS
        )
        for i in tl.static_range(ROWS):
            position = top - i
            window = (rows[i].to(tl.float32),) + past
            seen, dsum = _differentiate(window, drows[i], taps, bias, marks, i, SILU)
            out = taps[WIDTH - 1] * dsum
            sums = ()
            for k in tl.static_range(WIDTH):
                if k > 0:
                    out += taps[WIDTH - 1 - k] * later[k - 1]
                sums = sums + (dtaps[k] + seen[k] * dsum,)
            dtaps = sums + (dtaps[WIDTH] + dsum,)
            if dfinal_ptr is not None:
                kept = position - (length - (WIDTH - 1))
                out += tl.load(
                    dfinal_ptr + first + kept * channels,
                    (kept >= 0) & (position < length) & live,
                    other=0.0,
                ).to(tl.float32)
            out = out.to(dx_ptr.dtype.element_ty)
            tl.store(dx + position * dx_step, out, (position < length) & live)
            if WIDTH > 1:
                later = (dsum,) + later[: WIDTH - 2]
                past = window[: WIDTH - 1]
                if seq is not None:
                    later = _keep(later, marks[i] == marks[i + 1])

    for k in tl.static_range(WIDTH + 1):
        partial = partial_ptr + (block * (WIDTH + 1) + k) * channels + c
        tl.store(partial, tl.sum(dtaps[k], 0, keep_dims=True), live)
    if dstate_ptr is not None:
        for i in tl.static_range(WIDTH - 1):
            out = taps[i] * later[0]
            for k in tl.static_range(i):
                out += taps[i - 1 - k] * later[k + 1]
            row = dstate_ptr + first + i * channels + start  # start is 0 where it is stored
            tl.store(row, out.to(dstate_ptr.dtype.element_ty), (start == 0) & live)


@triton.jit
def _update(
    x_ptr,
    state_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    new_state_ptr,
    x_batch,
    x_channel,
    channels,
    WIDTH: tl.constexpr,
    SILU: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    batch, _, _, c = _place(1, channels, 1, 1, CHANNELS)
    live = c < channels
    first = batch * (WIDTH - 1) * channels + c
    window = ()
    for i in tl.static_range(WIDTH - 1):
        past = tl.load(state_ptr + first + i * channels, live, other=0.0)
        window = window + (past.to(tl.float32),)
    x = tl.load(x_ptr + batch * x_batch + c * x_channel, live, other=0.0)
    window = window + (x.to(tl.float32),)
    out = _convolve(window, _load_taps(weight_ptr, c, live, WIDTH), _load_bias(bias_ptr, c, live))
    if SILU:
        out *= _sigmoid(out)
    tl.store(y_ptr + batch * channels + c, out.to(y_ptr.dtype.element_ty), live)
    for i in tl.static_range(WIDTH - 1):
        new = window[i + 1].to(new_state_ptr.dtype.element_ty)
        tl.store(new_state_ptr + first + i * channels, new, live)
