"""One fused step of the scan as a registered op, which compiles and checkpoints as one node.

A step is a scan of length one, and its gradients are that scan's.
"""

import functools
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from dnamamba.kernels.scan.autograd import scan, scan_backward

MODULES = {
    "numba": "dnamamba.kernels.scan.cpu_update",
    "triton": "dnamamba.kernels.scan.gpu_update",
}
"""Each with `update`."""


@functools.cache
def _implementation(backend: str) -> Any:
    """Import a backend's module when it is first used."""
    return import_module(MODULES[backend])


@torch.library.custom_op("dnamamba::selective_state_update", mutates_args=())
def update(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Take one step; as `dnamamba.kernels.selective_state_update`, B and C (batch, groups, state).

    Returns
    -------
    y in u's dtype, and the new state in fp32.
    """
    run = _implementation(backend).update
    found: tuple[Tensor, Tensor] = run(state, u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return found


@update.register_fake
def _(state: Tensor, u: Tensor, *_: Tensor | bool | str | None) -> tuple[Tensor, Tensor]:
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    return y, state.new_empty(state.shape, dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.delta_softplus, ctx.backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, dnew: Tensor | None) -> tuple[Tensor | None, ...]:
    state, u, delta, A, B, C, D, z, delta_bias = ctx.saved_tensors
    z = None if z is None else z[:, None]
    tensors = (u[:, None], delta[:, None], A, B[:, None], C[:, None], D, z, delta_bias, state, None)
    options = (ctx.delta_softplus, False)
    _, _, saved = scan(*tensors, *options, True, ctx.backend)
    dy = None if dy is None else dy[:, None]
    gradients = iter(scan_backward(dy, dnew, saved, *tensors, *options, ctx.backend))
    du, ddelta, dA, dB, dC, dD, dz, dbias, dstate = (
        None if tensor is None else next(gradients) for tensor in tensors[:-1]
    )
    du, ddelta, dB, dC, dz = (
        None if gradient is None else gradient[:, 0] for gradient in (du, ddelta, dB, dC, dz)
    )
    return dstate, du, ddelta, dA, dB, dC, dD, dz, dbias, None, None


update.register_autograd(_backward, setup_context=_keep)
