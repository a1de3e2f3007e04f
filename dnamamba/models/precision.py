"""The types that a forward pass computes in."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

Autocast = Callable[[], AbstractContextManager[None]]
"""Makes the context that a forward pass runs in."""


def autocast_to(precision: str, device: torch.device) -> Autocast:
    """Return what makes the context of a forward pass in `precision`, fp32 or bf16."""
    if precision == "fp32":
        return nullcontext

    def context() -> Any:
        return torch.autocast(device.type, dtype=torch.bfloat16)

    return context
