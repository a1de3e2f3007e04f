"""What is on its way to a device or from it, which has other work meanwhile."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")


class Arriving:
    """A tensor that is being copied from its device; nobody waits before it is asked for.

    Parameters
    ----------
    tensor
        Of any shape, on any device.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        if tensor.device.type != "cuda":
            self._here = tensor.cpu()
            return
        self._here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._here.copy_(tensor, non_blocking=True)
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._copied.record(torch.cuda.current_stream(tensor.device))

    def numpy(self) -> NDArray[Any]:
        """Wait for it."""
        if self._copied:
            self._copied.synchronize()
        return self._here.numpy()


def send(array: NDArray[Any], device: torch.device) -> Tensor:
    """Begin to copy an array to a device, without waiting for what it was given before."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def one_behind(items: Iterable[T]) -> Iterator[T]:
    """Yield each item when the next one has been begun, so that the device is never out of work."""
    waiting: list[T] = []
    for item in items:
        waiting.append(item)
        if len(waiting) == 2:
            yield waiting.pop(0)
    yield from waiting
