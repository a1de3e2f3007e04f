"""A multilayer perceptron in the place of a mixer: every position by itself.

As a block of its own it has its own norm and residual, which is what a Transformer's second half
is; a pattern such as ("hyena", "mlp") makes such layers.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnamamba.errors import UsageError


@dataclass(frozen=True)
class MLPConfig:
    """What a perceptron is, beside the width of the model.

    Raises
    ------
    UsageError
        For a size below 1.
    """

    expand: int = 4
    """Channels inside, as a multiple of the model's."""

    def __post_init__(self) -> None:
        if self.expand < 1:
            raise UsageError(f"mlp: expand: {self.expand} is below 1")


class NoState(NamedTuple):
    """Nothing: a perceptron remembers nothing."""


class MLP(nn.Module):
    """Linear, GELU in its tanh form (arXiv 1606.08415), linear; both with a bias.

    Parameters
    ----------
    d_model
        Channels of the residual stream.
    config
        Sizes inside.
    """

    def __init__(self, d_model: int, config: MLPConfig) -> None:
        super().__init__()
        self.in_proj = nn.Linear(d_model, config.expand * d_model)
        self.out_proj = nn.Linear(config.expand * d_model, d_model)

    def forward(
        self,
        x: Tensor,
        state: NoState | None = None,
        *,
        return_state: bool = False,
        reverse: bool = False,
        seq_idx: Tensor | None = None,
    ) -> tuple[Tensor, NoState | None]:
        """Map each position of x (batch, length, d_model); as `Mixer` says."""
        y = self.out_proj(functional.gelu(self.in_proj(x), approximate="tanh"))
        return y, NoState() if return_state else None

    def step(self, x: Tensor, state: NoState) -> tuple[Tensor, NoState]:
        """Map one position x (batch, d_model)."""
        return self.forward(x)[0], state

    def initial_state(
        self, batch: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> NoState:
        """Return the empty state."""
        return NoState()
