"""RMSNorm's Triton path as registered ops, which compile and checkpoint as one node each.

What was normalised is kept for the backward, and nothing else: without a residual that is x. An op
cannot return None: an empty tensor stands for a result that is not there.
"""

from typing import Any

import torch
from torch import Tensor

MAX_CHANNELS = 8192
"""A program holds whole rows in registers."""


@torch.library.custom_op("dnamamba::rms_norm", mutates_args=())
def normalise(
    x: Tensor, weight: Tensor, residual: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Give the rows of x, or of x + residual, normalised, and x + residual (else empty)."""
    from dnamamba.kernels.norm import launch

    y, total = launch.forward(x, weight, residual, eps)
    return y, x.new_empty(0) if total is None else total


@normalise.register_fake
def _(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return _like(x), x.new_empty(0) if residual is None else _like(residual)


@torch.library.custom_op("dnamamba::rms_norm_backward", mutates_args=())
def differentiate(
    total: Tensor, weight: Tensor, dy: Tensor, dtotal: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Give the gradients of x, of residual (empty where it is x's) and of weight."""
    from dnamamba.kernels.norm import launch

    dx, dresidual, dweight = launch.backward(total, weight, dy, dtotal, eps)
    return dx, dy.new_empty(0) if dresidual is None else dresidual, dweight


@differentiate.register_fake
def _(
    total: Tensor, weight: Tensor, dy: Tensor, dtotal: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    dresidual = dy.new_empty(0) if total.dtype == dy.dtype else _like(total)
    return _like(dy), dresidual, _like(weight)


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, residual, ctx.eps = inputs
    ctx.adds = residual is not None
    ctx.dtype = x.dtype
    ctx.save_for_backward(output[1] if ctx.adds else x, weight)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, dtotal: Tensor | None) -> tuple[Tensor | None, ...]:
    total, weight = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(total, dtype=ctx.dtype)
    dx, dresidual, dweight = differentiate(total, weight, dy, dtotal if ctx.adds else None, ctx.eps)
    if not ctx.adds:
        return dx, dweight, None, None
    return dx, dweight, dresidual if total.dtype != ctx.dtype else dx, None


normalise.register_autograd(_backward, setup_context=_keep)
