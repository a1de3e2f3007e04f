"""The pre-norm residual block that every mixer lives in."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from dnamamba.kernels import rms_norm
from dnamamba.models.mixers import Mixer


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the channels, computed in fp32 (arXiv 1910.07467)."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Norm x (..., d_model); returns the weight's dtype, so that the next module fits."""
        return rms_norm(x, self.weight, self.eps).to(self.weight.dtype)


class Block(nn.Module):
    """residual + mixer(norm(residual)); the residual stream stays fp32 under autocast too.

    Parameters
    ----------
    mixer
        A module with the signature of `Mixer`.
    d_model
        Channels of the residual stream.
    norm_eps
        The norm's epsilon.
    """

    def __init__(self, mixer: nn.Module, d_model: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = RMSNorm(d_model, norm_eps)
        self.mixer = mixer

    def forward(
        self, residual: Tensor, state: Any = None, *, return_state: bool = False
    ) -> tuple[Tensor, Any]:
        """Add the mixer's output to residual (batch, length, d_model)."""
        y, state = self.mixer(self.norm(residual), state, return_state=return_state)
        return residual + y, state

    def step(self, residual: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Do the same for one position, (batch, d_model)."""
        y, state = cast(Mixer, self.mixer).step(self.norm(residual), state)
        return residual + y, state
