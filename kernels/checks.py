"""Arguments of the ops, checked: an error names the argument, what it is and what is wanted."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dnamamba.errors import UsageError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_tensor(
    name: str, tensor: Tensor, shape: Sequence[int], axes: str, device: torch.device
) -> None:
    """Require a floating-point tensor of `shape`, described by `axes`, on `device`.

    Raises
    ------
    UsageError
        Naming the argument, its shape, type or device, and the one wanted.
    """
    if tuple(tensor.shape) != tuple(shape):
        raise UsageError(f"{name} has shape {tuple(tensor.shape)}; {axes} wants {tuple(shape)}")
    if tensor.dtype not in FLOATS:
        raise UsageError(f"{name} has type {tensor.dtype}; a floating-point type is wanted")
    if tensor.device != device:
        raise UsageError(f"{name} is on {tensor.device}; the first argument is on {device}")


def check_axes(name: str, tensor: Tensor, axes: str) -> tuple[int, ...]:
    """Require as many dimensions as `axes` names, none empty; return the shape."""
    wanted = axes.count(",") + 1
    if tensor.dim() != wanted or 0 in tensor.shape:
        raise UsageError(
            f"{name} has shape {tuple(tensor.shape)}; {axes} of at least 1 each is wanted"
        )
    return tuple(tensor.shape)
