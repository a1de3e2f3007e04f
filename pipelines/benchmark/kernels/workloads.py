"""What is measured: an op at a shape, with random inputs, on one of its backends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from dnamamba.kernels import causal_conv1d, rms_norm, selective_scan, selective_state_update
from dnamamba.kernels.dispatch import (
    ALL_FUSED,
    BACKENDS,
    FUSED_BACKENDS,
    choose_fused_backend,
    choose_scan_backend,
)

WIDTH: Final = 4
"""Taps of the convolution."""
FORWARD: Final = "forward"
BOTH: Final = "forward+backward"


class Shape(NamedTuple):
    """Of a sequence of activations."""

    batch: int
    length: int
    channels: int


@dataclass(frozen=True)
class Workload:
    """An op at a shape.

    Parameters
    ----------
    op
        One of `OPS`, or `attention`.
    shape
        Of its sequences.
    state
        States a channel; 0 for an op that has none.
    dtype
        Of the activations; weights, and the states between steps, are fp32.
    residual
        The type of the norm's residual stream.
    """

    op: str
    shape: Shape
    state: int
    dtype: torch.dtype
    residual: torch.dtype = torch.float32


class Trial(NamedTuple):
    """Inputs on a device, and the call that is timed."""

    inputs: tuple[Tensor, ...]
    call: Callable[[], tuple[Tensor, ...]]


class Draw:
    """Random inputs, the same each time, that record gradients."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(0)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw from the standard normal distribution."""
        tensor = torch.empty(shape, dtype=dtype, device=self.device)
        return tensor.normal_(generator=self.generator).requires_grad_()

    def uniform(
        self, *shape: int, low: float = 0.0, high: float = 0.5, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw evenly between two bounds."""
        tensor = torch.empty(shape, dtype=dtype, device=self.device)
        return tensor.uniform_(low, high, generator=self.generator).requires_grad_()


@dataclass(frozen=True)
class Contender:
    """A path through a workload: its name, how it is prepared, its passes, a note for the table."""

    path: str
    work: Workload
    prepare: Callable[[Draw], Trial]
    passes: tuple[str, ...] = (FORWARD, BOTH)
    note: str = ""


def timed(trial: Trial, name: str, draw: Draw) -> Callable[[], object]:
    """Give the call that makes one pass, `FORWARD` or `BOTH`.

    A forward keeps what its backward needs, as in training. A backward starts from random
    gradients and makes one for every input, which nothing adds to an earlier one.
    """
    if name == FORWARD:
        return trial.call
    upstream = [
        torch.empty_like(output).normal_(generator=draw.generator) for output in trial.call()
    ]

    def both() -> Sequence[Tensor]:
        outputs = trial.call()
        return torch.autograd.grad(outputs, trial.inputs, upstream)

    return both


def _scan(work: Workload, backend: str, draw: Draw) -> Trial:
    batch, length, channels = work.shape
    u = draw.normal(*work.shape, dtype=work.dtype)
    delta = draw.uniform(*work.shape, dtype=work.dtype)
    A = draw.uniform(channels, work.state, low=-0.5, high=0.0)
    B = draw.normal(batch, length, work.state, dtype=work.dtype)
    C = draw.normal(batch, length, work.state, dtype=work.dtype)
    D = draw.normal(channels)
    z = draw.normal(*work.shape, dtype=work.dtype)
    bias = draw.uniform(channels)

    def call() -> tuple[Tensor]:
        y = selective_scan(
            u, delta, A, B, C, D=D, z=z, delta_bias=bias, delta_softplus=True, backend=backend
        )
        return (y,)

    return Trial((u, delta, A, B, C, D, z, bias), call)


def _conv(work: Workload, backend: str, draw: Draw) -> Trial:
    x = draw.normal(*work.shape, dtype=work.dtype)
    weight, bias = draw.normal(work.shape.channels, WIDTH), draw.normal(work.shape.channels)
    return Trial(
        (x, weight, bias),
        lambda: (causal_conv1d(x, weight, bias, activation="silu", backend=backend),),
    )


def _norm(work: Workload, backend: str, draw: Draw) -> Trial:
    x = draw.normal(*work.shape, dtype=work.dtype)
    residual = draw.normal(*work.shape, dtype=work.residual)
    weight = draw.normal(work.shape.channels)
    return Trial(
        (x, weight, residual), lambda: rms_norm(x, weight, residual=residual, backend=backend)
    )


def _update(work: Workload, backend: str, draw: Draw) -> Trial:
    batch, _, channels = work.shape
    state = draw.normal(batch, channels, work.state)
    u = draw.normal(batch, channels, dtype=work.dtype)
    delta = draw.uniform(batch, channels, dtype=work.dtype)
    A = draw.uniform(channels, work.state, low=-0.5, high=0.0)
    B = draw.normal(batch, work.state, dtype=work.dtype)
    C = draw.normal(batch, work.state, dtype=work.dtype)
    D = draw.normal(channels)
    z = draw.normal(batch, channels, dtype=work.dtype)
    bias = draw.uniform(channels)

    @torch.no_grad()
    def call() -> tuple[Tensor, Tensor]:
        return selective_state_update(
            state, u, delta, A, B, C,
            D=D, z=z, delta_bias=bias, delta_softplus=True, backend=backend,
        )  # fmt: skip

    return Trial((state, u, delta, A, B, C, D, z, bias), call)


class Op(NamedTuple):
    """How an op is prepared, where it runs, which passes it has, and whether it has states."""

    prepare: Callable[[Workload, str, Draw], Trial]
    backends: tuple[str, ...]
    passes: tuple[str, ...]
    stateful: bool


OPS: Final = {
    "scan": Op(_scan, BACKENDS, (FORWARD, BOTH), stateful=True),
    "conv": Op(_conv, ALL_FUSED, (FORWARD, BOTH), stateful=False),
    "norm": Op(_norm, FUSED_BACKENDS, (FORWARD, BOTH), stateful=False),
    "update": Op(_update, ALL_FUSED, (FORWARD,), stateful=True),
}


def resolve_backend(work: Workload, backend: str, device: torch.device) -> str:
    """Name the backend that `auto` stands for here; another name stays."""
    if backend != "auto":
        return backend
    if work.op == "scan":
        return choose_scan_backend(backend, device, work.dtype).backend
    return choose_fused_backend(backend, device, work.dtype, OPS[work.op].backends)
