"""One file per sequence mixer, one signature.

A mixer mixes along the sequence and leaves the shape (batch, length, d_model) as it is. Its last
module is called `out_proj` and writes to the residual stream. What it remembers of a sequence, its
state, is a NamedTuple of tensors, batch first. Parameters that a module names in `no_weight_decay`
are left out of weight decay.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Mixer(Protocol):
    """What a block asks of a mixer, beside being an `nn.Module`."""

    out_proj: nn.Linear

    def __call__(
        self,
        x: Tensor,
        state: Any = None,
        *,
        return_state: bool = False,
        reverse: bool = False,
        seq_idx: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Mix x (batch, length, d_model), which continues `state`.

        Parameters
        ----------
        x
            (batch, length, d_model).
        state
            What came before x; nothing by default.
        return_state
            Return what comes after x too; the second value is None otherwise.
        reverse
            Read x from its end to its start.
        seq_idx
            (batch, length) int32: which of the sequences that are packed into a row a position
            belongs to. None passes from one to the next.
        """

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Mix one position x (batch, d_model); equals `__call__` on a sequence of one."""

    def initial_state(
        self, batch: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Any:
        """Return the state before the first position; activations are of type `dtype`."""
