"""The selective scan's Triton kernels: any number of states, any NVIDIA GPU from Ampere on.

Three phases, as in kernels/README.md. `span_ends` runs each span of the sequence from a zero
state; `carry` takes the state over the spans; `replay` runs each span again from the right state
and writes the output. `span_ends` and `carry` do the same for the adjoint, read the other way;
`gpu_backward` and `gluon` turn both into gradients, a chunk at a time.

States, and A, lie in memory as (..., state, channels), and so in a program's tile: the channels run
along the threads, and the sums over the state stay inside a thread. Time is counted in reading
order; `reverse` scans step through memory backwards.
"""

import triton
import triton.language as tl

from dnamamba.kernels.scan.gpu_math import (
    LOG2E,
    decay,
    exp2,
    matrix,
    place,
    row,
    sigmoid,
    step_size,
    vector,
)


@triton.jit
def span_ends_kernel(
    x_ptr, z_ptr, delta_ptr, weight_ptr, A_ptr, bias_ptr, starts_ptr, states_ptr, sums_ptr,
    x_batch, x_time, z_batch, z_time, delta_batch, delta_time,
    weight_batch, weight_time, weight_group,
    length, channels, groups, state, spans, span, slots, stride, programs_in_span,
    STATE: tl.constexpr, BLOCK: tl.constexpr, SHARE: tl.constexpr, STAGES: tl.constexpr,
    UNROLL: tl.constexpr, WHOLE: tl.constexpr, REVERSE: tl.constexpr, ADJOINT: tl.constexpr,
    CONSTANT: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr, SOFTPLUS: tl.constexpr,
    PACKED: tl.constexpr, NEAR: tl.constexpr,
):  # fmt: skip
    """Run a span from zero: its end state, and the sum of its deltas (infinite: nothing passes).

    Forward, x is u and the weight is B: h <- a h + delta u B. As the adjoint, from the span's last
    step to its first, x is dy (gated by z) and the weight is C: p <- a (p + dy C), where p is what
    the adjoint hands to the step before. The end of a span goes into the slot after its own. Where
    offsets in a span fit 32 bits (NEAR), they take fewer registers than a pointer that steps.
    """
    program = tl.program_id(0).to(tl.int64)
    index = program // programs_in_span
    batch, group, _, d, mask = place(program % programs_in_span, channels, groups, BLOCK, SHARE)
    n = tl.arange(0, STATE)
    states = n < state
    tile = states[:, None] & mask[None, :]
    A = matrix(A_ptr, d, n, tile, channels) * LOG2E
    bias = vector(bias_ptr, d, mask, BIASED)
    constant = matrix(weight_ptr, d, n, tile, channels) if CONSTANT else 0.0

    first = index * span
    count = tl.minimum(span, length - first).to(tl.int32)
    sign = 1 if REVERSE == ADJOINT else -1
    if ADJOINT:
        first += count - 1
    if REVERSE:
        first = length - 1 - first
    x_ptr += batch * x_batch + first * x_time
    z_ptr += batch * z_batch + first * z_time
    delta_ptr += batch * delta_batch + first * delta_time
    weight_ptr += batch * weight_batch + first * weight_time
    weight_ptr += group * weight_group
    starts_ptr += batch * length + first
    x_time *= sign
    z_time *= sign
    delta_time *= sign
    weight_time *= sign

    h = tl.zeros([STATE, BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    start_next = 0
    if PACKED:
        start_next = tl.load(starts_ptr)
    for t in tl.range(0, count, num_stages=STAGES, loop_unroll_factor=UNROLL):
        at = t if NEAR else 0
        x = row(x_ptr + at * x_time + d, mask, WHOLE).to(tl.float32)
        delta = step_size(row(delta_ptr + at * delta_time + d, mask, WHOLE), bias, SOFTPLUS)
        weight = constant
        if not CONSTANT:
            weight = row(weight_ptr + at * weight_time + n, states, WHOLE).to(tl.float32)[:, None]
        start = start_next
        if PACKED:
            start_next = tl.load(starts_ptr + tl.minimum(t + 1, count - 1) * sign)
        a = decay(delta, A, start, PACKED)
        if ADJOINT:
            if GATED:
                z = row(z_ptr + at * z_time + d, mask, WHOLE).to(tl.float32)
                x *= z * sigmoid(z)
            h = a * (h + x[None, :] * weight)
        else:
            h = a * h + (delta * x)[None, :] * weight
        total += delta
        if PACKED:
            total = tl.where(start != 0, float("inf"), total)
        if not NEAR:
            x_ptr += x_time
            z_ptr += z_time
            delta_ptr += delta_time
            weight_ptr += weight_time

    order = spans - 1 - index if ADJOINT else index
    tl.store(sums_ptr + (batch * spans + order) * channels + d, total, mask=mask)
    slot = tl.minimum((order + 1) * stride, slots - 1)
    states_ptr += (batch * slots + slot) * channels * state
    tl.store(states_ptr + n[:, None] * channels + d[None, :], h, mask=tile)


@triton.jit
def follow(end_before, decay_before, end, decay):
    """Put one span after another: the two's end state from zero, and their decay."""
    return decay * end_before + end, decay_before * decay


@triton.jit
def at_slot(slot, stride, slots):
    """Return where the state after `slot` spans stands; the last span may be a short one."""
    return tl.minimum(slot * stride, slots - 1)


@triton.jit
def summary(states_ptr, sums_ptr, slot, live, column, A, channels, width, stride, slots):
    """Load the end state that stands in a slot, and the decay of the span that it ends."""
    live &= (slot > 0)[:, None]
    at = at_slot(slot, stride, slots)[:, None] * width + column[None, :]
    end = tl.load(states_ptr + at, mask=live, other=0.0)
    at = (slot - 1)[:, None] * channels + (column % channels)[None, :]
    total = tl.load(sums_ptr + at, mask=live, other=0.0)
    return end, passing(total, A[None, :])


@triton.jit
def passing(total, A):
    """exp(A S), 0 where S is infinite; A is times log2(e)."""
    return tl.where(total == float("inf"), 0.0, exp2(total * A))


@triton.jit
def carry_kernel(
    states_ptr, sums_ptr, A_ptr, initial_ptr,
    slots, stride, carried, spans, channels, state,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, INITIAL: tl.constexpr,
):  # fmt: skip
    """Turn each span's end from zero into the state after it; the first slot becomes the initial.

    The three phases once more. A program owns BLOCK of the state * channels columns, and cuts the
    slots into ROWS runs that advance together: their ends, the states after those, and all states.
    """
    width = channels * state
    blocks = tl.cdiv(width, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    batch = program // blocks
    column = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = (column < width)[None, :]
    A = tl.load(A_ptr + column, mask=column < width, other=0.0).to(tl.float32) * LOG2E
    initial = tl.zeros([BLOCK], tl.float32)
    if INITIAL:
        initial = tl.load(initial_ptr + batch * width + column, mask=column < width, other=0.0)
    states_ptr += batch * slots * width
    sums_ptr += batch * spans * channels
    steps = tl.cdiv(carried, ROWS)
    first = tl.arange(0, ROWS).to(tl.int64) * steps

    h = tl.where((first == 0)[:, None], initial.to(tl.float32)[None, :], 0.0)
    through = tl.full([ROWS, BLOCK], 1.0, tl.float32)
    for i in range(steps):
        slot = first + i
        live = (slot < carried)[:, None] & mask
        end, factor = summary(
            states_ptr, sums_ptr, slot, live, column, A, channels, width, stride, slots
        )
        h = factor * h + end
        through *= factor
    h, through = tl.associative_scan((h, through), 0, follow)

    before = tl.maximum(tl.arange(0, ROWS) - 1, 0)[:, None]
    h = tl.gather(h, tl.broadcast_to(before, [ROWS, BLOCK]), 0)
    h = tl.where((first == 0)[:, None], initial.to(tl.float32)[None, :], h)
    for i in range(steps):
        slot = first + i
        live = (slot < carried)[:, None] & mask
        end, factor = summary(
            states_ptr, sums_ptr, slot, live, column, A, channels, width, stride, slots
        )
        h = factor * h + end
        at = at_slot(slot, stride, slots)[:, None] * width + column[None, :]
        tl.store(states_ptr + at, h, mask=live)


@triton.jit
def shift_kernel(
    states_ptr, totals_ptr, A_ptr, before_ptr, slots, stride, spans, channels, state,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Add what a state before the first span comes to after each; totals are sums of sums."""
    width = channels * state
    blocks = tl.cdiv(width, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    column = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    slot = (program // blocks) % (spans + 1)
    batch = program // (blocks * (spans + 1))
    mask = column < width
    A = tl.load(A_ptr + column, mask=mask, other=0.0).to(tl.float32) * LOG2E
    before = tl.load(before_ptr + batch * width + column, mask=mask, other=0.0).to(tl.float32)
    at = (batch * spans + slot - 1) * channels + column % channels
    total = tl.load(totals_ptr + at, mask=mask & (slot > 0), other=0.0)
    states_ptr += (batch * slots + at_slot(slot, stride, slots)) * width
    state_there = tl.load(states_ptr + column, mask=mask, other=0.0)
    tl.store(states_ptr + column, state_there + passing(total, A) * before, mask=mask)


@triton.jit
def replay_kernel(
    u_ptr, z_ptr, delta_ptr, B_ptr, C_ptr, A_ptr, D_ptr, bias_ptr, starts_ptr, states_ptr, y_ptr,
    u_batch, u_time, z_batch, z_time, delta_batch, delta_time,
    B_batch, B_time, B_group, C_batch, C_time, C_group,
    length, channels, groups, state, span, slots, stride, programs_in_span, chunk_steps,
    STATE: tl.constexpr, BLOCK: tl.constexpr, SHARE: tl.constexpr, STAGES: tl.constexpr,
    WHOLE: tl.constexpr, REVERSE: tl.constexpr, CONSTANT_B: tl.constexpr,
    CONSTANT_C: tl.constexpr, SKIP: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr,
    SOFTPLUS: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Run a span from the state before it: the output, and the state after each of its chunks.

    The state after a span's last chunk is the next span's business, but for the last span.
    """
    program = tl.program_id(0).to(tl.int64)
    index = program // programs_in_span
    batch, group, _, d, mask = place(program % programs_in_span, channels, groups, BLOCK, SHARE)
    n = tl.arange(0, STATE)
    states = n < state
    tile = states[:, None] & mask[None, :]
    A = matrix(A_ptr, d, n, tile, channels) * LOG2E
    D = vector(D_ptr, d, mask, SKIP)
    bias = vector(bias_ptr, d, mask, BIASED)
    constant_B = matrix(B_ptr, d, n, tile, channels) if CONSTANT_B else 0.0
    constant_C = matrix(C_ptr, d, n, tile, channels) if CONSTANT_C else 0.0

    first = index * span
    count = tl.minimum(span, length - first).to(tl.int32)
    states_ptr += (batch * slots + index * stride) * channels * state
    inside = n[:, None] * channels + d[None, :]
    sign = -1 if REVERSE else 1
    if REVERSE:
        first = length - 1 - first
    u_ptr += batch * u_batch + first * u_time
    z_ptr += batch * z_batch + first * z_time
    delta_ptr += batch * delta_batch + first * delta_time
    B_ptr += batch * B_batch + first * B_time + group * B_group
    C_ptr += batch * C_batch + first * C_time + group * C_group
    starts_ptr += batch * length + first
    y_ptr += (batch * length + first) * channels
    y_time = tl.cast(channels, tl.int64) * sign
    u_time *= sign
    z_time *= sign
    delta_time *= sign
    B_time *= sign
    C_time *= sign

    h = tl.load(states_ptr + inside, mask=tile, other=0.0)
    to_keep = chunk_steps
    start_next = 0
    if PACKED:
        start_next = tl.load(starts_ptr)
    for t in tl.range(0, count, num_stages=STAGES):
        u = row(u_ptr + d, mask, WHOLE).to(tl.float32)
        delta = step_size(row(delta_ptr + d, mask, WHOLE), bias, SOFTPLUS)
        B = constant_B
        if not CONSTANT_B:
            B = row(B_ptr + n, states, WHOLE).to(tl.float32)[:, None]
        C = constant_C
        if not CONSTANT_C:
            C = row(C_ptr + n, states, WHOLE).to(tl.float32)[:, None]
        start = start_next
        if PACKED:
            start_next = tl.load(starts_ptr + tl.minimum(t + 1, count - 1) * sign)
        h = decay(delta, A, start, PACKED) * h + (delta * u)[None, :] * B
        y = tl.sum(h * C, 0)
        if SKIP:
            y += D * u
        if GATED:
            z = row(z_ptr + d, mask, WHOLE).to(tl.float32)
            y *= z * sigmoid(z)
        if WHOLE:
            tl.store(y_ptr + d, y)
        else:
            tl.store(y_ptr + d, y, mask=mask)
        u_ptr += u_time
        z_ptr += z_time
        delta_ptr += delta_time
        B_ptr += B_time
        C_ptr += C_time
        y_ptr += y_time
        to_keep -= 1
        if (to_keep == 0) & (t + 1 < count):
            to_keep = chunk_steps
            states_ptr += channels * state
            tl.store(states_ptr + inside, h, mask=tile)
    if index * span + count == length:
        tl.store(states_ptr + channels * state + inside, h, mask=tile)


@triton.jit
def sum_parts_kernel(
    parts_ptr, out_ptr, batches, batch_stride, rows, columns, channels,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Add up what each chunk of each sequence gave; (state, channels) becomes (channels, state)."""
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = column < columns
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for batch in range(batches):
        start = parts_ptr + batch * batch_stride + column[None, :]
        for first in tl.range(0, rows, ROWS, num_stages=4):
            row = first + tl.arange(0, ROWS).to(tl.int64)[:, None]
            total += tl.load(start + row * columns, mask=(row < rows) & mask[None, :], other=0.0)
    state = columns // channels
    place = column % channels * state + column // channels
    tl.store(out_ptr + place, tl.sum(total, 0), mask=mask)
