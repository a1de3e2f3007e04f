"""What a scan takes and gives back, named once for every backend."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dnamamba.kernels.split import Exchange

MAX_STATES = 256
"""States of a channel that Triton's kernels take: a program holds them all."""


@dataclass(frozen=True)
class ScanInputs:
    """The validated arguments of a scan, but for its initial state."""

    u: Tensor
    """(batch, length, channels), as delta and z; A is (channels, state)."""
    delta: Tensor
    A: Tensor
    B: Tensor
    """(batch, length, groups, state), or the constant (channels, state); C likewise.

    Channel d belongs to group d // (channels / groups). Where both B and C vary, they have the same
    number of groups.
    """
    C: Tensor
    D: Tensor | None
    """(channels,), as delta_bias."""
    z: Tensor | None
    delta_bias: Tensor | None
    starts: Tensor | None
    """(batch, length) bool: where a new sequence begins, its state zero before that step.

    In the order of u, but as read: with `reverse` a sequence starts at its greatest index. Never
    true at the first step read, which starts from the initial state.
    """
    delta_softplus: bool
    reverse: bool

    @property
    def dtype(self) -> torch.dtype:
        """What to compute in: fp64 where any input is fp64, else fp32."""
        tensors = (self.u, self.delta, self.A, self.B, self.C, self.D, self.z, self.delta_bias)
        wide = any(t is not None and t.dtype == torch.float64 for t in tensors)
        return torch.float64 if wide else torch.float32

    def total_step(self) -> Tensor:
        """Add up the step sizes: (batch, channels) in the working type."""
        delta = self.delta.to(self.dtype)
        if self.delta_bias is not None:
            delta = delta + self.delta_bias.to(self.dtype)
        return (F.softplus(delta) if self.delta_softplus else delta).sum(1)

    @property
    def groups(self) -> int:
        """The number of groups that B or C has; 1 where both are constant."""
        return max(weight.shape[2] if weight.dim() == 4 else 1 for weight in (self.B, self.C))


@dataclass
class ScanGradients:
    """The gradient of each argument, in its argument's shape; None where it was None.

    Contiguous all, none sharing memory with another tensor, in any floating-point type.
    """

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

        def weight(tensor: Tensor) -> Tensor:
            return like(tensor) if tensor.dim() == 4 else zeros(*tensor.shape)

        return cls(
            u=like(inputs.u),
            delta=like(inputs.delta),
            A=zeros(*inputs.A.shape),
            B=weight(inputs.B),
            C=weight(inputs.C),
            D=None if inputs.D is None else zeros(channels),
            z=None if inputs.z is None else like(inputs.z),
            delta_bias=None if inputs.delta_bias is None else zeros(channels),
            initial_state=zeros(batch, channels, inputs.A.shape[1]),
        )


class Implementation(Protocol):
    """One backend's scan and its backward."""

    def saved_shape(self, inputs: ScanInputs) -> tuple[int, ...]:
        """Return the shape of what `forward` keeps, from the inputs' shapes alone."""

    def forward(
        self,
        inputs: ScanInputs,
        initial_state: Tensor | None,
        keep: bool,
        exchange: Exchange | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scan from `initial_state` (batch, channels, state), or zero.

        With `exchange` the inputs are a part of a sequence: what it returns is added to the initial
        state.

        Returns
        -------
        y (batch, length, channels) in u's dtype; the last state (batch, channels, state); and what
        the backward needs, empty of shape (0,) unless `keep`. The last two are of the working type;
        all are new and contiguous.
        """

    def backward(
        self,
        inputs: ScanInputs,
        initial_state: Tensor | None,
        saved: Tensor,
        dy: Tensor | None,
        dlast: Tensor | None,
        exchange: Exchange | None = None,
    ) -> ScanGradients:
        """Differentiate from the gradients of y and of the last state, None where there is none.

        With `exchange`, what it returns is added to the gradient of the last state.
        """
