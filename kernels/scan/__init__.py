"""The selective scan of Mamba-1: validation, choice of backend, and the public functions."""

import importlib
from typing import Literal, overload

import torch
from torch import Tensor

from dnamamba.kernels.checks import check_axes, check_tensor
from dnamamba.kernels.dispatch import choose_scan_backend
from dnamamba.kernels.scan import reference
from dnamamba.kernels.scan.autograd import SelectiveScan

__all__ = ["selective_scan", "selective_state_update"]

CORES = {"chunked": "dnamamba.kernels.scan.chunked", "numba": "dnamamba.kernels.scan.cpu"}
"""The module that runs the recurrence, by backend; imported when it is first chosen."""


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: Literal[False] = False,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: Literal[True],
    reverse: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t; y_t = C_t h_t + D u_t, times silu(z_t).

    Equations 2a and 2b of Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State
    Spaces" (arXiv 2312.00752). Computed in fp32 (fp64 where an input is fp64); differentiable in
    every tensor, the initial state included, and through the last state.

    Parameters
    ----------
    u, delta
        (batch, length, channels), any floating-point type.
    A
        (channels, state), negative where the state is to decay.
    B, C
        (batch, length, state).
    D
        (channels,), the skip; None leaves it out.
    z
        (batch, length, channels), the gate; None leaves it out.
    delta_bias
        (channels,), added to delta first.
    delta_softplus
        Whether delta passes through softplus after its bias.
    initial_state
        (batch, channels, state), the state before the first step read; None is zero.
    return_last_state
        Whether to give back the state after the last step read.
    reverse
        Read from the last step to the first; the output keeps the input's order.
    backend
        `auto`, or one of `dnamamba.kernels.dispatch.BACKENDS`.

    Returns
    -------
    y (batch, length, channels) in u's dtype; and with `return_last_state`, the last state
    (batch, channels, state), fp32 or fp64.

    Raises
    ------
    UsageError
        For a tensor of the wrong shape, type or device, or a backend that cannot run here.
    """
    batch, length, channels = check_axes("u", u, "(batch, length, channels)")
    _, state = check_axes("A", A, "(channels, state)")
    sequence, steps = (batch, length, channels), (batch, length, state)
    for name, tensor, shape, axes in (
        ("u", u, sequence, "(batch, length, channels)"),
        ("delta", delta, sequence, "(batch, length, channels)"),
        ("A", A, (channels, state), "(channels, state)"),
        ("B", B, steps, "(batch, length, state)"),
        ("C", C, steps, "(batch, length, state)"),
        ("D", D, (channels,), "(channels,)"),
        ("z", z, sequence, "(batch, length, channels)"),
        ("delta_bias", delta_bias, (channels,), "(channels,)"),
        ("initial_state", initial_state, (batch, channels, state), "(batch, channels, state)"),
    ):
        if tensor is not None:
            check_tensor(name, tensor, shape, axes, u.device)
    chosen = choose_scan_backend(backend, u.device, _widest(u, delta, A, B, C)).backend
    if chosen == "reference":
        y, last_state = reference.selective_scan(
            u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, reverse
        )
    else:
        y, last_state = SelectiveScan.apply(  # type: ignore[no-untyped-call]
            importlib.import_module(CORES[chosen]),
            delta_softplus,
            reverse,
            initial_state,
            u,
            delta,
            A,
            B,
            C,
            D,
            z,
            delta_bias,
        )
    return (y, last_state) if return_last_state else y


def selective_state_update(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Take one step of `selective_scan`, for recurrent inference.

    Parameters
    ----------
    state
        (batch, channels, state), the state before the step; left as it is.
    u, delta, z
        (batch, channels).
    A, D, delta_bias, delta_softplus
        As in `selective_scan`.
    B, C
        (batch, state).

    Returns
    -------
    y (batch, channels) in u's dtype, and the new state (batch, channels, state).

    Raises
    ------
    UsageError
        For a tensor of the wrong shape, type or device.
    """
    batch, channels = check_axes("u", u, "(batch, channels)")
    _, n = check_axes("A", A, "(channels, state)")
    for name, tensor, shape, axes in (
        ("u", u, (batch, channels), "(batch, channels)"),
        ("state", state, (batch, channels, n), "(batch, channels, state)"),
        ("delta", delta, (batch, channels), "(batch, channels)"),
        ("A", A, (channels, n), "(channels, state)"),
        ("B", B, (batch, n), "(batch, state)"),
        ("C", C, (batch, n), "(batch, state)"),
        ("D", D, (channels,), "(channels,)"),
        ("z", z, (batch, channels), "(batch, channels)"),
        ("delta_bias", delta_bias, (channels,), "(channels,)"),
    ):
        if tensor is not None:
            check_tensor(name, tensor, shape, axes, u.device)
    return reference.selective_state_update(
        state, u, delta, A, B, C, D, z, delta_bias, delta_softplus
    )


def _widest(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else tensors[0].dtype
