"""The types that a forward pass computes in, and what fp16 asks for besides.

A gradient in fp16 is zero below 6e-8, so the loss is multiplied by a scale that is halved where
gradients overflow, and such a step is left out (Micikevicius et al., arXiv 1710.03740).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from torch.amp import GradScaler

from dnamamba.errors import UsageError

Autocast = Callable[[], AbstractContextManager[None]]
"""Makes the context that a forward pass runs in."""
UNSCALED: Final = GradScaler("cpu", enabled=False)
"""What leaves losses, gradients and steps as they are."""
_TYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_to(precision: str, device: torch.device) -> Autocast:
    """Return what makes the context of a forward pass in `precision`, fp32, bf16 or fp16."""
    if precision == "fp32":
        return nullcontext

    def context() -> Any:
        return torch.autocast(device.type, dtype=_TYPES[precision])

    return context


def require_precision(precision: str, device: torch.device) -> None:
    """Say early that a model cannot be trained so.

    Raises
    ------
    UsageError
        For fp16 where gradients cannot be scaled.
    """
    if precision == "fp16" and device.type not in ("cuda", "cpu"):
        raise UsageError(f"precision fp16: trains on cuda and cpu; on {device.type} take fp32")


def scaler_for(precision: str, device: torch.device) -> GradScaler:
    """Return what scales the loss of fp16; for other precisions it does nothing."""
    return GradScaler(device.type) if precision == "fp16" else UNSCALED
