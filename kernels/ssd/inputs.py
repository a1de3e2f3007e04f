"""What a state-space-dual scan takes, named once for every backend."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class SsdInputs:
    """The validated arguments of a scan, but for its initial state."""

    x: Tensor
    """(batch, length, heads, width)."""
    delta: Tensor
    """(batch, length, heads)."""
    A: Tensor
    """(heads,), as delta_bias and D."""
    B: Tensor
    """(batch, length, groups, state), as C. Head h belongs to group h // (heads / groups)."""
    C: Tensor
    D: Tensor | None
    delta_bias: Tensor | None
    starts: Tensor | None
    """(batch, length) bool: where a new sequence begins, never at the first step read."""
    delta_softplus: bool
    reverse: bool

    @property
    def dtype(self) -> torch.dtype:
        """What to compute in: fp64 where any input is fp64, else fp32."""
        tensors = (self.x, self.delta, self.A, self.B, self.C, self.D, self.delta_bias)
        wide = any(t is not None and t.dtype == torch.float64 for t in tensors)
        return torch.float64 if wide else torch.float32

    def steps(self) -> Tensor:
        """Return the step sizes, after bias and softplus, in the working type."""
        delta = self.delta.to(self.dtype)
        if self.delta_bias is not None:
            delta = delta + self.delta_bias.to(self.dtype)
        return functional.softplus(delta) if self.delta_softplus else delta

    def skip(self, y: Tensor) -> Tensor:
        """Add D x to y, which is of the working type, and return it in x's type."""
        if self.D is not None:
            y = y + self.D.to(self.dtype)[:, None] * self.x.to(self.dtype)
        return y.to(self.x.dtype)
