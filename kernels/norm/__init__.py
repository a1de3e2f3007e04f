"""Root-mean-square normalisation, and the residual sum before it."""

from typing import overload

from torch import Tensor

from dnamamba.errors import UsageError
from dnamamba.kernels.checks import check_axes, check_tensor
from dnamamba.kernels.dispatch import fused_backend_for
from dnamamba.kernels.norm import reference
from dnamamba.kernels.norm.autograd import MAX_CHANNELS, normalise

__all__ = ["rms_norm"]


@overload
def rms_norm(
    x: Tensor, weight: Tensor, eps: float = 1e-5, *, residual: None = None, backend: str = "auto"
) -> Tensor: ...


@overload
def rms_norm(
    x: Tensor, weight: Tensor, eps: float = 1e-5, *, residual: Tensor, backend: str = "auto"
) -> tuple[Tensor, Tensor]: ...


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Divide by the root mean square over channels, then scale; with `residual`, add it first.

    Zhang and Sennrich, "Root Mean Square Layer Normalization" (arXiv 1910.07467). Computed in fp32,
    or in fp64 where a tensor is fp64; differentiable in every tensor, through both results.

    Parameters
    ----------
    x
        (..., channels).
    weight
        (channels,).
    eps
        Added to the mean square.
    residual
        Shaped like x, of any floating-point type: a residual stream may be wider than the
        activations. The sum is rounded to its dtype before it is normalised.
    backend
        `auto`, or one of `dnamamba.kernels.dispatch.FUSED_BACKENDS`. Triton takes up to 8,192
        channels; `auto` runs more in PyTorch.

    Returns
    -------
    Like x; with `residual`, that and x + residual in residual's dtype.

    Raises
    ------
    UsageError
        For a tensor of the wrong shape, type or device, or a backend that cannot run here.
    """
    check_axes("weight", weight, "(channels)")
    check_tensor("x", x, x.shape, "(..., channels)", x.device)
    check_tensor("weight", weight, x.shape[-1:], "(channels,)", x.device)
    if residual is not None:
        check_tensor("residual", residual, x.shape, "(..., channels)", x.device)
    if _choose(backend, x, weight, residual) == "triton":
        y, total = normalise(x, weight, residual, eps)
    else:
        y, total = reference.rms_norm(x, weight, eps, residual)
    return y if residual is None else (y, total)


def _choose(backend: str, x: Tensor, weight: Tensor, residual: Tensor | None) -> str:
    """Choose a backend for these types and this many channels."""
    chosen = fused_backend_for(backend, x, weight, residual)
    if chosen == "triton" and (x.shape[-1] > MAX_CHANNELS or x.numel() == 0):
        if backend == "triton":
            raise UsageError(
                f'x has shape {tuple(x.shape)}; backend "triton" takes 1 to {MAX_CHANNELS} '
                "channels and at least one row"
            )
        return "reference"
    return chosen
