"""What the kernels are held against: other packages, attention, and a scan step by step."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from dnamamba.pipelines.benchmark.kernels.timer import Timer
from dnamamba.pipelines.benchmark.kernels.workloads import (
    BOTH,
    OPS,
    WIDTH,
    Contender,
    Draw,
    Shape,
    Trial,
    Workload,
    timed,
)

HEADS: Final = 2
HEAD_CHANNELS: Final = 64
ATTENTION_SECONDS: Final = 5.0
"""No attention is measured whose forward and backward would take longer."""
SEQUENTIAL_STEPS: Final = 1024
SEQUENTIAL_STATES: Final = 2**26
"""Most states, over all steps, of the scan step by step: autograd keeps several times as much."""


def installed(package: str) -> bool:
    """Tell whether a package is there to be imported."""
    return importlib.util.find_spec(package) is not None


def _function(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def mamba_ssm(work: Workload, draw: Draw) -> Trial:
    """Prepare mamba_ssm's CUDA scan in the layout it wants, (batch, channels, length)."""
    scan = _function("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
    batch, length, channels = work.shape
    u = draw.normal(batch, channels, length, dtype=work.dtype)
    delta = draw.uniform(batch, channels, length, dtype=work.dtype)
    A = draw.uniform(channels, work.state, low=-0.5, high=0.0)
    B = draw.normal(batch, work.state, length, dtype=work.dtype)
    C = draw.normal(batch, work.state, length, dtype=work.dtype)
    D = draw.normal(channels)
    z = draw.normal(batch, channels, length, dtype=work.dtype)
    bias = draw.uniform(channels)
    return Trial(
        (u, delta, A, B, C, D, z, bias), lambda: (scan(u, delta, A, B, C, D, z, bias, True),)
    )


def causal_conv1d(work: Workload, draw: Draw) -> Trial:
    """Prepare causal_conv1d's CUDA kernel on channels-last memory."""
    convolve = _function("causal_conv1d", "causal_conv1d_fn")
    x = draw.normal(*work.shape, dtype=work.dtype)
    weight, bias = draw.normal(work.shape.channels, WIDTH), draw.normal(work.shape.channels)
    return Trial(
        (x, weight, bias), lambda: (convolve(x.transpose(1, 2), weight, bias, activation="silu"),)
    )


def attention(work: Workload, draw: Draw) -> Trial:
    """Prepare PyTorch's causal attention, `HEADS` heads of `HEAD_CHANNELS`."""
    batch, length, _ = work.shape

    def projected() -> Tensor:
        return draw.normal(batch, HEADS, length, HEAD_CHANNELS, dtype=work.dtype)

    q, k, v = projected(), projected(), projected()
    return Trial((q, k, v), lambda: (F.scaled_dot_product_attention(q, k, v, is_causal=True),))


PACKAGES: Final = {"scan": ("mamba_ssm", mamba_ssm), "conv": ("causal_conv1d", causal_conv1d)}
"""The package that has an op, and how it is prepared."""


def sequential(work: Workload) -> Contender:
    """Give the scan that takes one step at a time, shortened to what it can do in seconds."""
    batch, length, channels = work.shape
    most = max(1, SEQUENTIAL_STATES // (batch * channels * work.state))
    steps = min(length, SEQUENTIAL_STEPS, most)
    shorter = replace(work, shape=Shape(batch, steps, channels))
    return Contender(
        "reference",
        shorter,
        partial(OPS["scan"].prepare, shorter, "reference"),
        note=_shortened("one step at a time", steps, length),
    )


def longest_attention(batch: int, length: int, dtype: torch.dtype, timer: Timer) -> Contender:
    """Give causal attention at a batch and length, shortened to what it can do in seconds."""
    draw = Draw(timer.device)

    def at(steps: int) -> Workload:
        return Workload("attention", Shape(batch, steps, HEADS * HEAD_CHANNELS), 0, dtype)

    def seconds(steps: int) -> float:
        return timer.once(timed(attention(at(steps), draw), BOTH, draw))

    steps = within(seconds, length, ATTENTION_SECONDS)
    note = _shortened(f"{HEADS} heads of {HEAD_CHANNELS}", steps, length)
    return Contender("sdpa", at(steps), partial(attention, at(steps)), note=note)


def within(seconds: Callable[[int], float], length: int, limit: float) -> int:
    """Return the longest of length, length / 2, length / 4 ... that ends within a time.

    What takes the square of its length is tried at lengths that double, while the next is expected
    to end within `limit` seconds. One that fails is returned: measuring it says why.
    """
    halvings = max(0, length.bit_length() - 10)
    for steps in (length >> power for power in range(halvings, 0, -1)):
        try:
            if 4 * seconds(steps) > limit:
                return steps
        except RuntimeError:
            return steps
    return length


def _shortened(what: str, steps: int, length: int) -> str:
    return what if steps == length else f"{what}, shortened from {length}"
