"""Which implementation of an op runs, and why."""

import functools
import importlib.util
from dataclasses import dataclass

import torch

from dnamamba.errors import UsageError
from dnamamba.log import logger

BACKENDS = ("auto", "reference", "chunked", "numba")


@dataclass(frozen=True)
class Choice:
    """A backend and the reason for it, in one sentence."""

    backend: str
    reason: str


@functools.cache
def has_numba() -> bool:
    """Tell whether the compiled CPU path can be imported."""
    return importlib.util.find_spec("numba") is not None


def choose_scan_backend(
    requested: str, device: torch.device, dtype: torch.dtype = torch.float32
) -> Choice:
    """Choose how a selective scan runs.

    Parameters
    ----------
    requested
        One of `BACKENDS`. A name is obeyed or refused; `auto` takes the fastest that can run.
    device, dtype
        Where the inputs lie, and u's type.

    Raises
    ------
    UsageError
        For an unknown name, or a backend that cannot run on this device, type or installation.
    """
    if requested not in BACKENDS:
        raise UsageError(f"backend {requested!r} is not one of {', '.join(BACKENDS)}")
    fits_numba = device.type == "cpu" and dtype != torch.float64
    if requested == "numba":
        if not has_numba():
            raise UsageError('backend "numba" is not installed: pip install "dnamamba[cpu]"')
        if not fits_numba:
            raise UsageError(
                f'backend "numba" runs on cpu tensors up to fp32, not {dtype} on {device.type}'
            )
    if requested != "auto":
        return Choice(requested, "asked for by name")
    if fits_numba and has_numba():
        return Choice("numba", "compiled for this CPU by Numba, the fastest path without a GPU")
    if fits_numba:
        reason = (
            'Numba is not installed; pip install "dnamamba[cpu]" makes scans several times faster'
        )
        say_once(f"scans run in plain PyTorch: {reason}")
        return Choice("chunked", reason)
    if device.type == "cpu":
        return Choice("chunked", "fp64 runs in plain PyTorch")
    return Choice("chunked", f"plain PyTorch on {device.type}, vectorised over chunks")


@functools.cache
def say_once(message: str) -> None:
    """Log a message the first time it is said in a process."""
    logger.info(message)
