"""The scan as one differentiable op: what it keeps, and gradients in the inputs' types."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnamamba.kernels.scan.inputs import ScanInputs
from dnamamba.kernels.scan.segments import Core, Walk


class SelectiveScan(torch.autograd.Function):
    """Walks a scan through a core module, `chunked` or `cpu`."""

    @staticmethod
    def forward(
        ctx: Any,
        core: Core,
        delta_softplus: bool,
        reverse: bool,
        initial_state: Tensor | None,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Scan, and keep the inputs and the states before each chunk."""
        inputs = _inputs(tensors, delta_softplus, reverse)
        with _full_precision(inputs.u):
            y, last_state, saved = Walk(core, inputs).forward(initial_state)
        ctx.core, ctx.flags = core, (delta_softplus, reverse)
        ctx.state_dtype = None if initial_state is None else initial_state.dtype
        ctx.save_for_backward(saved, *tensors)
        ctx.set_materialize_grads(False)
        return y, last_state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dlast: Tensor | None) -> tuple[Any, ...]:
        """Give every tensor's gradient, in its own type."""
        saved, *tensors = ctx.saved_tensors
        inputs = _inputs(tuple(tensors), *ctx.flags)
        dy = torch.zeros_like(inputs.u) if dy is None else dy
        with _full_precision(inputs.u):
            grads = Walk(ctx.core, inputs).backward(saved, dy, dlast)
        given = (
            grads.u,
            grads.delta,
            grads.A,
            grads.B,
            grads.C,
            grads.D,
            grads.z,
            grads.delta_bias,
        )
        return (
            None,
            None,
            None,
            None if ctx.state_dtype is None else grads.initial_state.to(ctx.state_dtype),
            *(
                None if gradient is None or tensor is None else gradient.to(tensor.dtype)
                for gradient, tensor in zip(given, tensors, strict=True)
            ),
        )


def _full_precision(tensor: Tensor) -> torch.autocast:
    """Keep autocast out: it would round the states that a core multiplies."""
    return torch.autocast(tensor.device.type, enabled=False)


def _inputs(tensors: tuple[Tensor | None, ...], delta_softplus: bool, reverse: bool) -> ScanInputs:
    u, delta, A, B, C, D, z, delta_bias = tensors
    if u is None or delta is None or A is None or B is None or C is None:
        raise TypeError("u, delta, A, B and C are tensors")
    return ScanInputs(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
