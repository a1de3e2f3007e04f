"""What a scan takes and gives back, named once for every backend."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScanInputs:
    """The validated arguments of a scan, but for its initial state."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    delta_softplus: bool
    reverse: bool

    @property
    def dtype(self) -> torch.dtype:
        """What to compute in: fp64 where any input is fp64, else fp32."""
        tensors = (self.u, self.delta, self.A, self.B, self.C, self.D, self.z, self.delta_bias)
        wide = any(t is not None and t.dtype == torch.float64 for t in tensors)
        return torch.float64 if wide else torch.float32


@dataclass
class ScanGradients:
    """The gradient of each argument, in its argument's shape and type; None where it was None."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    initial_state: Tensor

    @classmethod
    def empty(cls, inputs: ScanInputs) -> "ScanGradients":
        """Allocate what is as long as the sequence, and zeros in the working type for the rest."""
        batch, _, channels = inputs.u.shape

        def like(tensor: Tensor) -> Tensor:
            return torch.empty_like(tensor, memory_format=torch.contiguous_format)

        def zeros(*shape: int) -> Tensor:
            return inputs.u.new_zeros(shape, dtype=inputs.dtype)

        return cls(
            u=like(inputs.u),
            delta=like(inputs.delta),
            A=zeros(*inputs.A.shape),
            B=like(inputs.B),
            C=like(inputs.C),
            D=None if inputs.D is None else zeros(channels),
            z=None if inputs.z is None else like(inputs.z),
            delta_bias=None if inputs.delta_bias is None else zeros(channels),
            initial_state=zeros(batch, channels, inputs.A.shape[1]),
        )
