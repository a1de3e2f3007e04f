"""The last phase of the backward again, for up to 16 states, with layouts of its own.

`gpu_backward` gives a thread a channel and walks in time. Its sums over the channels
(dB and dC) then cross threads at every step, and states are kept in memory. Here time lies along
the threads: a warp takes one channel of a chunk, and a thread RUN steps of STATES states. Both
recurrences are scans over 8 threads, states never leave registers, and the sums over the channels
grow in registers while the program goes through its channels.

Gluon is the part of Triton that says where in the threads an element lies.
"""

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import ampere

from dnamamba.kernels.scan.gluon_layout import (
    QUARTERS,
    RUN,
    RUNS,
    STATES,
    biased,
    earlier,
    get,
    get_weights,
    join4,
    later,
    prefetch,
    put,
    put_weights,
    split4,
    split8,
    sum_quarters,
    sum_steps,
    total_weights,
    widen,
)
from dnamamba.kernels.scan.gpu_math import LN2, LOG2E, exp2, sigmoid, softplus


@gluon.jit
def differentiate_kernel(
    u_ptr, z_ptr, delta_ptr, B_ptr, C_ptr, A_ptr, D_ptr, bias_ptr, starts_ptr, states_ptr,
    dy_ptr, adjoints_ptr,
    du_ptr, dz_ptr, ddelta_ptr, dB_ptr, dC_ptr, dD_ptr, dbias_ptr,
    u_batch, u_time, z_batch, z_time, delta_batch, delta_time, dy_batch, dy_time,
    B_batch, B_time, B_group, C_batch, C_time, C_group,
    length, channels, groups, state, chunks, batches, width,
    WARPS: gl.constexpr, TURNS: gl.constexpr, REVERSE: gl.constexpr, SKIP: gl.constexpr,
    GATED: gl.constexpr, BIASED: gl.constexpr, SOFTPLUS: gl.constexpr, PACKED: gl.constexpr,
):  # fmt: skip
    """Do what `gpu_backward` does, a chunk a program, with all channels in turn.

    TURNS channels of each warp are loaded at a time, rows of 16 bytes or more, and the next ones
    while these are worked on. Shared memory turns them from (step, channel) into (turn, warp,
    step), and their gradients back.
    """
    CHUNK: gl.constexpr = RUNS * RUN
    N: gl.constexpr = QUARTERS * STATES
    BLOCK: gl.constexpr = TURNS * WARPS
    # One element a thread: (warp, run, quarter).
    L: gl.constexpr = gl.BlockedLayout([1, 1, 1], [1, RUNS, QUARTERS], [WARPS, 1, 1], [2, 1, 0])
    RUN_: gl.constexpr = gl.SliceLayout(2, L)
    QUARTER_: gl.constexpr = gl.SliceLayout(1, L)
    # What such an element is split from: the steps of a run, the states of a quarter, or both.
    STEPS_: gl.constexpr = gl.SliceLayout(
        2, gl.BlockedLayout([1, RUN, 1], [1, RUNS, QUARTERS], [WARPS, 1, 1], [2, 1, 0])
    )
    STATES_: gl.constexpr = gl.SliceLayout(
        1, gl.BlockedLayout([1, 1, STATES], [1, RUNS, QUARTERS], [WARPS, 1, 1], [2, 1, 0])
    )
    BOTH: gl.constexpr = gl.BlockedLayout(
        [1, RUN, STATES], [1, RUNS, QUARTERS], [WARPS, 1, 1], [2, 1, 0]
    )
    BOTH_: gl.constexpr = gl.SliceLayout(0, BOTH)
    # Rows of channels as they lie in memory, and the same elements as (turn, warp, step).
    ROWS: gl.constexpr = gl.BlockedLayout([1, TURNS], [32 // WARPS, WARPS], [WARPS, 1], [1, 0])
    TURN: gl.constexpr = gl.BlockedLayout(
        [TURNS, 1, 1], [1, WARPS, 32 // WARPS], [1, 1, WARPS], [0, 1, 2]
    )
    SHARED3: gl.constexpr = gl.SwizzledSharedLayout(32 // WARPS, 1, WARPS, [2, 1, 0])
    SHARED: gl.constexpr = gl.SwizzledSharedLayout(32 // WARPS, 1, WARPS, [1, 0])
    RAW: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    VECTORS: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    # Rows of channels to be summed, and the matrices' rows: a thread has 8 steps, or 4 channels.
    COLUMNS: gl.constexpr = gl.BlockedLayout([8, 1], [4, 8], [1, WARPS], [0, 1])
    MATRIX: gl.constexpr = gl.BlockedLayout([1, 4], [128 // BLOCK, BLOCK // 4], [WARPS, 1], [1, 0])
    TURN_N: gl.constexpr = gl.BlockedLayout(
        [4, 1, 1], [TURNS // 4, WARPS, 128 // BLOCK], [1, 1, WARPS], [0, 1, 2]
    )
    # A thread reads rows of 8 steps, 16 bytes at a time. Where that takes two reads, the swizzle
    # spreads 8 rows over the banks.
    VECTOR: gl.constexpr = 128 // B_ptr.dtype.element_ty.primitive_bitwidth
    WEIGHTS: gl.constexpr = gl.SwizzledSharedLayout(VECTOR, 4, RUN // VECTOR, [1, 0])
    WEIGHTS_: gl.constexpr = gl.SliceLayout(
        0, gl.BlockedLayout([1, 1, RUN], [1, RUNS * QUARTERS, 1], [WARPS, 1, 1], [2, 1, 0])
    )
    FLAT3: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0])
    FLAT: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])

    program = gl.program_id(0).to(gl.int64)
    group = program % groups
    index = program // groups
    batch = index % batches
    chunk = index // batches

    first = chunk * CHUNK
    count = gl.minimum(length - first, CHUNK)
    sign = 1
    if REVERSE:
        first = length - 1 - first
        sign = -1

    u_ptr += batch * u_batch + first * u_time
    z_ptr += batch * z_batch + first * z_time
    delta_ptr += batch * delta_batch + first * delta_time
    dy_ptr += batch * dy_batch + first * dy_time
    starts_ptr += batch * length + first
    states_ptr += (batch * (chunks + 1) + chunk) * channels * state
    adjoints_ptr += (batch * (chunks + 1) + chunks - 1 - chunk) * channels * state
    out = (batch * length + first) * channels

    t_ = gl.arange(0, CHUNK, layout=gl.SliceLayout(1, BOTH_))[:, None]
    n_ = gl.arange(0, N, layout=gl.SliceLayout(0, BOTH_))[None, :]
    weight_mask = (t_ < count) & (n_ < state)
    B_ptr += batch * B_batch + first * B_time + group * B_group
    C_ptr += batch * C_batch + first * C_time + group * C_group
    weights: gl.constexpr = [STATES, RUNS * QUARTERS, RUN]
    s_B = gl.allocate_shared_memory(B_ptr.dtype.element_ty, weights, WEIGHTS)
    s_C = gl.allocate_shared_memory(B_ptr.dtype.element_ty, weights, WEIGHTS)
    put_weights(s_B, gl.load(B_ptr + t_ * (B_time * sign) + n_, mask=weight_mask, other=0.0))
    put_weights(s_C, gl.load(C_ptr + t_ * (C_time * sign) + n_, mask=weight_mask, other=0.0))

    zero = gl.zeros([WARPS, RUNS, QUARTERS], gl.float32, L)
    dB = (zero,) * 32
    dC = (zero,) * 32

    w_delta = gl.allocate_shared_memory(gl.float32, [TURNS, WARPS, CHUNK], SHARED3)
    s_delta = w_delta._reinterpret(gl.float32, [TURNS, WARPS, CHUNK], SHARED)
    w_x = gl.allocate_shared_memory(gl.float32, [TURNS, WARPS, CHUNK], SHARED3)
    s_x = w_x._reinterpret(gl.float32, [TURNS, WARPS, CHUNK], SHARED)
    w_dy = gl.allocate_shared_memory(gl.float32, [TURNS, WARPS, CHUNK], SHARED3)
    s_dy = w_dy._reinterpret(gl.float32, [TURNS, WARPS, CHUNK], SHARED)
    w_dx = gl.allocate_shared_memory(gl.float32, [TURNS, WARPS, CHUNK], SHARED3)
    s_dx = w_dx._reinterpret(gl.float32, [TURNS, WARPS, CHUNK], SHARED)
    w_slope = gl.allocate_shared_memory(gl.float32, [TURNS, WARPS, CHUNK], SHARED3)
    s_slope = w_slope._reinterpret(gl.float32, [TURNS, WARPS, CHUNK], SHARED)
    w_y = gl.allocate_shared_memory(gl.float32, [TURNS, WARPS, CHUNK], SHARED3)
    s_y = w_y._reinterpret(gl.float32, [TURNS, WARPS, CHUNK], SHARED)
    w_A = gl.allocate_shared_memory(gl.float32, [TURNS, WARPS, N], FLAT3)
    s_A = w_A._reinterpret(gl.float32, [TURNS, WARPS, N], FLAT)
    w_h = gl.allocate_shared_memory(gl.float32, [TURNS, WARPS, N], FLAT3)
    s_h = w_h._reinterpret(gl.float32, [TURNS, WARPS, N], FLAT)
    w_p = gl.allocate_shared_memory(gl.float32, [TURNS, WARPS, N], FLAT3)
    s_p = w_p._reinterpret(gl.float32, [TURNS, WARPS, N], FLAT)
    w_dA = gl.allocate_shared_memory(gl.float32, [TURNS, WARPS, N], FLAT3)
    s_dA = w_dA._reinterpret(gl.float32, [TURNS, WARPS, N], FLAT)
    r_A = gl.allocate_shared_memory(gl.float32, [N, BLOCK], RAW)
    r_h = gl.allocate_shared_memory(gl.float32, [N, BLOCK], RAW)
    r_p = gl.allocate_shared_memory(gl.float32, [N, BLOCK], RAW)

    t = gl.arange(0, CHUNK, layout=gl.SliceLayout(1, ROWS))[:, None]
    lane = gl.arange(0, BLOCK, layout=gl.SliceLayout(0, ROWS))
    states = gl.arange(0, N, layout=gl.SliceLayout(1, MATRIX))[:, None]
    matrix_lane = gl.arange(0, BLOCK, layout=gl.SliceLayout(0, MATRIX))
    run = gl.arange(0, RUNS, layout=gl.SliceLayout(0, RUN_))[None, :][:, :, None]

    quarter = gl.arange(0, QUARTERS, layout=gl.SliceLayout(0, QUARTER_))[None, :][:, None, :]
    odd = (quarter & 1) == 1
    high = quarter >= 2
    # What is added to a decay's exponent: minus infinity where nothing may pass.
    never = float("-inf")
    no_earlier1 = zero + gl.where(run < 1, never, 0.0)
    no_earlier2 = zero + gl.where(run < 2, never, 0.0)
    no_earlier4 = zero + gl.where(run < 4, never, 0.0)
    no_later1 = zero + gl.where(run >= RUNS - 1, never, 0.0)
    no_later2 = zero + gl.where(run >= RUNS - 2, never, 0.0)
    no_later4 = zero + gl.where(run >= RUNS - 4, never, 0.0)
    cut8 = (0.0,) * RUN
    if PACKED:
        cut8 = ()
        cut = zero
        for i in gl.static_range(RUN):
            step = run * RUN + i
            start = gl.load(starts_ptr + step * sign, mask=step < count, other=0)
            cut8 = cut8 + (gl.where(start != 0, never, 0.0),)
            cut += cut8[i]
        cut_ahead = cut + earlier(cut, 1)
        cut_back = cut + later(cut, 1)
        no_earlier1 += cut
        no_later1 += cut
        no_earlier2 += cut_ahead
        no_later2 += cut_back
        no_earlier4 += cut_ahead + earlier(cut_ahead, 2)
        no_later4 += cut_back + later(cut_back, 2)

    column = gl.arange(0, BLOCK, layout=gl.SliceLayout(0, COLUMNS))
    d = group * width + lane
    inside = t < count
    u_ptr = u_ptr + t * (u_time * sign)
    delta_ptr = delta_ptr + t * (delta_time * sign)
    dy_ptr = dy_ptr + t * (dy_time * sign)
    z_ptr = z_ptr + t * (z_time * sign)
    r_u = gl.allocate_shared_memory(u_ptr.dtype.element_ty, [2, CHUNK, BLOCK], RAW)
    r_delta = gl.allocate_shared_memory(delta_ptr.dtype.element_ty, [2, CHUNK, BLOCK], RAW)
    r_dy = gl.allocate_shared_memory(dy_ptr.dtype.element_ty, [2, CHUNK, BLOCK], RAW)
    r_bias = gl.allocate_shared_memory(bias_ptr.dtype.element_ty, [2, BLOCK], VECTORS)
    r_D = gl.allocate_shared_memory(D_ptr.dtype.element_ty, [2, BLOCK], VECTORS)
    r_z = r_u
    if GATED:
        r_z = gl.allocate_shared_memory(z_ptr.dtype.element_ty, [2, CHUNK, BLOCK], RAW)
    prefetch(r_u.index(0), u_ptr + d[None, :], inside)
    prefetch(r_delta.index(0), delta_ptr + d[None, :], inside)
    prefetch(r_dy.index(0), dy_ptr + d[None, :], inside)
    if GATED:
        prefetch(r_z.index(0), z_ptr + d[None, :], inside)
    matrix = states * channels + matrix_lane[None, :] + group * width
    tile = states < state
    prefetch(r_A, A_ptr + matrix, tile)
    prefetch(r_h, states_ptr + matrix, tile)
    prefetch(r_p, adjoints_ptr + matrix, tile)
    if BIASED:
        prefetch(r_bias.index(0), bias_ptr + d)
    if SKIP:
        prefetch(r_D.index(0), D_ptr + d)
    ampere.async_copy.commit_group()

    for block in range(width // BLOCK):
        stage = block % 2
        d = group * width + block * BLOCK + lane
        ampere.async_copy.wait_group(0)
        tl.debug_barrier()
        put(w_A, r_A.load(MATRIX) * LOG2E, WARPS)
        put(w_h, r_h.load(MATRIX), WARPS)
        put(w_p, r_p.load(MATRIX), WARPS)
        delta = biased(r_delta.index(stage), r_bias.index(stage), ROWS, BIASED)
        if SOFTPLUS:
            delta = softplus(delta)
        delta = gl.where(inside, delta, 0.0)
        u = gl.where(inside, widen(r_u.index(stage).load(ROWS)), 0.0)
        dy = gl.where(inside, widen(r_dy.index(stage).load(ROWS)), 0.0)
        if GATED:
            z = gl.where(inside, widen(r_z.index(stage).load(ROWS)), 0.0)
            dy *= z * sigmoid(z)
        put(w_delta, delta, WARPS)
        put(w_x, delta * u, WARPS)
        put(w_dy, dy, WARPS)

        # The next block's loads are under way while this one is worked on.
        if (block + 1) * BLOCK < width:
            ahead = d[None, :] + BLOCK
            prefetch(r_u.index(1 - stage), u_ptr + ahead, inside)
            prefetch(r_delta.index(1 - stage), delta_ptr + ahead, inside)
            prefetch(r_dy.index(1 - stage), dy_ptr + ahead, inside)
            if GATED:
                prefetch(r_z.index(1 - stage), z_ptr + ahead, inside)
            next_tile = matrix + (block + 1) * BLOCK
            prefetch(r_A, A_ptr + next_tile, tile)
            prefetch(r_h, states_ptr + next_tile, tile)
            prefetch(r_p, adjoints_ptr + next_tile, tile)
            if BIASED:
                prefetch(r_bias.index(1 - stage), bias_ptr + d + BLOCK)
            if SKIP:
                prefetch(r_D.index(1 - stage), D_ptr + d + BLOCK)
        ampere.async_copy.commit_group()

        for turn in range(TURNS):
            delta8 = split8(s_delta.index(turn).load(STEPS_).reshape([WARPS, RUNS, 2, 2, 2]), RUN_)
            x8 = split8(s_x.index(turn).load(STEPS_).reshape([WARPS, RUNS, 2, 2, 2]), RUN_)
            dy8 = split8(s_dy.index(turn).load(STEPS_).reshape([WARPS, RUNS, 2, 2, 2]), RUN_)
            A4 = split4(s_A.index(turn).load(STATES_).reshape([WARPS, QUARTERS, 2, 2]), QUARTER_)
            h4 = split4(s_h.index(turn).load(STATES_).reshape([WARPS, QUARTERS, 2, 2]), QUARTER_)
            p4 = split4(s_p.index(turn).load(STATES_).reshape([WARPS, QUARTERS, 2, 2]), QUARTER_)
            total = delta8[0]
            for i in gl.static_range(1, RUN):
                total += delta8[i]
            total = total[:, :, None] + zero
            ahead2 = total + earlier(total, 1)
            ahead4 = ahead2 + earlier(ahead2, 2)
            back2 = total + later(total, 1)
            back4 = back2 + later(back2, 2)
            y8 = (zero,) * RUN
            dx8 = (zero,) * RUN
            slope8 = (zero,) * RUN
            dA4 = ()
            new_dB = ()
            new_dC = ()
            for j in gl.static_range(STATES):
                A = A4[j][:, None, :]
                B = get_weights(s_B, j, WEIGHTS_, gl.SliceLayout(0, L))
                C = get_weights(s_C, j, WEIGHTS_, gl.SliceLayout(0, L))
                # Each run from zero: the first from the state before it, the last from the adjoint.
                h = h4[j][:, None, :] + zero
                p = p4[j][:, None, :] + zero
                end = gl.where(run == 0, h, 0.0)
                adjoint = gl.where(run == RUNS - 1, p, 0.0)
                a8 = ()
                for i in gl.static_range(RUN):
                    a = exp2(delta8[i][:, :, None] * A + cut8[i])
                    end = a * end + x8[i][:, :, None] * B[i]
                    a8 = a8 + (a,)
                for i in gl.static_range(RUN - 1, -1, -1):
                    adjoint = a8[i] * (adjoint + dy8[i][:, :, None] * C[i])
                # Over the runs: the state after each, and the adjoint before each.
                end += exp2(total * A + no_earlier1) * earlier(end, 1)
                adjoint += exp2(total * A + no_later1) * later(adjoint, 1)
                end += exp2(ahead2 * A + no_earlier2) * earlier(end, 2)
                adjoint += exp2(back2 * A + no_later2) * later(adjoint, 2)
                end += exp2(ahead4 * A + no_earlier4) * earlier(end, 4)
                adjoint += exp2(back4 * A + no_later4) * later(adjoint, 4)
                h = gl.where(run == 0, h, earlier(end, 1))
                p = gl.where(run == RUNS - 1, p, later(adjoint, 1))
                # Each run again, from what truly comes before it and after it.
                decayed8 = ()
                y_new = ()
                for i in gl.static_range(RUN):
                    decayed = a8[i] * h
                    h = decayed + x8[i][:, :, None] * B[i]
                    decayed8 = decayed8 + (decayed,)
                    y_new = y_new + (y8[i] + C[i] * h,)
                    new_dC = new_dC + (dC[RUN * j + i] + h * dy8[i][:, :, None],)
                y8 = y_new
                dA = zero
                dB8 = ()
                dx_new = ()
                slope_new = ()
                for i in gl.static_range(RUN - 1, -1, -1):
                    g = p + dy8[i][:, :, None] * C[i]
                    p = a8[i] * g
                    slope = decayed8[i] * g
                    dA += slope * delta8[i][:, :, None]
                    dx_new = (dx8[i] + g * B[i],) + dx_new
                    slope_new = (slope8[i] + slope * A,) + slope_new
                    dB8 = (dB[RUN * j + i] + g * x8[i][:, :, None],) + dB8
                dx8 = dx_new
                slope8 = slope_new
                new_dB = new_dB + dB8
                dA4 = dA4 + (dA,)
            dB = new_dB
            dC = new_dC
            s_dx.index(turn).store(sum_quarters(dx8, odd, high))
            s_slope.index(turn).store(sum_quarters(slope8, odd, high))
            s_y.index(turn).store(sum_quarters(y8, odd, high))
            s_dA.index(turn).store(gl.sum(join4(dA4), 1))

        dx = get(w_dx, TURN, ROWS)
        slope = get(w_slope, TURN, ROWS)
        delta = get(w_delta, TURN, ROWS)
        dy = get(w_dy, TURN, ROWS)
        u = widen(r_u.index(stage).load(ROWS))
        u = gl.where(inside, u, 0.0)
        du = dx * delta
        if SKIP:
            D = r_D.index(stage).load(gl.SliceLayout(0, ROWS)).to(gl.float32)
            du += D[None, :] * dy
        at = out + t * (channels * sign) + d[None, :]
        if GATED:
            z = widen(r_z.index(stage).load(ROWS))
            gate = sigmoid(z)
            y = get(w_y, TURN, ROWS)
            if SKIP:
                y += D[None, :] * u
            dz = widen(r_dy.index(stage).load(ROWS)) * y * gate * (1.0 + z * (1.0 - gate))
            gl.store(dz_ptr + at, dz.to(dz_ptr.dtype.element_ty), mask=inside)
        ddelta = slope * LN2 + dx * u
        if SOFTPLUS:
            ddelta *= sigmoid(biased(r_delta.index(stage), r_bias.index(stage), ROWS, BIASED))
        gl.store(du_ptr + at, du.to(du_ptr.dtype.element_ty), mask=inside)
        gl.store(ddelta_ptr + at, ddelta.to(ddelta_ptr.dtype.element_ty), mask=inside)
        place = (batch * chunks + chunk) * channels + group * width + block * BLOCK + column
        if SKIP:
            gl.store(dD_ptr + place, sum_steps(dy * u, COLUMNS))
        if BIASED:
            gl.store(dbias_ptr + place, sum_steps(gl.where(inside, ddelta, 0.0), COLUMNS))
        gl.store(adjoints_ptr + matrix + block * BLOCK, get(w_dA, TURN_N, MATRIX), mask=tile)

    weight_at = (batch * length + first + t_ * sign) * groups + group
    gl.store(dB_ptr + weight_at * state + n_, total_weights(dB, BOTH_), mask=weight_mask)
    gl.store(dC_ptr + weight_at * state + n_, total_weights(dC, BOTH_), mask=weight_mask)
