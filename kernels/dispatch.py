"""Which implementation of an op runs, and why."""

import functools
import importlib.util
from dataclasses import dataclass

import torch

from dnamamba.errors import UsageError
from dnamamba.log import logger

BACKENDS = ("auto", "reference", "chunked", "numba", "triton")
FUSED_BACKENDS = ("auto", "reference", "triton")
CAPABILITY = (8, 0)
"""The oldest GPU that Triton's kernels are written for."""


@dataclass(frozen=True)
class Choice:
    """A backend and the reason for it, in one sentence."""

    backend: str
    reason: str


@functools.cache
def has_numba() -> bool:
    """Tell whether the compiled CPU path can be imported."""
    return importlib.util.find_spec("numba") is not None


@functools.cache
def has_triton() -> bool:
    """Tell whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def interprets_triton() -> bool:
    """Tell whether Triton runs kernels in its interpreter, as TRITON_INTERPRET=1 asks."""
    if not has_triton():
        return False
    import triton

    return bool(triton.knobs.runtime.interpret)


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if torch.cuda.is_available() else (0, 0)


def runs_triton(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether Triton kernels run on tensors of this type there."""
    if dtype == torch.float64:
        return False
    if device.type == "cuda":
        return has_triton() and _capability(device) >= CAPABILITY
    return device.type == "cpu" and interprets_triton()


def _require_triton(device: torch.device, dtype: torch.dtype) -> None:
    if not has_triton():
        raise UsageError('backend "triton" is not installed: pip install triton')
    if not runs_triton(device, dtype):
        raise UsageError(
            'backend "triton" runs on cuda tensors up to fp32, compute capability '
            f"{CAPABILITY[0]}.{CAPABILITY[1]} or later, not {dtype} on {device.type}"
        )


def choose_fused_backend(
    requested: str, device: torch.device, dtype: torch.dtype = torch.float32
) -> str:
    """Choose between a Triton kernel and plain PyTorch, for ops other than the scan.

    `auto` takes Triton on a GPU that runs it; a name is obeyed or refused.

    Raises
    ------
    UsageError
        For an unknown name, or a backend that cannot run on this device, type or installation.
    """
    if requested not in FUSED_BACKENDS:
        raise UsageError(f"backend {requested!r} is not one of {', '.join(FUSED_BACKENDS)}")
    if requested == "triton":
        _require_triton(device, dtype)
    if requested != "auto":
        return requested
    return "triton" if device.type == "cuda" and runs_triton(device, dtype) else "reference"


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
    if requested == "triton":
        _require_triton(device, dtype)
    if requested != "auto":
        return Choice(requested, "asked for by name")
    if device.type == "cuda" and runs_triton(device, dtype):
        return Choice("triton", "compiled for this GPU by Triton")
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
