"""AdamW as the Mamba paper sets it: no decay on A_log, D, biases and norms."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from dnamamba.errors import UsageError
from dnamamba.models.backbone import decay_groups
from dnamamba.models.quantised import require_torchao

Bits = Literal[32, 8]
"""Of a number of the moments."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, its schedule and its clipping.

    Attributes
    ----------
    lr
        Peak learning rate.
    betas
        Decay of the first and second moments.
    weight_decay
        Decoupled decay of the matrices.
    warmup
        Share of the steps over which the learning rate grows.
    floor
        Share of `lr` that is left at the end of the cosine.
    clip
        Largest norm of the whole gradient.
    """

    lr: float = 8e-3
    betas: tuple[float, ...] = (0.9, 0.95)
    weight_decay: float = 0.1
    warmup: float = 0.1
    floor: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("lr", self.lr, 0.0, 1.0),
            ("weight_decay", self.weight_decay, 0.0, 1.0),
            ("warmup", self.warmup, 0.0, 1.0),
            ("floor", self.floor, 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise UsageError(f"{name} {value:g}: give a value from {low:g} to {high:g}")
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise UsageError(f"betas {list(self.betas)}: give two values from 0 up to 1")
        if not self.clip > 0.0:
            raise UsageError(f"clip {self.clip:g}: give a value above 0")


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, bits: Bits = 32
) -> torch.optim.Optimizer:
    """Make an AdamW over the trainable parameters; matrices decay, but A_log.

    Parameters
    ----------
    model, config
        What is trained, and how.
    bits
        Of its moments: a fused AdamW in fp32, or `LowBitAdamW`.

    Raises
    ------
    UsageError
        For 8 bits where torchao is missing.
    """
    first, second = config.betas
    groups = decay_groups(model, config.weight_decay)
    if bits == 8:
        require_torchao("optimizer_bits 8")
        from dnamamba.training.lowbit import LowBitAdamW

        low: torch.optim.Optimizer = LowBitAdamW(groups, lr=config.lr, betas=(first, second))
        return low
    return torch.optim.AdamW(groups, lr=config.lr, betas=(first, second), fused=True)
