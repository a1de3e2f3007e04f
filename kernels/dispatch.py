"""Which implementation of an op runs, and why."""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from dnamamba.errors import UsageError
from dnamamba.log import logger

BACKENDS = ("auto", "reference", "chunked", "numba", "triton")
FUSED_BACKENDS = ("auto", "reference", "triton")
"""Those of an op that is not compiled for a CPU."""
ALL_FUSED = ("auto", "reference", "numba", "triton")
CAPABILITY = (8, 0)
"""The oldest GPU that Triton's kernels are written for."""
NO_COMPILER = "Triton needs a C compiler to launch its kernels; install gcc or clang"

P = ParamSpec("P")
R = TypeVar("R")


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


@functools.cache
def has_compiler() -> bool:
    """Tell whether Triton finds the C compiler that it builds its launchers with."""
    return bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))


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
        # The kernels hold instructions of NVIDIA's.
        able = torch.version.hip is None and _capability(device) >= CAPABILITY
        return able and has_triton() and has_compiler()
    return device.type == "cpu" and interprets_triton()


def _require_triton(device: torch.device, dtype: torch.dtype) -> None:
    if not has_triton():
        raise UsageError('backend "triton" is not installed: pip install triton')
    if device.type == "cuda" and not has_compiler():
        raise UsageError(f'backend "triton": {NO_COMPILER}')
    if not runs_triton(device, dtype):
        raise UsageError(
            'backend "triton" runs on cuda tensors up to fp32, NVIDIA compute capability '
            f"{CAPABILITY[0]}.{CAPABILITY[1]} or later, not {dtype} on {device.type}"
        )


def _fits_numba(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and dtype != torch.float64


def _require_numba(device: torch.device, dtype: torch.dtype) -> None:
    if not has_numba():
        raise UsageError('backend "numba" is not installed: pip install "dnamamba[cpu]"')
    if not _fits_numba(device, dtype):
        raise UsageError(
            f'backend "numba" runs on cpu tensors up to fp32, not {dtype} on {device.type}'
        )


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Make a tensor's GPU the current one, which is where Triton launches; on a CPU, do nothing."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _traced_once(choose: Callable[P, R]) -> Callable[P, R]:
    """Make a choice a constant of a compiled graph, which cannot look for packages and devices."""
    marked: Callable[P, R] = torch.compiler.assume_constant_result(choose)  # type: ignore[no-untyped-call]
    return marked


@_traced_once
def choose_fused_backend(
    requested: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    backends: tuple[str, ...] = FUSED_BACKENDS,
) -> str:
    """Choose between an op's `backends`, for ops other than the scan.

    `auto` takes Triton on a GPU that runs it and Numba on a CPU, where the op has them, or else
    plain PyTorch; a name is obeyed or refused.

    Raises
    ------
    UsageError
        For an unknown name, or a backend that cannot run on this device, type or installation.
    """
    if requested not in backends:
        raise UsageError(f"backend {requested!r} is not one of {', '.join(backends)}")
    if requested == "numba":
        _require_numba(device, dtype)
    if requested == "triton":
        _require_triton(device, dtype)
    if requested != "auto":
        return requested
    if "numba" in backends and _fits_numba(device, dtype) and has_numba():
        return "numba"
    if device.type != "cuda":
        return "reference"
    _say_what_triton_lacks()
    return "triton" if runs_triton(device, dtype) else "reference"


def fused_backend_for(
    requested: str,
    first: Tensor,
    *others: Tensor | None,
    backends: tuple[str, ...] = FUSED_BACKENDS,
) -> str:
    """Choose as `choose_fused_backend` does for an op's tensors, fp64 if one of them is.

    Raises
    ------
    UsageError
        For an unknown name, or a backend that cannot run on these tensors.
    """
    wide = any(t is not None and t.dtype == torch.float64 for t in (first, *others))
    dtype = torch.float64 if wide else first.dtype
    return choose_fused_backend(requested, first.device, dtype, backends)


@_traced_once
def scan_backend_for(requested: str, device: torch.device, dtype: torch.dtype) -> str:
    """Name the backend that `choose_scan_backend` chooses."""
    return choose_scan_backend(requested, device, dtype).backend


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
    if requested == "numba":
        _require_numba(device, dtype)
    if requested == "triton":
        _require_triton(device, dtype)
    if requested != "auto":
        return Choice(requested, "asked for by name")
    if device.type == "cuda":
        _say_what_triton_lacks()
        if runs_triton(device, dtype):
            return Choice("triton", "compiled for this GPU by Triton")
    fits_numba = _fits_numba(device, dtype)
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


def _say_what_triton_lacks() -> None:
    if has_triton() and not has_compiler():
        say_once(f"kernels run in plain PyTorch: {NO_COMPILER}")


@functools.cache
def say_once(message: str) -> None:
    """Log a message the first time it is said in a process."""
    logger.info(message)
