"""How the backward's elements lie in the threads, and how they change places.

A warp holds a channel of a chunk: 8 runs of 8 steps by 4 quarters of 4 states. A thread has one run
and one quarter, 32 elements, and holds them as tuples of tensors with one element a thread.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import ampere

RUNS = gl.constexpr(8)
RUN = gl.constexpr(8)
QUARTERS = gl.constexpr(4)
STATES = gl.constexpr(4)


@gluon.jit
def earlier(x, RUNS_BACK: gl.constexpr):
    """Take the value of an earlier run; where there is none, some value of this one."""
    return gl.inline_asm_elementwise(
        "shfl.sync.up.b32 $0, $1, $2, 0, -1;", "=f,f,n", [x, RUNS_BACK * QUARTERS],
        dtype=gl.float32, is_pure=True, pack=1,
    )  # fmt: skip


@gluon.jit
def later(x, RUNS_ON: gl.constexpr):
    """Take the value of a later run; where there is none, some value of this one."""
    return gl.inline_asm_elementwise(
        "shfl.sync.down.b32 $0, $1, $2, 31, -1;", "=f,f,n", [x, RUNS_ON * QUARTERS],
        dtype=gl.float32, is_pure=True, pack=1,
    )  # fmt: skip


@gluon.jit
def across(x, LANE: gl.constexpr):
    """Swap with the thread whose number in the warp, 4 * run + quarter, differs in the bit LANE."""
    return gl.inline_asm_elementwise(
        "shfl.sync.bfly.b32 $0, $1, $2, 31, -1;", "=f,f,n", [x, LANE],
        dtype=gl.float32, is_pure=True, pack=1,
    )  # fmt: skip


@gluon.jit
def sum_quarters(x, odd, high):
    """Add up 8 steps over the quarters, each of which keeps two: [W, CHUNK].

    Halving what is kept at every exchange takes 6 of them; adding up each step would take 16.
    """
    half = ()
    for i in gl.static_range(4):
        kept = gl.where(odd, x[i + 4], x[i])
        half = half + (kept + across(gl.where(odd, x[i], x[i + 4]), 1),)
    kept0 = gl.where(high, half[2], half[0])
    kept1 = gl.where(high, half[3], half[1])
    kept0 += across(gl.where(high, half[0], half[2]), 2)
    kept1 += across(gl.where(high, half[1], half[3]), 2)
    # A step of a run is 4 * (quarter & 1) + 2 * (quarter >> 1) + which of the two.
    whole = gl.join(kept0, kept1).reshape([x[0].shape[0], RUNS, 2, 2, 2])
    return whole.permute([0, 1, 3, 2, 4]).reshape([x[0].shape[0], RUNS * RUN])


@gluon.jit
def split8(x, layout: gl.constexpr):
    """Split [..., 8], as [..., 2, 2, 2], into a tuple of 8 in order."""
    out = ()
    high = gl.split(x.permute([0, 1, 3, 4, 2]))
    for a in gl.static_range(2):
        middle = gl.split(high[a].permute([0, 1, 3, 2]))
        for b in gl.static_range(2):
            low = gl.split(middle[b])
            out = out + (gl.convert_layout(low[0], layout), gl.convert_layout(low[1], layout))
    return out


@gluon.jit
def join4(x):
    """Put a tuple of 4 states [W, RUNS, QUARTERS] together as [W, RUNS, QUARTERS * 4]."""
    whole = gl.join(gl.join(x[0], x[1]), gl.join(x[2], x[3])).permute([0, 1, 2, 4, 3])
    return whole.reshape([x[0].shape[0], RUNS, QUARTERS * 4])


@gluon.jit
def split4(x, layout: gl.constexpr):
    """Split [W, QUARTERS, 4], as [W, QUARTERS, 2, 2], into a tuple of 4 in order."""
    out = ()
    high = gl.split(x.permute([0, 1, 3, 2]))
    for a in gl.static_range(2):
        low = gl.split(high[a])
        out = out + (gl.convert_layout(low[0], layout), gl.convert_layout(low[1], layout))
    return out


@gluon.jit
def put(buffer, x, WARPS: gl.constexpr):
    """Write [rows, channels], channels of one warp side by side, as (turn, warp, row)."""
    turns: gl.constexpr = x.shape[1] // WARPS
    buffer.store(x.reshape([x.shape[0], WARPS, turns]).permute([2, 1, 0]))


@gluon.jit
def get(buffer, layout: gl.constexpr, target: gl.constexpr):
    """Undo `put`."""
    x = buffer.load(layout).permute([2, 1, 0])
    rows: gl.constexpr = x.shape[0]
    return gl.convert_layout(x.reshape([rows, x.shape[1] * x.shape[2]]), target)


@gluon.jit
def sum_steps(x, layout: gl.constexpr):
    """Add up [CHUNK, channels] over the steps.

    Half of the steps are in the same thread. Of the rest, `layout` gives a thread several and a
    group of threads few, so that few shuffles are left.
    """
    half = gl.sum(x.reshape([2, x.shape[0] // 2, x.shape[1]]), 0)
    return gl.sum(gl.convert_layout(half, layout), 0)


@gluon.jit
def prefetch(buffer, pointers, mask=None):
    """Start a copy from memory; what the mask leaves out becomes zero."""
    ampere.async_copy.async_copy_global_to_shared(buffer, pointers, mask)


@gluon.jit
def widen(x):
    """Convert to fp32; two neighbours in bf16 take one instruction each."""
    if x.dtype == gl.bfloat16:
        return gl.inline_asm_elementwise(
            "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;", "=r,=r,r", [x],
            dtype=gl.float32, is_pure=True, pack=2,
        )  # fmt: skip
    else:
        return x.to(gl.float32)


@gluon.jit
def biased(delta, bias, layout: gl.constexpr, BIASED: gl.constexpr):
    """Read delta, [CHUNK, channels], and add the bias."""
    x = widen(delta.load(layout))
    if BIASED:
        x += bias.load(gl.SliceLayout(0, layout)).to(gl.float32)[None, :]
    return x


@gluon.jit
def put_weights(buffer, x):
    """Write [CHUNK, 16] as (state of a quarter, run and quarter, step of the run)."""
    x = x.reshape([RUNS, RUN, QUARTERS, 2, 2]).permute([0, 2, 1, 4, 3])
    high = gl.split(x)
    for a in gl.static_range(2):
        low = gl.split(high[a])
        for b in gl.static_range(2):
            buffer.index(2 * a + b).store(low[b].reshape([RUNS * QUARTERS, RUN]))


@gluon.jit
def get_weights(buffer, j: gl.constexpr, layout: gl.constexpr, target: gl.constexpr):
    """Read a state's steps: a tuple of 8 [1, RUNS, QUARTERS]."""
    x = widen(buffer.index(j).load(layout)).reshape([RUNS, QUARTERS, 2, 2, 2])
    steps = split8(x, target)
    out = ()
    for i in gl.static_range(RUN):
        out = out + (steps[i][None, :, :],)
    return out


@gluon.jit
def join32(x):
    """Put 8 steps times 4 states [W, RUNS, QUARTERS] together as [W, CHUNK, 16]."""
    a = ()
    for i in gl.static_range(16):
        a = a + (gl.join(x[2 * i], x[2 * i + 1]),)
    b = ()
    for i in gl.static_range(8):
        b = b + (gl.join(a[2 * i], a[2 * i + 1]),)
    c = ()
    for i in gl.static_range(4):
        c = c + (gl.join(b[2 * i], b[2 * i + 1]),)
    d = ()
    for i in gl.static_range(2):
        d = d + (gl.join(c[2 * i], c[2 * i + 1]),)
    # [W, RUNS, QUARTERS, n0, n1, s0, s1, s2]
    whole = gl.join(d[0], d[1]).permute([0, 1, 7, 6, 5, 2, 4, 3])
    return whole.reshape([x[0].shape[0], RUNS * RUN, QUARTERS * STATES])


@gluon.jit
def total_weights(x, layout: gl.constexpr):
    """Add up over the warps what `differentiate_kernel` gathered: [CHUNK, N]."""
    ordered = ()
    for i in gl.static_range(RUN):
        for j in gl.static_range(STATES):
            ordered = ordered + (x[8 * j + i],)
    return gl.convert_layout(gl.sum(join32(ordered), 0), layout)
