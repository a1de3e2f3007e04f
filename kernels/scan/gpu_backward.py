"""The last phase of the backward in plain Triton: any number of states, constant B and C.

A thread has channels, and walks through a chunk in time. Where `gluon` takes the case, it is
faster.
"""

import triton
import triton.language as tl

from dnamamba.kernels.scan.gpu_math import (
    LN2,
    LOG2E,
    decay,
    matrix,
    place,
    row,
    sigmoid,
    step_size,
    vector,
    weight,
)


@triton.jit
def differentiate_kernel(
    u_ptr, z_ptr, delta_ptr, B_ptr, C_ptr, A_ptr, D_ptr, bias_ptr, starts_ptr, states_ptr,
    dy_ptr, adjoints_ptr, du_ptr, dz_ptr, ddelta_ptr, dB_ptr, dC_ptr, dD_ptr, dbias_ptr,
    scratch_ptr,
    u_batch, u_time, z_batch, z_time, delta_batch, delta_time, dy_batch, dy_time,
    B_batch, B_time, B_group, C_batch, C_time, C_group,
    length, channels, groups, state, chunks, batches, programs_in_chunk,
    CHUNK: tl.constexpr, STATE: tl.constexpr, BLOCK: tl.constexpr, SHARE: tl.constexpr,
    REVERSE: tl.constexpr,
    CONSTANT_B: tl.constexpr, CONSTANT_C: tl.constexpr, SKIP: tl.constexpr,
    GATED: tl.constexpr, BIASED: tl.constexpr, SOFTPLUS: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Give the gradients of a chunk after a chunk, from the state before it and the adjoint after.

    A program keeps a chunk's states in its own part of `scratch`. With g the gradient of h and p
    that of the decayed state a h_(t-1): g_t = dy_t C_t + p_(t+1), p_t = a_t g_t. What is summed
    over the channels (dB, dC) or over time (dA, dD, dbias) is written in parts, one for each block
    of channels or each chunk; dA's part takes the place of the adjoint that the chunk began with.
    """
    n = tl.arange(0, STATE)
    states = n < state
    lanes = tl.arange(0, BLOCK)
    own = tl.program_id(0).to(tl.int64)
    scratch_ptr += own * (CHUNK * STATE * BLOCK)
    scratch_ptr += n[:, None] * BLOCK + lanes[None, :]
    sign = -1 if REVERSE else 1
    workers = tl.num_programs(0)
    for turn in range(tl.cdiv(chunks * programs_in_chunk - own, workers)):
        program = own + turn * workers
        index = program // programs_in_chunk
        batch, group, block, d, mask = place(
            program % programs_in_chunk, channels, groups, BLOCK, SHARE
        )
        tile = states[:, None] & mask[None, :]
        A = matrix(A_ptr, d, n, tile, channels) * LOG2E
        D = vector(D_ptr, d, mask, SKIP)
        bias = vector(bias_ptr, d, mask, BIASED)
        constant_B = matrix(B_ptr, d, n, tile, channels) if CONSTANT_B else 0.0
        constant_C = matrix(C_ptr, d, n, tile, channels) if CONSTANT_C else 0.0

        first = index * CHUNK
        count = tl.minimum(CHUNK, length - first).to(tl.int32)
        slot = batch * (chunks + 1) + index
        h = tl.load(
            states_ptr + slot * channels * state + n[:, None] * channels + d[None, :],
            mask=tile, other=0.0,
        )  # fmt: skip
        slot = batch * (chunks + 1) + chunks - 1 - index
        adjoint = adjoints_ptr + slot * channels * state + n[:, None] * channels + d[None, :]
        p = tl.load(adjoint, mask=tile, other=0.0)
        if REVERSE:
            first = length - 1 - first
        at_B = B_ptr + batch * B_batch + group * B_group + n
        at_C = C_ptr + batch * C_batch + group * C_group + n
        at_u = u_ptr + batch * u_batch + d
        at_delta = delta_ptr + batch * delta_batch + d
        at_z = z_ptr + batch * z_batch + d
        at_dy = dy_ptr + batch * dy_batch + d
        at_start = starts_ptr + batch * length

        tl.debug_barrier()
        for i in range(count):
            t = first + i * sign
            tl.store(scratch_ptr + i * (STATE * BLOCK), h)
            u = row(at_u + t * u_time, mask, False).to(tl.float32)
            raw = row(at_delta + t * delta_time, mask, False)
            delta = step_size(raw, bias, SOFTPLUS)
            start = 0
            if PACKED:
                start = tl.load(at_start + t)
            B = constant_B if CONSTANT_B else weight(at_B + t * B_time, states)
            h = decay(delta, A, start, PACKED) * h + (delta * u)[None, :] * B
        tl.debug_barrier()

        dA = tl.zeros([STATE, BLOCK], tl.float32)
        sum_B = tl.zeros([STATE, BLOCK], tl.float32)
        sum_C = tl.zeros([STATE, BLOCK], tl.float32)
        dD = tl.zeros([BLOCK], tl.float32)
        dbias = tl.zeros([BLOCK], tl.float32)
        for step in range(count):
            i = count - 1 - step
            t = first + i * sign
            u = row(at_u + t * u_time, mask, False).to(tl.float32)
            raw = row(at_delta + t * delta_time, mask, False)
            delta = step_size(raw, bias, SOFTPLUS)
            dy = row(at_dy + t * dy_time, mask, False).to(tl.float32)
            start = 0
            if PACKED:
                start = tl.load(at_start + t)
            B = constant_B if CONSTANT_B else weight(at_B + t * B_time, states)
            C = constant_C if CONSTANT_C else weight(at_C + t * C_time, states)
            at = (batch * length + t) * channels + d
            part = (block * batches + batch) * length + t
            part = (part * groups + group) * state + n

            a = decay(delta, A, start, PACKED)
            decayed = a * tl.load(scratch_ptr + i * (STATE * BLOCK))
            h = decayed + (delta * u)[None, :] * B
            if GATED:
                z = row(at_z + t * z_time, mask, False).to(tl.float32)
                gate = sigmoid(z)
                y = tl.sum(h * C, 0) + D * u
                tl.store(dz_ptr + at, dy * y * gate * (1.0 + z * (1.0 - gate)), mask=mask)
                dy *= z * gate
            g = p + dy[None, :] * C
            if CONSTANT_C:
                sum_C += h * dy[None, :]
            else:
                tl.store(dC_ptr + part, tl.sum(h * dy[None, :], 1), mask=states)
            dx = tl.sum(g * B, 0)
            if CONSTANT_B:
                sum_B += g * (delta * u)[None, :]
            else:
                tl.store(dB_ptr + part, tl.sum(g * (delta * u)[None, :], 1), mask=states)
            slope = decayed * g
            dA += slope * delta[None, :]
            ddelta = tl.sum(slope * A, 0) * LN2 + dx * u
            if SOFTPLUS:
                ddelta *= sigmoid(raw.to(tl.float32) + bias)
            tl.store(du_ptr + at, dx * delta + D * dy, mask=mask)
            tl.store(ddelta_ptr + at, ddelta, mask=mask)
            dD += dy * u
            dbias += ddelta
            p = a * g

        tl.store(adjoint, dA, mask=tile)
        part = (batch * chunks + index) * channels
        if CONSTANT_B:
            at = part * state + n[:, None] * channels + d[None, :]
            tl.store(dB_ptr + at, sum_B, mask=tile)
        if CONSTANT_C:
            at = part * state + n[:, None] * channels + d[None, :]
            tl.store(dC_ptr + at, sum_C, mask=tile)
        if SKIP:
            tl.store(dD_ptr + part + d, dD, mask=mask)
        if BIASED:
            tl.store(dbias_ptr + part + d, dbias, mask=mask)
