"""The scan of Mamba-2, state-space duality: validation, choice of backend, the public function."""

from typing import Literal, overload

import torch
from torch import Tensor

from dnamamba.errors import UsageError
from dnamamba.kernels.checks import check_axes, check_tensor
from dnamamba.kernels.packing import check_sequence_index, sequence_starts
from dnamamba.kernels.ssd import chunked, reference
from dnamamba.kernels.ssd.inputs import SsdInputs

BACKENDS = ("auto", "reference", "chunked")

__all__ = ["ssd_scan"]


@overload
def ssd_scan(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: Literal[False] = False,
    reverse: bool = False,
    seq_idx: Tensor | None = None,
    backend: str = "auto",
) -> Tensor: ...


@overload
def ssd_scan(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: Literal[True],
    reverse: bool = False,
    seq_idx: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def ssd_scan(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    reverse: bool = False,
    seq_idx: Tensor | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan h_t = exp(delta_t A) h_(t-1) + delta_t x_t B_t^T; y_t = h_t C_t + D x_t, by heads.

    Dao and Gu, "Transformers are SSMs: Generalized Models and Efficient Algorithms Through
    Structured State Space Duality" (arXiv 2405.21060). Computed in fp32 (fp64 where an input is
    fp64); differentiable in every tensor, the initial state included, and through the last state.

    Parameters
    ----------
    x
        (batch, length, heads, width), any floating-point type.
    delta
        (batch, length, heads).
    A
        (heads,), negative where the state is to decay.
    B, C
        (batch, length, groups, state); head h belongs to group h // (heads / groups).
    D
        (heads,), the skip; None leaves it out.
    delta_bias
        (heads,), added to delta first.
    delta_softplus
        Whether delta passes through softplus after its bias.
    initial_state
        (batch, heads, width, state), the state before the first step read; None is zero.
    return_last_state
        Whether to give back the state after the last step read.
    reverse
        Read from the last step to the first; the output keeps the input's order.
    seq_idx
        (batch, length) int32 or int64, for rows in which several sequences are packed; as in
        `dnamamba.kernels.selective_scan`.
    backend
        `auto`, `chunked`, or `reference`, which takes one step at a time.

    Returns
    -------
    y (batch, length, heads, width) in x's dtype; and the last state (batch, heads, width, state) in
    the working type if asked for.

    Raises
    ------
    UsageError
        For a shape, type or device that does not fit, naming the argument; an unknown backend.
    """
    if backend not in BACKENDS:
        raise UsageError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
    batch, length, heads, width = check_axes("x", x, "(batch, length, heads, width)")
    groups, state = check_axes("B", B, "(batch, length, groups, state)")[2:]
    if heads % groups:
        raise UsageError(f"B has {groups} groups, which do not divide x's {heads} heads")
    sized = {
        "x": (x, (batch, length, heads, width), "(batch, length, heads, width)"),
        "delta": (delta, (batch, length, heads), "(batch, length, heads)"),
        "A": (A, (heads,), "(heads,)"),
        "B": (B, (batch, length, groups, state), "(batch, length, groups, state)"),
        "C": (C, (batch, length, groups, state), "(batch, length, groups, state)"),
        "D": (D, (heads,), "(heads,)"),
        "delta_bias": (delta_bias, (heads,), "(heads,)"),
        "initial_state": (
            initial_state,
            (batch, heads, width, state),
            "(batch, heads, width, state)",
        ),
    }
    for name, (tensor, shape, axes) in sized.items():
        if tensor is not None:
            check_tensor(name, tensor, shape, axes, x.device)
    if seq_idx is not None:
        check_sequence_index(seq_idx, batch, length, x.device)
    starts = None if seq_idx is None else sequence_starts(seq_idx, reverse)
    inputs = SsdInputs(x, delta, A, B, C, D, delta_bias, starts, delta_softplus, reverse)
    scan = reference.ssd_scan if backend == "reference" else chunked.ssd_scan
    with torch.autocast(x.device.type, enabled=False):
        y, last_state = scan(inputs, initial_state)
    return (y, last_state) if return_last_state else y
