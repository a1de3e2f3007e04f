"""What the scan's kernels compute with: exponentials, softplus, rows and tiles."""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def exp2(x):
    """2^x in one instruction, 0 where it would be subnormal: the interpreter knows no assembly."""
    if INTERPRETED:
        return tl.exp2(x)
    else:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def reciprocal(x):
    """1 / x to one unit in the last place."""
    if INTERPRETED:
        return 1.0 / x
    else:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def softplus(x):
    """log(1 + e^x) = max(x, 0) + log1p(e^-|x|), to 2e-7 of itself however small it is.

    log1p(e) / e on [0, 1] is a polynomial, fitted at Chebyshev nodes: it leaves the
    special-function units, which are the bottleneck, to the decays.
    """
    e = exp2(tl.abs(x) * -LOG2E)
    p = 0.005253457929939032
    p = p * e - 0.02958850748836994
    p = p * e + 0.07836166769266129
    p = p * e - 0.13674770295619965
    p = p * e + 0.19111430644989014
    p = p * e - 0.24844369292259216
    p = p * e + 0.33319270610809326
    p = p * e - 0.49999502301216125
    p = p * e + 1.0
    return tl.maximum(x, 0.0) + p * e


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return reciprocal(1.0 + exp2(x * -LOG2E))


@triton.jit
def row(pointers, mask, WHOLE: tl.constexpr):
    """Load a row: zeros where `mask` is false, which it nowhere is when `WHOLE`."""
    if WHOLE:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def step_size(raw, bias, SOFTPLUS: tl.constexpr):
    """Return delta from what stands in memory."""
    delta = raw.to(tl.float32) + bias
    if SOFTPLUS:
        delta = softplus(delta)
    return delta


@triton.jit
def decay(delta, A, start, PACKED: tl.constexpr):
    """exp(delta A), [state, channels], or 0 where a new sequence starts; A is times log2(e)."""
    exponent = delta[None, :] * A
    if PACKED:
        exponent = tl.where(start != 0, float("-inf"), exponent)
    return exp2(exponent)


@triton.jit
def weight(pointers, mask):
    """Load a step's B or C as [state, 1]."""
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)[:, None]


@triton.jit
def place(program, channels, groups, BLOCK: tl.constexpr, SHARE: tl.constexpr):
    """Tell which batch row, group, block of the group and channels are a program's.

    Returns batch, group, block, channels [BLOCK] and their mask. Calling no more than a thread's
    share of the channels contiguous keeps the compiler from giving a thread more of them, and so
    from spreading the states over threads.
    """
    width = channels // groups
    blocks = tl.cdiv(width, BLOCK)
    block = program % blocks
    inside = tl.max_contiguous(block * BLOCK + tl.arange(0, BLOCK), SHARE)
    group = (program // blocks) % groups
    d = tl.max_contiguous(group * width + inside, SHARE)
    return program // (blocks * groups), group, block, d, inside < width


@triton.jit
def matrix(pointer, d, n, tile, channels):
    """Load a tile [state, channels] of a matrix (state, channels)."""
    at = pointer + n[:, None] * channels + d[None, :]
    return tl.load(at, mask=tile, other=0.0).to(tl.float32)


@triton.jit
def vector(pointer, d, mask, GIVEN: tl.constexpr):
    """Load a vector over the channels, or 0 where it is not given."""
    if GIVEN:
        return tl.load(pointer + d, mask=mask, other=0.0).to(tl.float32)
    else:
        return tl.zeros_like(d).to(tl.float32)
