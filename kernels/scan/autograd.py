"""The scan as one differentiable op, opaque to torch.compile, whatever backend runs it.

`torch.ops.dnamamba.selective_scan` and its backward take tensors in the forms of `ScanInputs`, the
name of a backend that was chosen before, and the name of the processes that a sequence is split
over (`dnamamba.kernels.split`).
"""

import functools
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from dnamamba.kernels.scan.inputs import Implementation, ScanInputs
from dnamamba.kernels.scan.segments import Segmented
from dnamamba.kernels.split import StateExchange

CORES = {"chunked": "dnamamba.kernels.scan.chunked"}
"""Backends that walk segments: the module that runs the recurrence."""
WHOLE = {"numba": "dnamamba.kernels.scan.cpu", "triton": "dnamamba.kernels.scan.triton_scan"}
"""Backends that are an `Implementation` by themselves."""


@functools.cache
def implementation(backend: str) -> Implementation:
    """Import a backend's module when it is first used."""
    if backend in CORES:
        return Segmented(import_module(CORES[backend]))
    return import_module(WHOLE[backend])


@torch.library.custom_op("dnamamba::selective_scan", mutates_args=())
def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    starts: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    keep: bool,
    backend: str,
    group: str = "",
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the last state, and, if `keep`, what the backward needs."""
    inputs = ScanInputs(u, delta, A, B, C, D, z, delta_bias, starts, delta_softplus, reverse)
    exchange = StateExchange(group, A, backwards=reverse) if group else None
    with _full_precision(u):
        return implementation(backend).forward(inputs, initial_state, keep, exchange)


@scan.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    starts: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    keep: bool,
    backend: str,
    group: str = "",
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = ScanInputs(u, delta, A, B, C, D, z, delta_bias, starts, delta_softplus, reverse)
    batch, _, channels = u.shape
    last_state = u.new_empty((batch, channels, A.shape[1]), dtype=inputs.dtype)
    shape = implementation(backend).saved_shape(inputs) if keep else (0,)
    return _like(u), last_state, u.new_empty(shape, dtype=inputs.dtype)


@torch.library.custom_op("dnamamba::selective_scan_backward", mutates_args=())
def scan_backward(
    dy: Tensor | None,
    dlast: Tensor | None,
    saved: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    starts: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    backend: str,
    group: str = "",
) -> list[Tensor]:
    """Return the gradients of the tensors given, u to initial_state, each in its own type."""
    inputs = ScanInputs(u, delta, A, B, C, D, z, delta_bias, starts, delta_softplus, reverse)
    exchange = StateExchange(group, A, backwards=not reverse) if group else None
    with _full_precision(u):
        grads = implementation(backend).backward(inputs, initial_state, saved, dy, dlast, exchange)
    pairs = (
        (u, grads.u),
        (delta, grads.delta),
        (A, grads.A),
        (B, grads.B),
        (C, grads.C),
        (D, grads.D),
        (z, grads.z),
        (delta_bias, grads.delta_bias),
        (initial_state, grads.initial_state),
    )
    return [
        gradient.to(tensor.dtype)
        for tensor, gradient in pairs
        if tensor is not None and gradient is not None
    ]


@scan_backward.register_fake
def _(
    dy: Tensor | None,
    dlast: Tensor | None,
    saved: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    starts: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    backend: str,
    group: str = "",
) -> list[Tensor]:
    given = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    return [_like(tensor) for tensor in given if tensor is not None]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, delta_softplus, reverse, _, backend, group = inputs
    ctx.save_for_backward(output[2], *tensors)
    ctx.options = delta_softplus, reverse, backend, group
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _differentiate(
    ctx: Any, dy: Tensor | None, dlast: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    saved, *tensors = ctx.saved_tensors
    gradients = iter(scan_backward(dy, dlast, saved, *tensors, *ctx.options))
    *differentiable, _starts = tensors
    each = [None if tensor is None else next(gradients) for tensor in differentiable]
    return (*each, None, None, None, None, None, None)


scan.register_autograd(_differentiate, setup_context=_keep)


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _full_precision(tensor: Tensor) -> torch.autocast:
    """Keep autocast out: it would round the states that a core multiplies."""
    return torch.autocast(tensor.device.type, enabled=False)
