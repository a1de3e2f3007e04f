"""The convolution's fused paths as registered ops, which compile and checkpoint as one node each.

Only x is kept for the backward, which computes the sums before the activation again. An op cannot
return None: an empty tensor stands for a result that was not asked for.
"""

import functools
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

MAX_WIDTH = 4
"""Taps that a GPU's kernel can hold in registers, with the window and the taps' gradients."""
MODULES = {"numba": "dnamamba.kernels.conv.cpu", "triton": "dnamamba.kernels.conv.launch"}
"""Each with `forward`, `final_state`, `backward` and `update`."""


@functools.cache
def _implementation(backend: str) -> Any:
    """Import a backend's module when it is first used."""
    return import_module(MODULES[backend])


@torch.library.custom_op("dnamamba::causal_conv1d", mutates_args=())
def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    seq_idx: Tensor | None,
    silu: bool,
    reverse: bool,
    return_final_state: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Convolve; arguments as in `dnamamba.kernels.causal_conv1d`, the backend chosen before.

    Returns
    -------
    y, and the final state, of 0 rows where it was not asked for.
    """
    run = _implementation(backend)
    y = run.forward(x, weight, bias, initial_state, seq_idx, silu, reverse)
    width = weight.shape[1] if return_final_state else 1
    return y, run.final_state(x, width, initial_state, seq_idx, reverse)


@convolve.register_fake
def _(x: Tensor, weight: Tensor, *others: Tensor | bool | str | None) -> tuple[Tensor, Tensor]:
    batch, _, channels = x.shape
    return_final_state = others[-2]
    return _like(x), x.new_empty(batch, weight.shape[1] - 1 if return_final_state else 0, channels)


@torch.library.custom_op("dnamamba::causal_conv1d_backward", mutates_args=())
def differentiate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    seq_idx: Tensor | None,
    dy: Tensor,
    dfinal: Tensor | None,
    silu: bool,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give the gradients of x, weight, bias and initial_state; empty for those that are None."""
    dx, dweight, dbias, dstate = _implementation(backend).backward(
        x, weight, bias, initial_state, seq_idx, dy, dfinal, silu, reverse
    )
    return (
        dx,
        dweight,
        x.new_empty(0) if dbias is None else dbias,
        x.new_empty(0) if dstate is None else dstate,
    )


@differentiate.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    *_: Tensor | bool | str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        _like(x),
        _like(weight),
        x.new_empty(0) if bias is None else _like(bias),
        x.new_empty(0) if initial_state is None else _like(initial_state),
    )


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.silu, ctx.reverse, ctx.return_final_state, ctx.backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, bias, initial_state, seq_idx = ctx.saved_tensors
    dx, dweight, dbias, dstate = differentiate(
        x,
        weight,
        bias,
        initial_state,
        seq_idx,
        x.new_zeros(()).expand_as(x) if dy is None else dy,
        dfinal if ctx.return_final_state else None,
        ctx.silu,
        ctx.reverse,
        ctx.backend,
    )
    return (
        dx,
        dweight,
        None if bias is None else dbias,
        None if initial_state is None else dstate,
        None,
        None,
        None,
        None,
        None,
    )


convolve.register_autograd(_backward, setup_context=_keep)


@torch.library.custom_op("dnamamba::causal_conv1d_update", mutates_args=())
def update(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """Take one step; arguments and results as in `dnamamba.kernels.causal_conv1d_update`."""
    found: tuple[Tensor, Tensor] = _implementation(backend).update(x, state, weight, bias, silu)
    return found


@update.register_fake
def _(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, backend: str
) -> tuple[Tensor, Tensor]:
    return _like(x), x.new_empty(state.shape)


def _keep_step(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.silu, ctx.backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _backward_step(ctx: Any, dy: Tensor | None, dnew: Tensor | None) -> tuple[Tensor | None, ...]:
    x, state, weight, bias = ctx.saved_tensors
    dy = x.new_zeros(()).expand_as(x) if dy is None else dy
    dx, dweight, dbias, dstate = differentiate(
        x[:, None], weight, bias, state, None, dy[:, None], dnew, ctx.silu, False, ctx.backend
    )
    return dx[:, 0], dstate, dweight, None if bias is None else dbias, None, None


update.register_autograd(_backward_step, setup_context=_keep_step)
