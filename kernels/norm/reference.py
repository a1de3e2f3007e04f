"""RMSNorm in plain PyTorch: the truth for the fused path."""

import torch
from torch import Tensor


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Normalise x, or x + residual, in fp32 or wider.

    Returns
    -------
    The rows normalised, in x's dtype, and what was normalised, in residual's dtype.
    """
    total = x
    if residual is not None:
        wide = torch.promote_types(torch.promote_types(x.dtype, residual.dtype), torch.float32)
        total = (x.to(wide) + residual.to(wide)).to(residual.dtype)
    row = total.to(torch.promote_types(total.dtype, torch.float32))
    scale = torch.rsqrt(row.square().mean(-1, keepdim=True) + eps)
    return (row * scale * weight).to(x.dtype), total
