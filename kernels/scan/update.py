"""One step of the scan in Triton as a registered op, which compiles and checkpoints as one node.

A step is a scan of length one, and its gradients are that scan's.
"""

from typing import Any

import torch
from torch import Tensor

from dnamamba.kernels.scan.autograd import scan, scan_backward


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
) -> tuple[Tensor, Tensor]:
    """Take one step; as `dnamamba.kernels.selective_state_update`, B and C (batch, groups, state).

    Returns
    -------
    y in u's dtype, and the new state in fp32.
    """
    from dnamamba.kernels.scan import gpu_update

    return gpu_update.update(state, u, delta, A, B, C, D, z, delta_bias, delta_softplus)


@update.register_fake
def _(state: Tensor, u: Tensor, *_: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    return y, state.new_empty(state.shape, dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.delta_softplus = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, dnew: Tensor | None) -> tuple[Tensor | None, ...]:
    state, u, delta, A, B, C, D, z, delta_bias = ctx.saved_tensors
    z = None if z is None else z[:, None]
    tensors = (u[:, None], delta[:, None], A, B[:, None], C[:, None], D, z, delta_bias, state, None)
    options = (ctx.delta_softplus, False)
    _, _, saved = scan(*tensors, *options, True, "triton")
    dy = None if dy is None else dy[:, None]
    gradients = iter(scan_backward(dy, dnew, saved, *tensors, *options, "triton"))
    du, ddelta, dA, dB, dC, dD, dz, dbias, dstate = (
        None if tensor is None else next(gradients) for tensor in tensors[:-1]
    )
    du, ddelta, dB, dC, dz = (
        None if gradient is None else gradient[:, 0] for gradient in (du, ddelta, dB, dC, dz)
    )
    return dstate, du, ddelta, dA, dB, dC, dD, dz, dbias, None


update.register_autograd(_backward, setup_context=_keep)
