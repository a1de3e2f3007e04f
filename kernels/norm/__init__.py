"""Root-mean-square normalisation."""

import torch
from torch import Tensor

from dnamamba.kernels.checks import check_axes, check_tensor

__all__ = ["rms_norm"]


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Divide by the root mean square over channels, then scale.

    Zhang and Sennrich, "Root Mean Square Layer Normalization" (arXiv 1910.07467).

    Parameters
    ----------
    x
        (..., channels).
    weight
        (channels,).
    eps
        Added to the mean square.

    Returns
    -------
    Like x; computed in fp32, or in fp64 where x is fp64.

    Raises
    ------
    UsageError
        For a weight of the wrong shape, type or device.
    """
    check_axes("weight", weight, "(channels)")
    check_tensor("weight", weight, x.shape[-1:], "(channels,)", x.device)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * weight).to(x.dtype)
