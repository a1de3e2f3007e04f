"""The selective scan of Mamba-1: validation, choice of backend, and the public functions."""

import math
from typing import Literal, overload

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from dnamamba.errors import UsageError
from dnamamba.kernels.checks import check_axes, check_tensor
from dnamamba.kernels.dispatch import ALL_FUSED, fused_backend_for, scan_backend_for
from dnamamba.kernels.packing import check_sequence_index, sequence_starts
from dnamamba.kernels.scan import reference
from dnamamba.kernels.scan.autograd import scan
from dnamamba.kernels.scan.inputs import MAX_STATES, ScanInputs
from dnamamba.kernels.scan.update import update
from dnamamba.kernels.split import check_split, name_of

__all__ = ["selective_scan", "selective_state_update"]


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
    seq_idx: Tensor | None = None,
    backend: str = "auto",
    group: ProcessGroup | None = None,
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
    seq_idx: Tensor | None = None,
    backend: str = "auto",
    group: ProcessGroup | None = None,
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
    seq_idx: Tensor | None = None,
    backend: str = "auto",
    group: ProcessGroup | None = None,
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
        (batch, length, state); or (batch, length, groups, state), where channel d belongs to group
        d // (channels / groups); or constant, (channels, state). Each may have its own form.
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
    seq_idx
        (batch, length) int32 or int64, for rows in which several sequences are packed: where it
        changes from one step read to the next, the state starts from zero. The initial state is
        that of the first sequence read in each row, the last state that of the last.
    backend
        `auto`, or one of `dnamamba.kernels.dispatch.BACKENDS`.
    group
        Processes that hold one part of the sequence each, in order. All of them call this together,
        and differentiate together. `initial_state` is that of the part that is read first; the last
        state is that after this part.

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
    sequence = (batch, length, channels)
    for name, tensor, shape, axes in (
        ("u", u, sequence, "(batch, length, channels)"),
        ("delta", delta, sequence, "(batch, length, channels)"),
        ("A", A, (channels, state), "(channels, state)"),
        ("D", D, (channels,), "(channels,)"),
        ("z", z, sequence, "(batch, length, channels)"),
        ("delta_bias", delta_bias, (channels,), "(channels,)"),
        ("initial_state", initial_state, (batch, channels, state), "(batch, channels, state)"),
    ):
        if tensor is not None:
            check_tensor(name, tensor, shape, axes, u.device)
    for name, weight in (("B", B), ("C", C)):
        _check_weight(name, weight, u, state)
    split = name_of(group)
    if split:
        check_split(split, reverse=reverse, initial_state=initial_state, seq_idx=seq_idx)
    starts = None
    if seq_idx is not None:
        check_sequence_index(seq_idx, batch, length, u.device)
        starts = sequence_starts(seq_idx, reverse)
    B, C = _with_groups(B, C)
    inputs = ScanInputs(u, delta, A, B, C, D, z, delta_bias, starts, delta_softplus, reverse)
    dtype = torch.float64 if inputs.dtype == torch.float64 else u.dtype
    chosen = scan_backend_for(backend, u.device, dtype)
    if backend == "auto" and chosen == "triton" and state > MAX_STATES:
        chosen = "chunked"
    if chosen == "reference":
        if split:
            raise UsageError('backend "reference" scans whole sequences: leave group out')
        y, last_state = reference.selective_scan(inputs, initial_state)
    else:
        tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
        keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        y, last_state, _ = scan(*tensors, starts, delta_softplus, reverse, keep, chosen, split)
    return (y, last_state) if return_last_state else y


def _check_weight(name: str, weight: Tensor, u: Tensor, state: int) -> None:
    """Check B or C, in any of its forms."""
    batch, length, channels = u.shape
    if weight.dim() == 2:
        check_tensor(name, weight, (channels, state), "constant (channels, state)", u.device)
    elif weight.dim() == 4:
        groups = weight.shape[2]
        axes = "(batch, length, groups, state)"
        check_tensor(name, weight, (batch, length, groups, state), axes, u.device)
        _check_groups(name, groups, channels)
    else:
        check_tensor(name, weight, (batch, length, state), "(batch, length, state)", u.device)


def _check_groups(name: str, groups: int, channels: int) -> None:
    if groups == 0 or channels % groups:
        raise UsageError(f"{name} has {groups} groups, which do not divide {channels} channels")


def _with_groups(B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Give what varies an axis of groups, the same number of them in both."""
    varying = [weight.shape[2] if weight.dim() == 4 else 1 for weight in (B, C) if weight.dim() > 2]
    groups = math.lcm(*varying)

    def grouped(weight: Tensor) -> Tensor:
        if weight.dim() == 2:
            return weight
        weight = weight[:, :, None] if weight.dim() == 3 else weight
        repeats = groups // weight.shape[2]
        return weight if repeats == 1 else weight.repeat_interleave(repeats, dim=2)

    return grouped(B), grouped(C)


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
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Take one step of `selective_scan`, for recurrent inference; differentiable as it is.

    Parameters
    ----------
    state
        (batch, channels, state), the state before the step; left as it is.
    u, delta, z
        (batch, channels).
    A, D, delta_bias, delta_softplus
        As in `selective_scan`.
    B, C
        (batch, state), or (batch, groups, state).
    backend
        `auto`, or one of `dnamamba.kernels.dispatch.ALL_FUSED`. Triton takes up to 256 states;
        `auto` runs more in PyTorch.

    Returns
    -------
    y (batch, channels) in u's dtype, and the new state (batch, channels, state), fp32 or fp64.

    Raises
    ------
    UsageError
        For a tensor of the wrong shape, type or device, or a backend that cannot run here.
    """
    batch, channels = check_axes("u", u, "(batch, channels)")
    _, n = check_axes("A", A, "(channels, state)")
    for name, tensor, shape, axes in (
        ("u", u, (batch, channels), "(batch, channels)"),
        ("state", state, (batch, channels, n), "(batch, channels, state)"),
        ("delta", delta, (batch, channels), "(batch, channels)"),
        ("A", A, (channels, n), "(channels, state)"),
        ("D", D, (channels,), "(channels,)"),
        ("z", z, (batch, channels), "(batch, channels)"),
        ("delta_bias", delta_bias, (channels,), "(channels,)"),
    ):
        if tensor is not None:
            check_tensor(name, tensor, shape, axes, u.device)
    for name, weight in (("B", B), ("C", C)):
        if weight.dim() == 3:
            shape, axes = (batch, weight.shape[1], n), "(batch, groups, state)"
            _check_groups(name, weight.shape[1], channels)
        else:
            shape, axes = (batch, n), "(batch, state)"
        check_tensor(name, weight, shape, axes, u.device)
    B, C = _with_groups(B[:, None], C[:, None])
    tensors = (state, delta, A, B, C, D, z, delta_bias)
    chosen = fused_backend_for(backend, u, *tensors, backends=ALL_FUSED)
    if chosen == "numba" or (chosen == "triton" and n <= MAX_STATES):
        B, C = B[:, 0], C[:, 0]
        y, state = update(state, u, delta, A, B, C, D, z, delta_bias, delta_softplus, chosen)
        return y, state
    if backend == "triton":
        raise UsageError(
            f'A has shape {tuple(A.shape)}; backend "triton" takes up to {MAX_STATES} states'
        )
    z = None if z is None else z[:, None]
    inputs = ScanInputs(
        u[:, None], delta[:, None], A, B, C, D, z, delta_bias, None, delta_softplus, False
    )
    y, state = reference.selective_scan(inputs, state)
    return y[:, 0], state
