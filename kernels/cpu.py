"""What the ops compiled for a CPU share: arithmetic that fills vectors, rows as they lie, threads.

Numba keeps compiled code beside the file of the function that was called, and compiles it again
when that file changes. A change of this file alone goes unnoticed: touch its callers.

Compiled functions that others call are inlined, all of them. One that is linked is compiled twice,
by itself and with its caller, and which of the two runs depends on whether the code came from the
cache: their last bits may differ.
"""

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import starmap
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

FAST = {"contract", "nsz", "reassoc"}
"""Sums may be reordered to fill vector lanes; NaN and infinity keep their meaning."""

f32 = np.float32


class Rows(NamedTuple):
    """A sequence as compiled code reads it: step t of row b begins at first + b batch + t step."""

    values: Any
    """All numbers, one after another; or, for what does not vary, an array as it is."""
    first: int
    batch: int
    step: int


def rows(tensor: Tensor, reverse: bool) -> Rows:
    """Lay out (batch, length, width), first step read first; a copy only if rows are torn or half.

    Numba knows no bf16, and vectors want what is contiguous.
    """
    tensor = tensor.detach().to(torch.float32)
    if tensor.stride(2) != 1:
        tensor = tensor.contiguous()
    sizes, strides = tensor.shape, tensor.stride()
    reach = 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    batch, step, _ = strides
    values = tensor.as_strided((reach,), (1,)).numpy()
    return (
        Rows(values, step * (sizes[1] - 1), batch, -step)
        if reverse
        else Rows(values, 0, batch, step)
    )


def flags(starts: Tensor | None, batch: int, reverse: bool) -> Any:
    """Lay out (batch, length) booleans in reading order; of no length where there are none."""
    if starts is None:
        return np.zeros((batch, 0), np.bool_)
    return (starts.flip(1) if reverse else starts).contiguous().numpy()


def empty_like(tensor: Tensor) -> Tensor:
    """Make room for what compiled code writes: contiguous, in fp32."""
    return torch.empty_like(tensor, dtype=torch.float32, memory_format=torch.contiguous_format)


def array(tensor: Tensor) -> Any:
    """Lay out what is no parameter: contiguous, in fp32."""
    return tensor.detach().float().contiguous().numpy()


def parameter(tensor: Tensor) -> Any:
    """Lay out a copy of a parameter: a storage that NumPy has seen can never be freed by FSDP."""
    return array(tensor.detach().clone())


def run(task: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> None:
    """Call a task with each of the arguments; torch's number of threads share them."""
    calls = list(arguments)
    threads = min(torch.get_num_threads(), len(calls))
    if threads == 1:
        list(starmap(task, calls))
        return
    list(_pool(threads).map(lambda call: task(*call), calls))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Keep threads that sleep until there is something to do."""
    return ThreadPoolExecutor(threads)


# A forked process has none of its parent's threads.
os.register_at_fork(after_in_child=_pool.cache_clear)


@njit(cache=True, forceinline=True)
def place(rows: Any, row: int, t: int) -> Any:
    """Find where step t of a row begins."""
    return rows.first + row * rows.batch + t * rows.step


@njit(cache=True, forceinline=True, fastmath={"contract"}, error_model="numpy")
def _two_to(r: Any, shifted: Any) -> Any:
    """Raise 2 to r + k, where r is at most a half and k stands in the low bits of `shifted`.

    A polynomial in r to 9e-8 relative, 1 at 0, and k added to the exponent's bits. Adding
    1.5 * 2^23 rounds to an integer and leaves it in the low bits of the mantissa.
    """
    p = f32(1.326472731e-3)
    p = p * r + f32(9.671512991e-3)
    p = p * r + f32(5.550733581e-2)
    p = p * r + f32(2.402224243e-1)
    p = p * r + f32(6.931470037e-1)
    p = p * r + f32(1.0)
    bits = np.float32(p).view(np.int32) + (np.float32(shifted).view(np.int32) << np.int32(23))
    return np.int32(bits).view(np.float32)


@njit(cache=True, forceinline=True, fastmath={"contract"}, error_model="numpy")
def exp2(x: Any) -> Any:
    """Two to the power of x, clamped to 2^-126 and 2^127; NaN stays NaN."""
    x = min(max(x, f32(-126.0)), f32(127.0))
    shifted = x + f32(12582912.0)
    return _two_to(x - (shifted - f32(12582912.0)), shifted)


@njit(cache=True, forceinline=True, fastmath={"contract"}, error_model="numpy")
def exp(x: Any) -> Any:
    """Exponential to 2e-7 relative, clamped to e^-87 and e^88; NaN stays NaN.

    x = k ln 2 + r with ln 2 in two parts, as in Cephes' expf.
    """
    x = min(max(x, f32(-87.0)), f32(88.0))
    shifted = x * f32(1.44269504) + f32(12582912.0)
    k = shifted - f32(12582912.0)
    r = x - k * f32(0.693359375)
    r = r - k * f32(-2.12194440e-4)
    return _two_to(r * f32(1.44269504), shifted)


@njit(cache=True, forceinline=True, fastmath={"contract"}, error_model="numpy")
def sigmoid(x: Any) -> Any:
    """Logistic function."""
    return f32(1.0) / (f32(1.0) + exp(-x))


@njit(cache=True, forceinline=True, fastmath={"contract"}, error_model="numpy")
def softplus(x: Any) -> Any:
    """Compute log(1 + e^x) to a few units in the last place, however small it is.

    max(x, 0) + log(1 + t) with t = e^-|x|, and log(1 + t) = 2 artanh(t / (2 + t)) by its series,
    whose argument is at most a third.
    """
    t = exp(-abs(x))
    s = t / (f32(2.0) + t)
    square = s * s
    p = f32(1.0 / 15.0)
    p = p * square + f32(1.0 / 13.0)
    p = p * square + f32(1.0 / 11.0)
    p = p * square + f32(1.0 / 9.0)
    p = p * square + f32(1.0 / 7.0)
    p = p * square + f32(1.0 / 5.0)
    p = p * square + f32(1.0 / 3.0)
    p = p * square + f32(1.0)
    return max(x, f32(0.0)) + f32(2.0) * s * p
